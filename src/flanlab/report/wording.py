"""Numbers and names as people read them, and which metrics a task is judged by."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from string import ascii_uppercase

from markupsafe import Markup

from flanlab.results.schema import IN_DOMAIN, MEAN, Difference, Results, Score, TaskFacts, Variant

CLASSIFICATION_METRICS = ("valid_answers", "exact_match", "accuracy")
"""What is told of a task with options: does it answer at all, is the answer right, is the right option ranked first."""
MEAN_OVER_CLUSTERS = "mean over clusters"
"""The line beneath all clusters, wherever scores are listed."""
PERCENT = {
    *CLASSIFICATION_METRICS,
    "accuracy_per_token",
    "accuracy_per_byte",
    "accuracy_pmi",
    "answer_probability",
    "multirc_exact_match",
}
"""Metrics that are a share of questions or a probability."""
_FEW = 6
"""So many tasks are told of by name."""
_SPACE = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_EXPLANATIONS = {
    "valid_answers": "Answers that are one of those offered, right or wrong: did the model do what it was asked?",
    "exact_match": "Answers that are the right one, word for word (case, punctuation and articles aside).",
    "accuracy": "Questions where the right answer has the highest probability of those offered (rank classification).",
    "answer_probability": "Probability given to the right answer, of those offered.",
    "f1": "Words shared with the right answer (harmonic mean of precision and recall), times 100.",
    "rouge1": "Single words shared with a reference (F-measure), times 100.",
    "rouge2": "Word pairs shared with a reference (F-measure), times 100.",
    "rougeL": "Longest common sequence of words with a reference (F-measure), times 100.",
    "bleu": "Corpus BLEU of the generated text against the references (0 to 100).",
}


def column_letters() -> Iterator[str]:
    """Names of columns: A to Z, AA, AB, ..."""
    return ("".join(of) for length in itertools.count(1) for of in itertools.product(ascii_uppercase, repeat=length))


def number(value: float) -> str:
    """A share as a number from 0 to 100 with one decimal; more where it would look like zero and is not."""
    points = value * 100
    text = f"{points:.1f}"
    if float(text) == 0:
        text = f"{points:.1g}" if abs(points) >= 1e-4 else "0.0"
    return text.replace("-", _MINUS) if float(text) else text.lstrip("-")


def signed(value: float) -> str:
    """A difference of shares in points, with its sign."""
    text = number(value)
    return text if text.startswith(_MINUS) or text == "0.0" else f"+{text}"


def count(value: float) -> str:
    """A whole number with thousands apart."""
    return f"{value:,.0f}".replace(",", _SPACE)


def amount(metric: str, value: float) -> str:
    """A score as people know it: with a percent sign, or as bare points for F1, ROUGE and BLEU."""
    return number(value) + (f"{_SPACE}%" if metric in PERCENT else "")


def explanation(results: Results, metric: str) -> str:
    """What a metric measures, in words: ours for the common ones, else as results.json defines it."""
    defined = (task.metrics[metric].definition for task in results.tasks.values() if metric in task.metrics)
    return _EXPLANATIONS.get(metric) or next(defined, "")


def counted(items: int, noun: str) -> str:
    """A number of things: 1 task, 15 tasks."""
    return f"{count(items)} {noun}{'' if items == 1 else 's'}"


def cluster_title(name: str) -> str:
    """A cluster's name as a person would write it."""
    return {"closed_book_qa": "closed-book QA", "struct_to_text": "struct-to-text"}.get(name, name.replace("_", " "))


def capital(text: str) -> str:
    """A text that begins with a capital."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """Names as prose: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def parameters(value: float) -> str:
    """Size of a model: 135 million, 1.7 billion."""
    if value >= 1e9:
        return f"{value / 1e9:.1f} billion"
    return f"{value / 1e6:.0f} million" if value >= 1e6 else count(value)


def some(names: Iterable[str]) -> str:
    """Few tasks by name, many by number."""
    names = list(names)
    return listed(names) if len(names) <= _FEW else f"{len(names)} tasks"


