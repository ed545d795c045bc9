"""Two evaluations compared, from their folders alone: the same rows and templates, task by task and on average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from flanlab.errors import FlanlabError
from flanlab.evaluation.paired import SIDES, paired_results
from flanlab.evaluation.predict import read_predictions
from flanlab.evaluation.results import MAIN_METRIC, TaskScores, averages, compare
from flanlab.report.reading import TUNED, Evaluation, Results, TaskResult, read_results
from flanlab.report.wording import listed, signed, without_stamp
from flanlab.results.intervals import LEVEL
from flanlab.results.statistics import holm

_AGREED_SETTINGS = ("split", "options", "end_token", "prompt_tokens", "truncate", "new_tokens")
"""Settings that shape what is asked or how it is scored. The others only say how much is asked."""


@dataclass(frozen=True)
class Side:
    """One of the two: a variant of a run or an evaluation."""

    folder: Path
    variant: str
    results: Results
    evaluation: Evaluation

    @property
    def stamped(self) -> bool:
        """Whether its model says what it was trained on."""
        return self.results.stamped.get(self.variant, False)

    def facts(self) -> dict[str, Any]:
        """What a reader must know of it."""
        return {
            "folder": str(self.folder),
            "name": self.results.name,
            "model": self.results.model,
            "variant": self.variant,
            "title": self.results.variants[self.variant],
            "stamped": self.stamped,
        }

    def seen(self, task: str) -> str | None:
        """Why its score on a task is no zero-shot score; an untuned model of a run is not what its tuned one has seen."""
        return self.results.tasks[task].seen if self.stamped else None


def open_side(text: str) -> Side:
    """Read what is to be compared: `folder`, or `folder:variant`. Without one, the tuned variant of a run, else the first.

    Raises:
        FlanlabError: results.json is missing, damaged or too old, or there is no such variant.
    """
    folder, variant = folder_and_variant(text)
    sides = open_sides(folder)
    return one_side(sides, variant or (TUNED if TUNED in sides else next(iter(sides))))


def folder_and_variant(text: str) -> tuple[Path, str]:
    """`folder` or `folder:variant` taken apart; the variant is empty where none is named."""
    folder, variant = Path(text), ""
    if not folder.exists() and ":" in text:
        start, _, variant = text.rpartition(":")
        folder = Path(start)
    return folder, variant


def open_sides(folder: Path) -> dict[str, Side]:
    """All variants of a folder, by name.

    Raises:
        FlanlabError: results.json is missing, damaged or too old.
    """
    results = read_results(folder)
    if results.evaluation is None or any(task.hashes is None for task in results.tasks.values()):
        raise FlanlabError(
            f"{folder / 'results.json'}: does not say what was asked; it is from an older version of flanlab.",
            hint="Run the command that wrote it again; predictions that are there are kept.",
        )
    return {variant: Side(folder, variant, results, results.evaluation) for variant in results.variants}


def one_side(sides: Mapping[str, Side], variant: str) -> Side:
    """The side of that name, of a folder's.

    Raises:
        FlanlabError: there is no such variant.
    """
    if variant not in sides:
        folder = next(iter(sides.values())).folder
        raise FlanlabError(
            f"{folder}: there is no variant {variant}.", hint=f"Name one of these after a colon: {', '.join(sides)}."
        )
    return sides[variant]


def compare_sides(first: Side, second: Side) -> dict[str, Any]:
    """Second minus first, for each task and metric that both have, over the rows and templates that both were asked.

    Returns:
        `a` and `b` (what they are), `only` (tasks that just one has), `tasks`, `average`, `clusters` and `cluster_average`,
        each with `scores` and `comparison`; `family` names the tests that Holm's correction is over, the main metric of
        each task, and there alone a comparison has a `p_holm`; `counts` tells how many of them came out how.

    Raises:
        FlanlabError: rows, tasks, seeds or settings differ so that the two cannot be paired, or nothing is common.
    """
    _check_agreement(first, second)
    common = [name for name in first.results.tasks if name in second.results.tasks]
    entries: dict[str, Any] = {}
    scores: dict[str, TaskScores] = {}
    for name in common:
        task = first.results.tasks[name]
        entry, scores[name] = paired_results(
            name,
            task.declared_metrics,
            _predictions(first, name),
            _predictions(second, name),
            end_token=bool(first.evaluation.settings["end_token"]),
        )
        entries[name] = {
            "clusters": task.clusters,
            "seen": {side: each.seen(name) for side, each in zip(SIDES, (first, second), strict=True)},
            **entry,
            "comparison": compare(entry["scores"], scores[name], ["a"], "b"),
        }
    tested = {name: entry["comparison"][entry["main_metric"]] for name, entry in entries.items()}
    for name, corrected in holm({name: one["p_value"] for name, one in tested.items()}).items():
        tested[name]["p_holm"] = corrected
    return {
        "format": 1,
        "a": first.facts(),
        "b": second.facts(),
        "evaluation": first.evaluation.model_dump(mode="json"),
        "only": {
            "a": [name for name in first.results.tasks if name not in entries],
            "b": [name for name in second.results.tasks if name not in entries],
        },
        "family": list(entries),
        "counts": _counts(tested),
        "tasks": entries,
        **averages(entries, scores, ["a"], "b"),
    }


def seen_by(comparison: Mapping[str, Any], cluster: str | None = None) -> str:
    """The sides whose model has seen a task of a cluster, or any task: empty, A, B, or A and B."""
    entries = [entry for entry in comparison["tasks"].values() if cluster in (None, entry["clusters"][0])]
    return listed([side.upper() for side in SIDES if any(entry["seen"][side] for entry in entries)])


def verdict(comparison: Mapping[str, Any]) -> list[str]:
    """The comparison in sentences that claim no more than the numbers."""
    return [*_differences_told(comparison), *_seen_told(comparison)]


def _differences_told(comparison: Mapping[str, Any]) -> Iterable[str]:
    counts, total = comparison["counts"], comparison["counts"]["tests"]
    if total == 1:
        outcome = "better" if counts["better"] else "worse"
        clear = counts["better"] + counts["worse"]
        yield (
            f"B is {outcome} on the one task, with an interval that excludes zero."
            if clear
            else "No difference is clear on the one task: its interval includes zero."
        )
        return
    yield (
        f"B is better on {counts['better']} of {total} tasks with intervals that exclude zero, and worse on {counts['worse']};"
        f" after Holm's correction over the {total}, better on {counts['better_holm']} and worse on {counts['worse_holm']}."
    )
    if unclear := total - counts["better"] - counts["worse"]:
        where = "On all of them" if unclear == total else f"On the other {unclear}"
        yield f"{where} no difference is clear, which does not make the two equal."
    over = comparison["cluster_average"]
    compared = over["comparison"][MAIN_METRIC]
    low, high = (signed(bound) for bound in compared["interval"])
    members = f"the {over['clusters']} clusters" if over["clusters"] > 1 else "the tasks"
    includes = "" if compared["excludes_zero"] else ", which includes zero"
    yield (
        f"On average over {members}, B minus A is {signed(compared['difference'])} points of the main metric (95 % interval"
        f" {low} to {high}{includes})."
    )


def _seen_told(comparison: Mapping[str, Any]) -> Iterable[str]:
    for side in SIDES:
        if seen := [name for name, entry in comparison["tasks"].items() if entry["seen"][side]]:
            yield f"Training has shown {side.upper()} {listed(seen)}, or what is close: no zero-shot result there."
    unknown = [side.upper() for side in SIDES if not comparison[side]["stamped"]]
    if unknown:
        yield without_stamp(unknown)


def _counts(tested: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many tests came out how, by their own intervals and after the correction."""
    counts = {"tests": len(tested)}
    for word, sign in (("better", 1), ("worse", -1)):
        towards = [one for one in tested.values() if one["difference"] * sign > 0]
        counts[word] = sum(one["excludes_zero"] for one in towards)
        counts[f"{word}_holm"] = sum(one["p_holm"] < 1 - LEVEL for one in towards)
    return counts


