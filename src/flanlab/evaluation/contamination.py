"""Which evaluation rows a corpus holds parts of, after GPT-3's analysis (Brown et al. 2020, appendix C).

A row overlaps where any n-gram of its text occurs in the corpus. A text shorter than n words is looked for whole, down to
`SHORTEST` words; below that a match would say nothing, and the row is counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from flanlab.data.ngrams import Hashes, Integers, Piece, Search, ngram_hashes, search, words
from flanlab.data.rendering import prepare_row, render
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.groups import groups_of
from flanlab.evaluation.metrics.metric import Prediction
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.scores import score_task
from flanlab.results.intervals import critical
from flanlab.results.predictions import read_records
from flanlab.results.schema import MEAN, Score
from flanlab.tasks.schema import Task, Template
from flanlab.tasks.templating import variables_in

SHORTEST = 8
"""Words of the shortest n-gram that is looked for: shorter ones are found anywhere (GPT-3 has the same bound)."""
COMPARED = ("input", "input_and_answer")
FrequentIn = Literal["evaluation", "corpus", "nowhere"]

CONTAMINATION_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("row", pa.int32()),
        ("n", pa.int32()),
        ("compared", pa.string()),
        ("words", pa.int32()),
        ("verdict", pa.string()),
        ("only_frequent", pa.bool_()),
        ("ngram", pa.string()),
        ("file", pa.string()),
        ("place", pa.string()),
        ("documents", pa.int64()),
    ]
)
"""A row for each evaluation row, n and text compared. `verdict` is overlapping, clean or too short. For an overlapping one,
the first of its n-grams that the corpus holds, where it holds it first, and in how many documents. `only_frequent`: clean, but
the corpus holds n-grams of it that are ignored as frequent."""


@dataclass(frozen=True)
class EvaluatedRow:
    """The text of an evaluation row that is looked for."""

    task: str
    row: int
    fields: tuple[str, ...]
    """The inputs that the task's forward templates show."""
    answer: str

    def text(self, compared: str) -> str:
        """What is compared: the input, or input and answer."""
        return "\n".join(self.fields if compared == "input" else (*self.fields, self.answer))


def evaluated_rows(task: Task, rows: Rows, chosen: Iterable[int]) -> list[EvaluatedRow]:
    """The chosen rows of a task, with the fields that any forward template shows, in the task's order.

    The answer is in the words of the task's first forward template that has none of its own.
    """
    forward = [task.templates[number - 1] for number in task.forward_templates()]
    shown = frozenset().union(*(variables_in(template.prompt) for template in forward))
    plain = next((number for number in task.forward_templates() if _is_plain(task.templates[number - 1])), None)
    found = []
    for index in chosen:
        prepared = prepare_row(task, rows[index], index)
        fields = tuple(_text(prepared.fields[name]) for name in prepared.fields if name in shown)
        answer = render(task, plain or task.forward_templates()[0], prepared).target
        found.append(EvaluatedRow(task.name, index, fields, answer))
    return found


def find_overlaps(
    rows: Sequence[EvaluatedRow],
    pieces: Iterable[Piece],
    sizes: Sequence[int],
    *,
    frequent: int = 10,
    frequent_in: FrequentIn = "evaluation",
) -> tuple[pa.Table, Search]:
    """Look for the rows' n-grams in a corpus, which is read once.

    Args:
        rows: the evaluation rows, of all tasks.
        pieces: the corpus.
        sizes: the n of the n-grams, each at least SHORTEST.
        frequent: an n-gram in more places than this is ignored.
        frequent_in: whether places are those of the evaluation rows (in fields that differ: a passage that ten questions
            share is one place) or, as in GPT-3's filtering, documents of the corpus.

    Returns:
        A table of CONTAMINATION_SCHEMA, and what was found of each n-gram.
    """
    texts = [(row, compared, words(row.text(compared))) for row in rows for compared in COMPARED]
    entries = [
        _Entry(row, size, compared, found, _sought_length(len(found), size)) for row, compared, found in texts for size in sizes
    ]
    grams = [next(ngram_hashes(entry.words, [entry.length]))[1] if entry.length else _NONE for entry in entries]
    wanted: dict[int, list[Hashes]] = {}
    for entry, hashes in zip(entries, grams, strict=True):
        wanted.setdefault(entry.length, []).append(hashes)
    wanted.pop(0, None)
    read = search({length: np.concatenate(hashes) for length, hashes in wanted.items()}, pieces)
    ignored = _frequent(rows, read, frequent, frequent_in)
    records = [entry.record(hashes, read, ignored) for entry, hashes in zip(entries, grams, strict=True)]
    return pa.Table.from_pylist(records, schema=CONTAMINATION_SCHEMA), read


