"""The summary in words; it claims no more than the intervals allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flanlab.report.reading import TUNED, RunFiles
from flanlab.report.wording import (
    amount,
    average_chance,
    cluster_title,
    counted,
    headline_metrics,
    listed,
    metric_title,
    number,
    parameters,
    signed,
    task_headlines,
)
from flanlab.results.schema import Difference, Results, Score

_FEW = 3
"""So many tasks are told of one by one; more are counted."""
_GLOSSES = {
    "valid_answers": "a reply is valid when it is one of the answers offered, right or wrong",
    "exact_match": "a reply matches when it is the right answer, word for word",
    "accuracy": "ranking asks which of the offered answers the model finds likeliest",
}
"""What a metric means, said once."""
_LEVEL = "95\N{NARROW NO-BREAK SPACE}%"
_POWER = "80\N{NARROW NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Sentence:
    """A sentence of the summary; `lead` begins it and is set in bold."""

    text: str
    lead: str = ""

    def __str__(self) -> str:
        return self.lead + self.text


def summary(run: RunFiles) -> list[Sentence]:
    """The run in one paragraph: what was done, then each headline metric before and after, or as it is."""
    results = run.results
    sentences = [Sentence(text) for text in (_training(run) if TUNED in results.variants else _evaluation(results))]
    seen = [name for name, task in results.tasks.items() if task.seen]
    if seen:
        text = f"This is no zero-shot result: training has shown the model {_some(seen)}, or what is close."
        sentences.append(Sentence(text))
    for metric in headline_metrics(results):
        sentences += _metric(results, metric)
    sentences += _in_domain(results)
    untuned = [name for name in results.variants if not name.startswith(TUNED)]
    if len(untuned) > 1 and TUNED in results.variants:
        sentences.append(Sentence("“Before” is the untuned model asked in whichever way suits it better, measure by measure."))
    return sentences


def _training(run: RunFiles) -> Iterable[str]:
    results = run.results
    trained_on = results.variants[TUNED].trained_on or {}
    kinds = list(dict.fromkeys(cluster_title(cluster) for cluster in trained_on.values()))
    named = kinds if len(kinds) <= _FEW + 1 else [*kinds[:_FEW], f"{len(kinds) - _FEW} more"]
    extent = ""
    if run.steps:
        examples = sum(step.examples for step in run.steps)
        extent = f", on {counted(examples, 'example')} in {counted(len(run.steps), 'step')}"
    elif run.mixture:
        extent = f", on {counted(run.mixture.planned_examples, 'example')}"
    yield (
        f"{_model(results)} was tuned on {counted(len(trained_on), 'task')} of {counted(len(kinds), 'kind')}"
        f" ({listed(named)}){extent}."
    )
    held_out = [cluster_title(cluster) for cluster in results.hold_out]
    if held_out:
        yield (
            f"{'One kind of task was' if len(held_out) == 1 else f'{len(held_out)} kinds of task were'} held out,"
            f" {listed(held_out)}: {_some(results.averaged)}, the same rows before and after."
        )
    if results.in_domain:
        yield f"Scored in-domain, on test rows of tasks that it was trained on: {_some(results.in_domain)}."
    overlaps = list(results.allowed_overlaps)
    if overlaps:
        yield f"Not all of that is new to it: it was trained on {_some(overlaps)}, which the hold-out would leave out."


def _evaluation(results: Results) -> Iterable[str]:
    yield f"{_model(results)} was evaluated on {_some(results.tasks)}."
    if trained_on := next(iter(results.variants.values())).trained_on:
        yield f"It had been tuned on {counted(len(trained_on), 'task')} before."


def _model(results: Results) -> str:
    model = next(iter(results.variants.values()))
    size = f" ({parameters(model.parameters)} parameters)" if model.parameters else ""
    return f"The model {model.model}{size}"


def _some(names: Iterable[str]) -> str:
    """Few tasks by name, many by number."""
    names = list(names)
    return listed(names) if len(names) <= 2 * _FEW else f"{len(names)} tasks"


def _metric(results: Results, metric: str) -> Iterable[Sentence]:
    """What to say of one metric: its average where there is one, else the tasks it judges."""
    tasks = {name: task for name, task in results.averaged.items() if metric in task.metrics}
    average = results.scored("tasks", None, metric)
    gloss = f"; {_GLOSSES[metric]}" if metric in _GLOSSES else ""
    if average and len(tasks) > 1:
        compared = results.difference("tasks", None, metric)
        yield _told(
            results,
            metric,
            f" on average over {len(tasks)} tasks",
            average,
            compared,
            average_chance(results),
            gloss,
        )
        if compared:
            yield from _against_the_average({name: results.difference("task", name, metric) for name in tasks}, compared)
        return
    judged = {name: task for name, task in tasks.items() if metric in task_headlines(task)}
    differences = [row for name in judged if (row := results.difference("task", name, metric))]
    if _FEW < len(judged) == len(differences):
        yield _tally(differences, metric_title(results, metric))
        return
    for name, task in judged.items():
        where = f" on {name}" if len(results.tasks) > 1 else ""
        scores, compared = results.scored("task", name, metric), results.difference("task", name, metric)
        yield _told(results, metric, where, scores, compared, task.chance, gloss)
        gloss = ""


def _in_domain(results: Results) -> Iterable[Sentence]:
    """The means over in-domain tasks, where they stand beside zero-shot ones."""
    for metric in headline_metrics(results):
        scores, compared = results.scored("in_domain", None, metric), results.difference("in_domain", None, metric)
        if scores and compared:
            where = f" on average over {counted(len(results.in_domain), 'in-domain task')}"
            yield _told(results, metric, where, scores, compared, None, "")


def _told(
    results: Results,
    metric: str,
    where: str,
    scores: Mapping[str, Score],
    compared: Difference | None,
    chance: float | None,
    gloss: str,
) -> Sentence:
    subject = metric_title(results, metric)
    if metric != "accuracy":
        chance = None
    if compared is None:
        return _as_it_is(results, metric, f"{subject}{where}", scores, chance, gloss)
    before, after = scores[compared.before], scores[compared.after]
    first, second = amount(metric, before.mean), amount(metric, after.mean)
    low, high = compared.interval
    difference = f"difference {signed(compared.difference)} points, {_LEVEL} interval {signed(low)} to {signed(high)}"
    if compared.is_clear:
        lead = f"{subject} {'rose' if low > 0 else 'fell'} from {first} to {second}"
        text = f"{where} ({difference}){gloss}."
    else:
        lead = f"{subject}: no clear difference"
        if compared.detectable is not None:
            difference += f"; {number(compared.detectable)} points would have been detected with {_POWER} power"
        text = f"{where}: {first} before, {second} after ({difference}){gloss}."
    if chance is not None:
        text += f" Guessing would reach {amount(metric, chance)}: {_against_chance(before, after, chance)}."
    return Sentence(text, lead)


def _as_it_is(
    results: Results, metric: str, subject: str, scores: Mapping[str, Score], chance: float | None, gloss: str
) -> Sentence:
    told = []
    for variant, score in scores.items():
        low, high = score.interval
        text = f"{amount(metric, score.mean)} ({_LEVEL} interval {number(low)} to {number(high)})"
        if chance is not None:
            text += f", {_beside(score, chance)} the {amount(metric, chance)} of guessing"
        told.append(f"{results.variants[variant].title}: {text}" if len(scores) > 1 else text)
    return Sentence(f" {'; '.join(told)}{gloss}.", f"{subject}:")


def _against_chance(before: Score, after: Score, chance: float) -> str:
    first, second = _beside(before, chance), _beside(after, chance)
    if first == second:
        return f"before and after, the model is {second} that"
    return f"before, the model was {first} that; after, it is {second} it"


def _beside(score: Score, chance: float) -> str:
    low, high = score.interval
    return "clearly above" if low > chance else "clearly below" if high < chance else "not clearly apart from"


def _against_the_average(tasks: Mapping[str, Difference | None], average: Difference) -> Iterable[Sentence]:
    """Tasks that clearly changed otherwise than the average, which must not hide them."""
    told = []
    for verb, sign in (("rose", 1), ("fell", -1)):
        names = [name for name, row in tasks.items() if row and row.is_clear and row.difference * sign > 0]
        if names and not (average.is_clear and average.difference * sign > 0):
            told.append(f"clearly {verb} on {_some(names)}")
    if told:
        yield Sentence(f"Of the single tasks, it {listed(told)}.")


def _tally(compared: Sequence[Difference], title: str) -> Sentence:
    rose = sum(one.is_clear and one.difference > 0 for one in compared)
    fell = sum(one.is_clear and one.difference < 0 for one in compared)
    return Sentence(
        f" clearly rose on {rose} of {len(compared)} tasks, clearly fell on {fell}, and shows no clear difference on"
        f" {len(compared) - rose - fell}, each judged by its own {_LEVEL} interval.",
        title,
    )
