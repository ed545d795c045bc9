"""Files of the folders of runs, steps and sweeps, for those who only look what is done, and how long it took.

`sweep.json` holds the cells of an ablation with their folders, and how it is drawn. What is done is seen in the folders alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from flanlab.experiments.cells import Comparison, Panel
from flanlab.files import in_use, read_json
from flanlab.results.files import RESULTS_FILE, parse

RECIPE_FILE = "recipe.yaml"
FINISHED_FILE = "finished.json"
"""In `training`: there once the tuned model is saved."""
SECONDS_FILE = "seconds.json"
State = Literal["waiting", "running", "done", "failed"]
SWEEP_FILE = "sweep.json"
ERROR_FILE = "error.txt"
"""In the folder of a step: why it failed. It is deleted when the step is tried again."""
LOG_FILE = "log.txt"
"""In the folder of a step: what it printed, if it ran in processes of its own."""


def seconds_of(folder: Path) -> float:
    """How long the work in a folder took, over all sittings; 0 if it is not known."""
    path = folder / SECONDS_FILE
    return float(read_json(path)["seconds"]) if path.is_file() else 0.0


def kept_model(folder: Path, step: int) -> Path:
    """Folder of the model as it was after a step of `training.keep_steps`."""
    return folder / "models" / f"step-{step}"


class CellFacts(BaseModel):
    """A cell of the grid. Its state is read from its folders."""

    name: str
    title: str
    folders: list[str]
    """Of its trainings and, last, its evaluation, seen from the sweep's folder; empty if no command has asked for it yet."""
    state: State = "waiting"
    error: str = ""
    """Why it failed."""

    @property
    def folder(self) -> str:
        """Where its results are."""
        return self.folders[-1] if self.folders else ""


class SweepFacts(BaseModel):
    """The content of sweep.json."""

    format: Literal[2] = 2
    flanlab: str
    name: str
    title: str
    question: str
    notes: list[str]
    recipe: dict[str, Any]
    content: str
    """Hash of recipe, tasks and rows: cells that an earlier command planned with other ones do not belong here."""
    cells: list[CellFacts]
    panels: list[Panel]
    comparisons: list[Comparison]


def read_sweep_facts(folder: Path) -> SweepFacts:
    """Read sweep.json, and the states of its cells from their folders.

    Raises:
        FlanlabError: it is missing or damaged.
    """
    return with_states(parse(SweepFacts, folder / SWEEP_FILE, read_json(folder / SWEEP_FILE)), folder)


def with_states(facts: SweepFacts, folder: Path) -> SweepFacts:
    """The same, with the states that the cells have now."""
    for cell in facts.cells:
        places = [folder / place for place in cell.folders]
        cell.state = state_of(places)
        cell.error = "" if cell.state == "done" else error_of(places)
    return facts


def state_of(folders: Sequence[Path]) -> State:
    """The state of a cell, from the folders of its trainings and its evaluation."""
    if not folders:
        return "waiting"
    if is_done(folders[-1]):
        return "done"
    if any(in_use(folder) for folder in folders):
        return "running"
    return "failed" if error_of(folders) else "waiting"


def is_done(folder: Path) -> bool:
    """Whether the result of a training or of an evaluation is there, whole."""
    trained = (folder / "model").is_dir() and (folder / "training" / FINISHED_FILE).is_file()
    return trained or (folder / RESULTS_FILE).is_file()


def error_of(folders: Sequence[Path]) -> str:
    """The first error that a try left; empty if there is none."""
    paths = [folder / ERROR_FILE for folder in folders]
    return next((path.read_text(encoding="utf-8") for path in paths if path.is_file()), "")