def _check_agreement(first: Side, second: Side) -> None:
    """Refuse to pair what was not asked alike."""
    common = [name for name in first.results.tasks if name in second.results.tasks]
    if not common:
        raise FlanlabError(
            f"{first.folder} and {second.folder} have no task in common.",
            hint="Evaluate both on the same tasks.",
        )
    ours, theirs = first.evaluation, second.evaluation
    differences = [f"seed: {ours.seed} in A, {theirs.seed} in B"] if ours.seed != theirs.seed else []
    for name in _AGREED_SETTINGS:
        left, right = ours.settings.get(name), theirs.settings.get(name)
        if left != right:
            differences.append(f"{name}: {left} in A, {right} in B")
    for name in common:
        differences += _other_rows(name, first.results.tasks[name], second.results.tasks[name])
    if differences:
        raise FlanlabError(
            f"{first.folder} (A) and {second.folder} (B) were not asked the same:\n"
            + "\n".join(f"  {difference}" for difference in differences),
            hint="Evaluate both with the same tasks, rows, seed and settings.",
        )


def _other_rows(name: str, first: TaskResult, second: TaskResult) -> list[str]:
    assert first.hashes is not None
    assert second.hashes is not None
    told = []
    if first.hashes.task != second.hashes.task:
        told.append(f"{name}: the task's file differs (hash {first.hashes.task} in A, {second.hashes.task} in B)")
    if first.hashes.rows != second.hashes.rows:
        told.append(f"{name}: the rows come from other content (hash {first.hashes.rows} in A, {second.hashes.rows} in B)")
    return told


def _predictions(side: Side, task: str) -> list[dict[str, Any]]:
    folder = side.folder / "predictions" / side.variant / task
    try:
        records: list[dict[str, Any]] = read_predictions(folder).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise FlanlabError(
            f"{folder}: is damaged ({error}).", hint="Delete the damaged part and run the command that wrote it again."
        ) from error
    return records
