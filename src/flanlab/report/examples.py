"""Example predictions, chosen by rule: three right and three wrong ones of each task, spread over its templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flanlab.report.page import Block, Facts, Group, Verbatim, exact, text
from flanlab.report.predictions import is_right, ranked_options
from flanlab.report.wording import count
from flanlab.results.predictions import PREDICTIONS, read_records, shard_paths
from flanlab.results.schema import TUNED, Results

_EACH = 3
_PREVIEW = 220
"""Characters of a prompt that are shown before a click."""
Record = Mapping[str, Any]


def records_of(folder: Path, variant: str, task: str, results: Results) -> Sequence[Record]:
    """A variant's predictions of a task, with scores as the results count them; empty where the folder holds none.

    Raises:
        FlanlabError: a file of predictions is damaged.
    """
    place = folder / PREDICTIONS / variant / task
    if not shard_paths(place):
        return []
    records = read_records(place)
    if not results.variants[variant].settings.get("end_token", True):
        for record in records:
            record["option_scores"] = record.pop("option_scores_without_end")
    return records


def example_sections(results: Results, shown: str, records: Mapping[str, Sequence[Record]] | None) -> Iterable[Block]:
    """Examples of each task, by a variant; None: they may not be passed on."""
    if records is None:
        yield text("no_examples")
        return
    if not any(records.values()):
        yield "The folder holds no predictions to show."
        return
    whose = "the tuned model" if shown == TUNED else f"the model asked with the {results.variants[shown].title}"
    yield text("examples", whose=whose)
    for place, (name, predictions) in enumerate(records.items()):
        if predictions:
            blocks = list(example_blocks(predictions, results.tasks[name].declared_metrics))
            yield Group(name, blocks, "fold open" if place == 0 else "fold")


def example_blocks(records: Sequence[Record], metrics: Sequence[str]) -> Iterable[Block]:
    """Examples of a task that declares these metrics: right ones, then wrong ones."""
    sides: dict[bool, list[Record]] = {True: [], False: []}
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


def spread(records: Sequence[Record], wanted: int, taken: frozenset[int] = frozenset()) -> list[Record]:
    """Choose up to `wanted` records: evenly spaced templates, and of each the first row not in `taken` or shown."""
    by_template: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record["template"], record["row"])):
        by_template.setdefault(record["template"], []).append(record)
    templates = list(by_template)
    chosen: list[Record] = []
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


def _example(record: Record, kind: str) -> Group:
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
