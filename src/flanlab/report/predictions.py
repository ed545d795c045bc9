"""Saved predictions as pages show them: which are right, what was ranked where, examples, and how a classifier errs.

Examples are chosen by rule: three right and three wrong ones of each task, spread over its templates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from flanlab.errors import FlanlabError
from flanlab.evaluation.classification import calibration, calibration_error, confusion, per_class
from flanlab.evaluation.metrics.answers import exact_match
from flanlab.evaluation.metrics.declared import normal_form
from flanlab.evaluation.metrics.options import accuracy, chosen_option, option_scores, option_shares, right_options
from flanlab.report.page import Block, Cell, Facts, Group, Row, Table, Verbatim, exact, plain, text
from flanlab.report.wording import count, number
from flanlab.results.grids import Prediction
from flanlab.results.schema import TUNED, Results

_ANSWER = ["options", "option_scores", "references", "generated"]
_EACH = 3
_MOST_CLASSES = 12
"""A larger table shows nothing at a glance: then precision and recall alone."""
_PREVIEW = 220
"""Characters of a prompt that are shown before a click."""


@dataclass(frozen=True)
class RankedOption:
    """An option with its share of the probability of all options, 0 to 1."""

    option: str
    probability: float
    is_right: bool


def ranked_options(prediction: Prediction) -> list[RankedOption]:
    """The options, the likeliest first; empty where none were ranked."""
    if not prediction["option_scores"]:
        return []
    shares = option_shares(option_scores(prediction)).tolist()
    right = right_options(prediction)
    ranked = [
        RankedOption(option, share, place in right)
        for place, (option, share) in enumerate(zip(prediction["options"], shares, strict=True))
    ]
    return sorted(ranked, key=lambda one: -one.probability)


def is_right(prediction: Prediction, metrics: Sequence[str]) -> bool:
    """Whether the option ranked first is a right one; where nothing was ranked, whether the answer counts as an exact match.

    Args:
        prediction: of a task.
        metrics: that the task declares: each data set has its own rule of what is the same answer.
    """
    if prediction["option_scores"]:
        return accuracy(prediction) == 1
    form = normal_form(metrics, bool(prediction["options"]))
    return prediction["generated"] is not None and exact_match(prediction, form) == 1


def prediction_text(prediction: Prediction) -> str | None:
    """The option ranked first; where nothing was ranked, the generated text."""
    ranked = prediction["option_scores"]
    said: str | None = prediction["options"][chosen_option(prediction)] if ranked else prediction["generated"]
    return said


def which_are_right(predictions: pa.Table, metrics: Sequence[str]) -> NDArray[np.bool_]:
    """`is_right` of each row of a table of predictions; of 100,000 that rank options, in a moment."""
    is_ranked = pc.list_value_length(predictions["option_scores"]).fill_null(0).to_numpy() > 0
    right = np.zeros(len(predictions), bool)
    right[is_ranked] = _ranked_right_first(predictions.filter(pa.array(is_ranked)))
    others = predictions.select(_ANSWER).filter(pa.array(~is_ranked)).to_pylist()
    right[~is_ranked] = [is_right(one, metrics) for one in others]
    return right


def _ranked_right_first(predictions: pa.Table) -> NDArray[np.bool_]:
    lists = predictions["option_scores"].combine_chunks()
    scores, owners = lists.flatten().to_numpy(), pc.list_parent_indices(lists).to_numpy()
    # By owner, then the highest score, then the first place: as `numpy.argmax`, which takes a NaN for the highest.
    order = np.lexsort((-np.nan_to_num(scores, nan=np.inf), owners))
    chosen = order[np.searchsorted(owners[order], np.arange(len(predictions)))]
    said = predictions["options"].combine_chunks().flatten().take(pa.array(chosen))
    references = predictions["references"].combine_chunks()
    asked = pc.list_parent_indices(references)
    hits = pc.equal(references.flatten(), said.take(asked)).to_numpy(zero_copy_only=False)
    right = np.zeros(len(predictions), bool)
    right[asked.to_numpy()[hits]] = True
    return right


def example_sections(results: Results, shown: str, records: Mapping[str, Sequence[Prediction]] | None) -> Iterable[Block]:
    """Examples of each task, by a variant; None: they may not be passed on."""
    if records is None:
        yield text("no_examples")
        return
    if not records:
        yield "The folder holds no predictions to show."
        return
    whose = "the tuned model" if shown == TUNED else f"the model asked with the {results.variants[shown].title}"
    yield text("examples", whose=whose)
    for place, (name, predictions) in enumerate(records.items()):
        blocks = list(example_blocks(predictions, results.tasks[name].declared_metrics))
        yield Group(name, blocks, "fold open" if place == 0 else "fold")


def example_blocks(records: Sequence[Prediction], metrics: Sequence[str]) -> Iterable[Block]:
    """Examples of a task that declares these metrics: right ones, then wrong ones."""
    sides: dict[bool, list[Prediction]] = {True: [], False: []}
    for record in records:
        sides[is_right(record, metrics)].append(record)
    right, wrong = sides.values()
    chosen = spread(right, _EACH)
    others = spread(wrong, _EACH, frozenset(record["row"] for record in chosen))
    ranked = bool(records[0]["option_scores"])
    told = (
        ("Ranked the right answer first", "Ranked another answer first")
        if ranked
        else ("Generated a reference, word for word", "Generated other words than every reference")
    )
    for title, kind, some, total in zip(told, ("right", "wrong"), (chosen, others), (right, wrong), strict=True):
        yield f"{title} ({count(len(total))} of {count(len(records))})" + ("" if some else ": none")
        yield from (_example(record, kind) for record in some)


def spread(records: Sequence[Prediction], wanted: int, taken: frozenset[int] = frozenset()) -> list[Prediction]:
    """Choose up to `wanted` records: evenly spaced templates, and of each the first row not in `taken` or shown."""
    by_template: dict[int, list[Prediction]] = {}
    for record in sorted(records, key=lambda record: (record["template"], record["row"])):
        by_template.setdefault(record["template"], []).append(record)
    templates = list(by_template)
    chosen: list[Prediction] = []
    rows = set(taken)
    for turn in range(min(wanted, len(records))):
        if len(templates) >= wanted:
            left = by_template[templates[round(turn * (len(templates) - 1) / max(1, wanted - 1))]]
        else:
            filled = [template for template in templates if by_template[template]]
            left = by_template[filled[turn % len(filled)]]
        record = next((record for record in left if record["row"] not in rows), left[0])
        left.remove(record)
        rows.add(record["row"])
        chosen.append(record)
    return chosen


def _example(record: Prediction, kind: str) -> Group:
    """What was said and the beginning of the prompt; the rest on a click."""
    ranked = ranked_options(record)
    said = ranked[0].option if ranked else record["generated"] or "nothing"
    prompt = record["prompt"]
    preview = prompt if len(prompt) <= _PREVIEW else f"{prompt[:_PREVIEW]} …"
    title = Markup('<span class="source">Template {}, row {}</span> <q>{}</q> <span class="preview">{}</span>').format(
        record["template"], record["row"], said, preview
    )
    right = Markup(" or ").join(Markup("<q>{}</q>").format(one) for one in record["references"])
    facts: dict[str, str | Markup] = {"Right answer": right}
    if ranked:
        share = Markup("{} {}\u202f%")
        facts["Ranked"] = Markup("\n").join(share.format(one.option, exact(one.probability)) for one in ranked)
    if record["generated"] is not None:
        facts["Generated"] = Markup("<q>{}</q>").format(record["generated"]) if record["generated"] else "nothing"
    return Group(title, [Verbatim(prompt), Facts(facts)], f"fold example {kind}")


def classification_blocks(results: Results, shown: str, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[Block]:
    """For each task with ranked options its confusion matrix, precision and recall by class, and calibration."""
    groups = [
        Group(name, list(_task_blocks(name, predictions)), "fold")
        for name, predictions in records.items()
        if results.tasks[name].is_classification and predictions[0]["option_scores"]
    ]
    if groups:
        yield text("classes", title=results.variants[shown].title)
        yield from groups


def _task_blocks(name: str, predictions: Sequence[Mapping[str, Any]]) -> Iterable[Block]:
    with suppress(FlanlabError):  # options that differ from row to row are no classes
        yield _classes(name, predictions)
    error = calibration_error(predictions)
    yield f"Calibration: expected calibration error {number(error)} points, over ten ranges of probability."
    rows = []
    for one in calibration(predictions):
        cells = [plain(one["rows"], count), plain(one["confidence"]), plain(one["accuracy"])]
        rows.append(Row(f"{number(one['low'])} to {number(one['high'])} %", cells))
    columns = ["predictions", "mean probability", "right"]
    yield Table(f"{name}, calibration", columns, rows, "probability of the answer")


def _classes(name: str, predictions: Sequence[Mapping[str, Any]]) -> Table:
    """Right answers in rows, predictions in columns."""
    classes = per_class(predictions).rows()
    matrix = confusion(predictions).rows() if len(classes) <= _MOST_CLASSES else []
    said = list(dict.fromkeys(one["prediction"] for one in matrix))
    rows = []
    for one in classes:
        counts = [cell for cell in matrix if cell["gold"] == one["class"]]
        cells = [Cell(cell["count"], count, kind="hit" if cell["prediction"] == one["class"] else "level") for cell in counts]
        cells += [plain(one["precision"]), plain(one["recall"]), plain(one["rows"], count)]
        rows.append(Row(str(one["class"]), cells))
    columns = [*(f"said\n{'none of these' if one is None else one}" for one in said), "precision", "recall", "in all"]
    return Table(f"{name}, right answers against predictions", columns, rows, "right answer")
