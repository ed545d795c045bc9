"""What a report tells of a run beside its scores: how it was trained, on what, by which recipe and versions.

The files of the run folder are read and checked first, so that the rest of the report need not doubt them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel

from flanlab.errors import FlanlabError
from flanlab.files import read_json
from flanlab.progress import clock
from flanlab.report.page import Block, Cell, Facts, Figure, Group, Items, Key, Row, Table, Verbatim, exact, plain, text
from flanlab.report.plots import Curve, dev_curves, learning_curve, line_panel, running_mean, window
from flanlab.report.views import score_cell
from flanlab.report.wording import cluster_title, count, counted, interval_notes, listed
from flanlab.results.files import parse, read_results
from flanlab.results.schema import MAIN_METRIC, TUNED, Level, Number, Results, Score, kept_step
from flanlab.settings import flattened

_KINDS: Mapping[str, Sequence[Level]] = {"zero-shot": ("clusters", "tasks"), "in-domain": ("in_domain",)}
"""Means of each kind of tasks, the first that there is."""


class MixtureTask(BaseModel):
    """What training reads of one task."""

    cluster: str
    rows: int
    epochs: Number
    examples: int
    tokens: int
    target_tokens: int
    shortened: int
    dropped: dict[str, int]


class MixtureCard(BaseModel):
    """mixture.json."""

    planned_examples: int
    measured_examples: int
    tasks: dict[str, MixtureTask]


class TrainingStep(BaseModel):
    """One line of training/log.jsonl; the loss is natural-log, per target token."""

    step: int
    loss: Number
    examples: int
    tokens: int
    target_tokens: int
    seconds: Number
    dev_loss: dict[str, Number] = {}
    """By cluster, of the dev rows of the training tasks; empty for a step after which none was measured."""


@dataclass(frozen=True)
class RunFiles:
    """What a report is made from, except predictions; None or empty is what an evaluation alone does not have."""

    folder: Path
    results: Results
    mixture: MixtureCard | None
    facts: Mapping[str, Any]
    recipe: str | None
    steps: list[TrainingStep]


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        FlanlabError: results.json is missing, or a file is damaged.
    """
    mixture, facts = folder / "mixture.json", folder / "run.json"
    recipe = folder / "recipe.yaml"
    return RunFiles(
        folder,
        read_results(folder),
        parse(MixtureCard, mixture, read_json(mixture)) if mixture.exists() else None,
        parse(RootModel[dict[str, Any]], facts, read_json(facts)).root if facts.exists() else {},
        recipe.read_text(encoding="utf-8", errors="replace") if recipe.exists() else None,
        _read_log(folder / "training" / "log.jsonl"),
    )


def _read_log(path: Path) -> list[TrainingStep]:
    if not path.exists():
        return []
    steps = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            steps.append(TrainingStep.model_validate(json.loads(line)))
        except ValueError as error:
            raise FlanlabError(
                f"{path}, line {number}: is damaged.", hint="Delete the file: the report then leaves the curve out."
            ) from error
    return steps


def learning_blocks(run: RunFiles) -> Iterable[Block]:
    """The loss, by step; scores of models kept on the way; the loss on dev rows. Nothing, if nothing was trained."""
    steps = run.steps
    if not steps:
        return
    means = running_mean(steps)
    first, last = means[window(steps) - 1], means[-1]
    label = f"Loss per target token by step: {first:.2f} in the first tenth of the steps, {last:.2f} in the last."
    yield Figure([learning_curve(steps, label)], text("learning"), kind="single")
    yield Facts(
        {
            "steps": count(len(steps)),
            "examples": count(sum(step.examples for step in steps)),
            "tokens read": count(sum(step.tokens for step in steps)),
            "target tokens": count(sum(step.target_tokens for step in steps)),
            "loss, first tenth": exact(first, "{:.3f}".format),
            "loss, last tenth": exact(last, "{:.3f}".format),
            "time": clock(sum(step.seconds for step in steps)),
        }
    )
    yield from _score_curve(run.results, len(steps))
    measured = [step for step in steps if step.dev_loss]
    if not measured:
        return
    names = {cluster: cluster_title(cluster) for cluster in measured[-1].dev_loss}
    ends = {name: [step.dev_loss[name] for step in (measured[0], measured[-1])] for name in names}
    told = ", ".join(f"{title} {ends[name][0]:.2f}, then {ends[name][1]:.2f}" for name, title in names.items())
    curves = dev_curves(measured, names, f"Loss per target token on dev rows, after the first step and the last: {told}.")
    yield Group("Loss on dev rows, by cluster", [Figure([curves], text("dev"), kind="wide")])