def seen_told(marks: Mapping[str, Mapping[str, str]], unknown: Sequence[str]) -> Iterable[str]:
    """Sentences for each side or column on the tasks that its scores are marked on, and one on those that do not say."""
    for name, marked in marks.items():
        in_domain = [task for task, mark in marked.items() if mark == IN_DOMAIN]
        if seen := [task for task, mark in marked.items() if mark and mark != IN_DOMAIN]:
            yield f"{name} was trained on {some(seen)}, or on something close: its scores there are not zero-shot."
        if in_domain:
            yield f"{name} was trained on train rows of {some(in_domain)}: its scores there are in-domain, not zero-shot."
    if unknown:
        yield without_stamp(unknown)


def without_stamp(names: Sequence[str]) -> str:
    """Of models that do not say what they were trained on; empty where there are none."""
    verbs = ("have", "they carry") if len(names) > 1 else ("has", "it carries")
    return f"Whether {listed(names)} {verbs[0]} seen these tasks is unknown: {verbs[1]} no stamp." if names else ""


def probability(value: float) -> str:
    """A p-value as people read it."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def interval_told(one: Difference) -> str:
    """The interval of a difference."""
    return f"95 % interval {signed(one.low)} to {signed(one.high)}{'' if one.is_clear else ', which includes zero'}"


def interval_notes(results: Results) -> list[str]:
    """What to know of the intervals, each with their number, the commonest first. A mean over one task repeats it."""
    rows: list[Score | Difference] = [*(row for row in results.scores if row.template == MEAN), *results.differences]
    told = [row for row in rows if row.level == "task" or results.members(row.level, row.name, row.metric) > 1]
    found = Counter(one for row in told for one in row.note.split("; ") if one)
    return [f"{counted(times, 'interval')}{'' if cannot(one) else ':'} {one}." for one, times in found.most_common()]


def cannot(note: str) -> bool:
    """Whether a note says that there is no interval."""
    return "cannot be estimated" in note


def unclear_told(one: Difference) -> str:
    """What a difference that is not clear leaves open, each sentence after a space: how large a one would have been seen, and,
    where that was asked, whether the two are the same. Empty for a clear one, unless it is too small to matter."""
    told = ""
    if not one.is_clear:
        size = "No difference, however large," if one.detectable is None else f"A difference of {number(one.detectable)} points"
        told += f" {size} would have been detected with 80 % power."
    if one.margin is not None and one.p_equivalence is not None and (one.is_equivalent or not one.is_clear):
        shown = "equivalent" if one.is_equivalent else "not shown to be equivalent"
        told += f" The two are {shown} within {number(one.margin)} points (p = {probability(one.p_equivalence)})."
    return told


def unknown_models(variants: Mapping[str, Variant]) -> str:
    """Says of which models nothing tells what they have seen; empty where all carry a stamp."""
    stamped = [variant.stamped for variant in variants.values()]
    return without_stamp([] if all(stamped) else ["the untuned model" if any(stamped) else "the model"])


def breakable(name: str) -> Markup:
    """A name that may be broken after each underscore."""
    return Markup("_<wbr>").join(Markup.escape(part) for part in name.split("_"))


def metric_title(results: Results, metric: str) -> str:
    """A metric's title, from the first task that has it, beginning with a capital."""
    title = next(task.metrics[metric].title for task in results.tasks.values() if metric in task.metrics)
    return "Ranking accuracy" if metric == "accuracy" else capital(title)


def headline_metrics(tasks: Collection[TaskFacts]) -> list[str]:
    """The metrics by which tasks are judged: the three of classification, then the main ones of generation tasks."""
    choices = [
        metric for metric in CLASSIFICATION_METRICS if any(task.is_classification and metric in task.metrics for task in tasks)
    ]
    return list(dict.fromkeys([*choices, *(task.main_metric for task in tasks)]))


def all_metrics(tasks: Collection[TaskFacts]) -> list[str]:
    """All metrics, the ones that tasks are judged by first."""
    return list(dict.fromkeys([*headline_metrics(tasks), *(one for task in tasks for one in task.metrics)]))