def summarize(table: pa.Table) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """Counts of rows, task -> n -> what is compared -> rows, overlapping, clean, too_short, only_frequent."""
    summary: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for record in table.to_pylist():
        counts = (
            summary.setdefault(record["task"], {})
            .setdefault(str(record["n"]), {})
            .setdefault(record["compared"], dict.fromkeys(("rows", "overlapping", "clean", "too_short", "only_frequent"), 0))
        )
        counts["rows"] += 1
        counts[record["verdict"].replace(" ", "_")] += 1
        counts["only_frequent"] += record["only_frequent"]
    return summary


def scores_apart(
    task: Task, variants: Mapping[str, Path], settings: EvaluationSettings, table: pa.Table, size: int
) -> dict[str, Any]:
    """A task's scores on all evaluated rows, on the clean and on the overlapping ones (by their input, at one n).

    Rows that belong together stay together: a group is overlapping where any row of it is, and clean where all are.

    Args:
        task: whose predictions.
        variants: name of each variant to the folder of its predictions.
        settings: as the predictions were made.
        table: as from `find_overlaps`.
        size: the n.

    Returns:
        Main metric, titles of the metrics, and for `all`, `clean` and `overlapping` the number of rows and the scores
        (metric -> variant -> mean and interval); no scores where there is no such row. `clean_minus_all`, if there are clean
        rows: by the main metric, variant -> difference and interval (null where it cannot be estimated).
    """
    predictions = {name: read_records(folder) for name, folder in variants.items()}
    rows_by_verdict = _rows_by_verdict(task, table, size, next(iter(predictions.values())))
    result: dict[str, Any] = {}
    means: dict[str, dict[str, Score]] = {}
    for subset in ("all", "clean", "overlapping", "not clean"):
        kinds = {"all": rows_by_verdict, "not clean": ("overlapping", "too short")}.get(subset, (subset,))
        rows = [row for verdict in kinds for row in rows_by_verdict[verdict]]
        told = result.setdefault(subset, {"rows": len(rows)}) if subset != "not clean" else {}
        if not rows:
            continue
        chosen = frozenset(rows)
        kept = {name: [one for one in found if one["row"] in chosen] for name, found in predictions.items()}
        scored = score_task(task, kept, end_token=settings.end_token)
        titles = {name: metric.title for name, metric in scored.facts.metrics.items()}
        main = scored.facts.main_metric
        result |= {"main_metric": main, "metrics": titles}
        means_over_templates = [score for score in scored.scores if score.template == MEAN]
        means[subset] = {score.variant: score for score in means_over_templates if score.metric == main}
        scores: dict[str, dict[str, Any]] = {metric: {} for metric in titles}
        for score in means_over_templates:
            scores[score.metric][score.variant] = {"mean": score.mean, "interval": list(score.interval)}
        told["scores"] = scores
    if "clean" in means:
        result["clean_minus_all"] = {
            name: _clean_minus_all(clean, means["all"][name], means.get("not clean", {}).get(name))
            for name, clean in means["clean"].items()
        }
    return result


def _clean_minus_all(clean: Score, whole: Score, others: Score | None) -> dict[str, float | None]:
    """Clean rows are among all, so that the difference is that of clean and other rows, times the others' share of rows."""
    difference = clean.mean - whole.mean
    if others is None:
        return {"difference": 0.0, "low": 0.0, "high": 0.0}
    fewest = min(clean.rows, others.rows)
    if clean.standard_error is None or others.standard_error is None or fewest < 2:
        return {"difference": difference, "low": None, "high": None}
    half = float(critical(fewest - 1)) * math.hypot(clean.standard_error, others.standard_error) * others.rows / whole.rows
    return {"difference": difference, "low": difference - half, "high": difference + half}


