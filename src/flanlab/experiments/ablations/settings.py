"""Settings of one's own: each changed by itself, beside the recipe as it is, on held-out tasks and on those trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import yaml

from flanlab.errors import FlanlabError
from flanlab.experiments.cells import Ablation, Cell, Comparison, Panel, Series, Training, changed, hyphenated
from flanlab.experiments.recipe import Plan

_FORM = "section.key=value"
_SECTIONS = ("tasks", "mixture", "training")
_EXAMPLE = "--points 'training.learning_rate=1e-5,mixture.options=mixed'"
_KEY = re.compile(r"(?:^|(?<= ))(\w+)\.(\w+)=")


def ablation(plan: Plan, points: Sequence[str]) -> Ablation:
    """Points: changes of what trains, `section.key=value`, with spaces between those made together; there are no usual ones."""
    changes = _rejoined(points)
    if not changes:
        raise FlanlabError(
            "The ablation of settings compares the recipe with changes of it.", hint=f"Write {_FORM}, such as {_EXAMPLE}."
        )
    base = plan.recipe
    trainings = {"base": ("the recipe as it is", Training(base))}
    for change in changes:
        name = hyphenated(re.sub(r"\w+\.(?=\w+=)", "", change).lower()).strip("-")
        try:
            trainings[name] = (change, Training(changed(base, **_sections(change))))
        except FlanlabError as error:
            raise FlanlabError(f"--points: {change!r}: {error.message}", hint=f"Write {_FORM}, such as {_EXAMPLE}.") from error
    scopes: dict[str, Literal["held_out", "held_in"]] = {"": "held_out"} if plan.split.test else {}
    if plan.split.in_domain:
        scopes["-trained"] = "held_in"
    asked = changed(base, in_domain=[task.name for task in plan.split.in_domain])
    cells = [
        Cell(f"{name}{end}", f"{title}, tasks trained on" if end else title, asked, training, scope)
        for name, (title, training) in {"untuned": ("untuned", None), **trainings}.items()
        for end, scope in scopes.items()
    ]
    panels = [
        Panel(
            "Tasks trained on" if end else "Held-out clusters",
            "dots",
            [Series("", [(place, f"{name}{end}") for place, name in enumerate(("untuned", *trainings))])],
        )
        for end in scopes
    ]
    pairs = [("base", name) for name in trainings if name != "base"] + [("untuned", name) for name in trainings]
    return Ablation(
        "Settings",
        "Which of these settings learns more, and which loses less on tasks that it did not train on?",
        cells,
        panels,
        [Comparison(f"{before}{end}", f"{after}{end}") for end in scopes for before, after in pairs],
        [
            "Each cell changes the base recipe in what its name says. All are asked the same questions.",
            "Choose a setting on dev rows (evaluation.split: dev) of other tasks than those that the result is about.",
        ],
    )


def _rejoined(points: Sequence[str]) -> list[str]:
    """The changes, of which a list or a mapping has commas of its own."""
    changes: list[str] = []
    for point in points:
        if _KEY.match(point) or not changes:
            changes.append(point)
        else:
            changes[-1] += f", {point}"
    return changes


def _sections(change: str) -> dict[str, dict[str, Any]]:
    """`training.method=lora training.lora_rank=8` as sections of a recipe."""
    first, *parts = _KEY.split(change)
    sections: dict[str, dict[str, Any]] = {}
    for section, key, value in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if section not in _SECTIONS:
            first = f"{section}.{key}"
            break
        try:
            sections.setdefault(section, {})[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise FlanlabError(f"The value of {section}.{key} is not YAML: {value.strip()!r}.") from error
    if first or not sections:
        raise FlanlabError(f"{(first or change).strip()!r} changes no setting of `tasks`, `mixture` or `training`.")
    return sections
