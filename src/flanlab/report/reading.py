"""The files of a run folder, read and checked, so that the rest of the report need not doubt them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel

from flanlab.errors import FlanlabError
from flanlab.files import read_json
from flanlab.results.files import parse, read_results
from flanlab.results.schema import Number, Results


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
    cycle_length: int
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
