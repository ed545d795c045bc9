"""The learning curve of scores: models that were kept while one was tuned, beside the untuned and the tuned one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flanlab.report.page import Block, Drawing, Figure, Group, Key, Row, Table, text
from flanlab.report.plots import Line, line_panel
from flanlab.report.views import score_cell
from flanlab.report.wording import count, counted
from flanlab.results.schema import MAIN_METRIC, TUNED, Level, Results, Score, kept_step

_KINDS: Mapping[str, Sequence[Level]] = {"zero-shot": ("clusters", "tasks"), "in-domain": ("in_domain",)}
"""Means of each kind of tasks, the first that there is."""


def score_curve(results: Results, steps: int) -> Iterable[Block]:
    """Mean main metric against steps of training, zero-shot and in-domain. Nothing, if no model was kept on the way.

    Args:
        results: of a run. Before the first step, the untuned model is asked by the same instructions.
        steps: of the whole training.
    """
    kept = {step: variant for variant in results.variants if (step := kept_step(variant)) is not None}
    if not kept:
        return
    variants: dict[float, str] = {0: "untuned_instruction", **dict(sorted(kept.items())), steps: TUNED}
    curves: dict[str, Mapping[float, Score]] = {}
    for kind, levels in _KINDS.items():
        means = (results.scored(level, None, metric) for level in levels for metric in _metrics(results))
        scores = next(filter(None, means), {})
        if curve := {step: scores[variant] for step, variant in variants.items() if variant in scores}:
            curves[kind] = curve
    drawing = line_panel(
        [Line(kind, curve) for kind, curve in curves.items()],
        {step: count(step) for step in variants},
        "steps of training",
        "Scores while it was tuned",
    )
    rows = [Row(kind, [score_cell(curve.get(step)) for step in variants]) for kind, curve in curves.items()]
    columns = ["untuned,\ninstruction", *(counted(int(step), "step") for step in variants if step)]
    yield Group(
        "Scores while it was tuned",
        [
            Figure([Drawing(drawing)], text("score_curve"), [Key(kind) for kind in curves], "single"),
            Table("Mean main metric by step", columns, rows, "tasks"),
        ],
        "part",
    )


def _metrics(results: Results) -> list[str]:
    """Where tasks have different main metrics, the mean of these; otherwise their metric."""
    return [MAIN_METRIC, *dict.fromkeys(task.main_metric for task in results.tasks.values())]