def _score_curve(results: Results, steps: int) -> Iterable[Block]:
    """Mean main metric against steps of training, zero-shot and in-domain. Nothing, if no model was kept on the way.

    Args:
        results: of a run. Before the first step, the untuned model is asked by the same instructions.
        steps: of the whole training.
    """
    kept = {step: variant for variant in results.variants if (step := kept_step(variant)) is not None}
    if not kept:
        return
    variants: dict[float, str] = {0: "untuned_instruction", **dict(sorted(kept.items())), steps: TUNED}
    # Where tasks have different main metrics, the mean of these; otherwise their metric.
    metrics = [MAIN_METRIC, *dict.fromkeys(task.main_metric for task in results.tasks.values())]
    curves: dict[str, Mapping[float, Score]] = {}
    for kind, levels in _KINDS.items():
        means = (results.scored(level, None, metric) for level in levels for metric in metrics)
        scores = next(filter(None, means), {})
        if curve := {step: scores[variant] for step, variant in variants.items() if variant in scores}:
            curves[kind] = curve
    drawing = line_panel(
        [Curve(kind, curve) for kind, curve in curves.items()],
        {step: count(step) for step in variants},
        "steps of training",
        "Scores while it was tuned",
    )
    rows = [Row(kind, [score_cell(curve.get(step)) for step in variants]) for kind, curve in curves.items()]
    columns = ["untuned,\ninstruction", *(counted(int(step), "step") for step in variants if step)]
    yield Group(
        "Scores while it was tuned",
        [
            Figure([drawing], text("score_curve"), [Key(kind) for kind in curves], "single"),
            Table("Mean main metric by step", columns, rows, "tasks"),
        ],
    )


def mixture_blocks(run: RunFiles) -> Iterable[Block]:
    """The mixture by cluster and task, and what was left out of it. Nothing, if there is none."""
    mixture, results = run.mixture, run.results
    if mixture is None:
        return
    measured = mixture.measured_examples < mixture.planned_examples and "measured"
    told = text(measured, "epochs", examples=count(mixture.measured_examples))
    yield f"{counted(mixture.planned_examples, 'example')} planned. {told}"
    yield _mixture_table(mixture)
    reasons: dict[str, list[str]] = {}
    for name, reason in results.left_out.items():
        reasons.setdefault(reason, []).append(name)
    left_out = [f"{listed(names)}: {reason}" for reason, names in reasons.items()]
    overlaps = [f"{name}: {reason}" for name, reason in results.allowed_overlaps.items()]
    for title, lines in (("Left out", left_out), ("Trained on all the same", overlaps)):
        if lines:
            yield Group(title, [Items(lines)])


def _mixture_table(mixture: MixtureCard) -> Table:
    def row(title: str, tasks: Sequence[MixtureTask], kind: str) -> Row:
        """A task, or the sums over several."""
        counts = ["rows", "examples", "tokens", "target_tokens", "shortened"]
        *cells, shortened = (plain(sum(getattr(task, name) for task in tasks), count) for name in counts)
        one = tasks[0] if kind == "member" else None
        reasons = [f"{reason}: {count(times)}" for reason, times in one.dropped.items()] if one else []
        dropped = Cell(sum(sum(task.dropped.values()) for task in tasks), count, below=reasons, kind="level")
        return Row(title, [*cells, plain(one.epochs if one else None, "{:.2f}".format, Cell()), shortened, dropped], kind=kind)

    rows = []
    for cluster in sorted({task.cluster for task in mixture.tasks.values()}):
        own = {name: task for name, task in mixture.tasks.items() if task.cluster == cluster}
        rows.append(row(cluster_title(cluster), list(own.values()), "cluster"))
        rows += [row(title, [task], "member") for title, task in own.items()]
    rows.append(row("total", list(mixture.tasks.values()), "total"))
    columns = ["rows", "examples", "tokens", "target tokens", "epochs", "shortened", "dropped"]
    return Table("Training mixture", columns, rows, "cluster, task")


def note_blocks(run: RunFiles) -> Iterable[Block]:
    """What must be known of the numbers, versions and hashes, and the recipe."""
    results = run.results
    told = "The column note of scores.parquet says which."
    if lines := [*results.notes, *(f"{one} {told}" for one in interval_notes(results))]:
        yield Items(lines)
    known = flattened({name: value for name, value in run.facts.items() if name != "tasks"})
    facts = {name.replace(".", " "): "not installed" if value is None else str(value) for name, value in known.items()}
    if facts and results.seconds is not None:
        facts["time of the whole run"] = clock(results.seconds)
    if facts:
        yield Group("Versions and hashes", [Facts(facts)])
    tasks = run.facts.get("tasks")
    if isinstance(tasks, Mapping):
        hashes = {
            name: ", ".join(f"{kind} {one}" for kind, one in known.items()) if isinstance(known, Mapping) else str(known)
            for name, known in tasks.items()
        }
        yield Group(f"Hashes of {counted(len(tasks), 'task')} and their rows", [Facts(hashes)], "fold")
    if run.recipe:
        yield Group("The recipe", [Verbatim(run.recipe)], "fold")