def _rows_by_verdict(task: Task, table: pa.Table, size: int, predictions: Sequence[Prediction]) -> dict[str, list[int]]:
    verdicts = {
        record["row"]: record["verdict"]
        for record in table.select(["task", "row", "n", "compared", "verdict"]).to_pylist()
        if (record["task"], record["n"], record["compared"]) == (task.name, size, "input")
    }
    rows_by_verdict: dict[str, list[int]] = {"overlapping": [], "too short": [], "clean": []}
    for unit in groups_of(predictions).values():
        rows = list(dict.fromkeys(prediction["row"] for prediction in unit))
        # The first that any of them has: too short to tell, where the others are clean.
        verdict = next(verdict for verdict in rows_by_verdict if any(verdicts[row] == verdict for row in rows))
        rows_by_verdict[verdict] += rows
    return rows_by_verdict


def refuse_other_rows(task: Task, rows: Rows, predictions: pa.Table) -> None:
    """Make sure that predictions were made of these very rows: their prompts must begin as the rows are rendered now.

    Raises:
        FlanlabError: the task or its rows have changed since, or are other ones.
    """
    for record in predictions.select(["row", "template", "prompt", "shortened"]).to_pylist():
        index = record["row"]
        same = index < len(rows) and (
            record["shortened"]
            or record["prompt"].startswith(render(task, record["template"], prepare_row(task, rows[index], index)).prompt)
        )
        if not same:
            raise FlanlabError(
                f"{task.name}, row {index}, template {record['template']}: the prediction was made of another row or template.",
                hint="Evaluate again, or name the tasks and rows that the predictions were made of (--tasks, --mirror).",
            )


@dataclass(frozen=True)
class _Entry:
    """One text of a row, at one n."""

    row: EvaluatedRow
    size: int
    compared: str
    words: list[str]
    length: int
    """Words of the n-grams looked for: n, or all words of a shorter text; 0 where it is too short."""

    def record(self, hashes: Hashes, read: Search, ignored: Mapping[int, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {
            "task": self.row.task,
            "row": self.row.row,
            "n": self.size,
            "compared": self.compared,
            "words": len(self.words),
            "verdict": "clean" if self.length else "too short",
            "only_frequent": False,
        }
        if not self.length:
            return record
        found = read.found[self.length]
        numbers = found.positions(hashes)
        held = found.documents[numbers] > 0
        counted = held & ~ignored[self.length][numbers]
        if counted.any():
            at = int(np.argmax(counted))
            file, place = found.first[numbers[at]] or ("", "")
            record |= {
                "verdict": "overlapping",
                "ngram": " ".join(self.words[at : at + self.length]),
                "file": file,
                "place": place,
                "documents": int(found.documents[numbers[at]]),
            }
        else:
            record["only_frequent"] = bool(held.any())
        return record


_NONE: Hashes = np.array([], dtype=np.uint64)


def _sought_length(count: int, size: int) -> int:
    return min(count, size) if count >= SHORTEST else 0


def _frequent(rows: Sequence[EvaluatedRow], read: Search, most: int, where: FrequentIn) -> dict[int, Any]:
    """For each length, which of its n-grams are in more than `most` places, bool [n-grams]."""
    if where == "corpus":
        return {length: found.documents > most for length, found in read.found.items()}
    places: dict[int, Integers] = {length: np.zeros(len(found.hashes), dtype=np.int64) for length, found in read.found.items()}
    if where == "evaluation":
        for text in {" ".join(words(field)) for row in rows for field in row.fields}:
            for length, hashes in ngram_hashes(text.split(), places):
                found = read.found[length]
                numbers = np.minimum(found.positions(hashes), len(found.hashes) - 1)
                np.add.at(places[length], numbers[found.hashes[numbers] == hashes], 1)
    return {length: count > most for length, count in places.items()}


def _is_plain(template: Template) -> bool:
    return template.options is None and template.target == Template.model_fields["target"].default


def _text(value: Any) -> str:
    return "\n".join(_leaves(value))


def _leaves(value: Any) -> Iterator[str]:
    """The texts of a field, which may be a list or nested."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif value is not None:
        yield str(value)
