"""A sweep: an ablation's cells as jobs under one root, how far each is, and the engine that does them one after another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flanlab import __version__
from flanlab.experiments.cells import SWEEP_FILE, Ablation, Cell
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.sweep_jobs import Job, State, carry_out, error_text, is_done, read_record
from flanlab.files import alone_in, read_json, write_json

_LONGEST_POINTS = 40
"""Characters of a folder's name that tell its points."""
Report = Callable[[Job, State, str], None]
"""Told of each change: the job, its state, and the error where it failed."""


class Engine(Protocol):
    """Does jobs, each after the one it needs; the failure of one stops only those that need it."""

    def __call__(self, jobs: Sequence[Job], report: Report) -> None:
        """Do the jobs, in an order in which each comes after the one it needs."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell with the keys of the jobs that it stands on: trainings, and its evaluation last."""

    cell: Cell
    chain: tuple[str, ...]


@dataclass
class Sweep:
    """An ablation planned under a root folder; `states` and `errors` follow the work."""

    name: str
    recipe: Recipe
    ablation: Ablation
    root: Path
    folder: Path
    """The sweep's own, with its page and its list of cells."""
    cells: list[PlannedCell]
    """Those asked for now, and those that were asked for earlier and are done."""
    told_done: frozenset[str]
    """Folders of the cells that sweep.json called done at planning; what is true of that is in `cells`."""
    jobs: dict[str, Job]
    """By key, each after those it needs."""
    speed: str
    """Where the expected seconds come from."""
    states: dict[str, State] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states = {key: "done" if is_done(job) else "waiting" for key, job in self.jobs.items()}

    def state_of(self, planned: PlannedCell) -> State:
        """A cell is as far as its work."""
        states = [self.states[key] for key in planned.chain]
        if states[-1] == "done":
            return "done"
        return next((state for state in ("failed", "running") if state in states), "waiting")

    def error_of(self, planned: PlannedCell) -> str:
        """Why a cell failed; empty where it did not."""
        return next((self.errors[key] for key in planned.chain if key in self.errors), "")

    def failed(self) -> list[PlannedCell]:
        """The cells that could not be done."""
        return [planned for planned in self.cells if self.state_of(planned) == "failed"]

    def waiting(self) -> list[Job]:
        """The jobs still to be done, each after those it needs; none that only a finished evaluation stands on."""
        wanted = {key for planned in self.cells if self.state_of(planned) != "done" for key in planned.chain}
        return [job for key, job in self.jobs.items() if key in wanted and self.states[key] != "done"]

    def expected_seconds(self) -> float:
        """Of the jobs still to be done, one after another."""
        return sum(job.cost["seconds"] for job in self.waiting())

    def as_dict(self) -> dict[str, Any]:
        """The content of sweep.json: the grid, what it cost, and how to tell it; scores stay in the cells' folders."""
        recipe = self.recipe.model_dump(mode="json")
        cells = self._done_by_others(recipe) | {planned.cell.name: self._facts(planned) for planned in self.cells}
        names = [cell.name for cell in self.ablation.cells]
        return {
            "format": 1,
            "flanlab": __version__,
            "name": self.name,
            "title": self.ablation.title,
            "question": self.ablation.question,
            "notes": list(self.ablation.notes),
            "recipe": recipe,
            "cells": [cells[name] for name in names if name in cells],
            "left_out": [name for name in names if name not in cells],
            "panels": [asdict(panel) for panel in self.ablation.panels],
            "comparisons": [asdict(comparison) for comparison in self.ablation.comparisons],
            "expected": {"seconds": self.expected_seconds(), "from": self.speed},
        }

    def write(self) -> None:
        """Write sweep.json; what other commands over the same sweep have done since this one was planned stays in it."""
        with alone_in(self.folder):
            write_json(self.folder / SWEEP_FILE, self.as_dict())

    def _done_by_others(self, recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """By name, cells of the same recipe that are done by now but were not at planning."""
        told = read_told(self.folder)
        if told.get("recipe") != recipe:
            return {}
        done = (cell for cell in told["cells"] if cell["state"] == "done")
        return {cell["name"]: cell for cell in done if cell["folder"] not in self.told_done}

    def _facts(self, planned: PlannedCell) -> dict[str, Any]:
        jobs = [self.jobs[key] for key in planned.chain]
        return {
            "name": planned.cell.name,
            "title": planned.cell.title,
            "state": self.state_of(planned),
            "error": self.error_of(planned),
            "folder": self._place(jobs[-1]),
            "jobs": [
                {
                    "kind": job.kind,
                    "key": job.key,
                    "folder": self._place(job),
                    "state": self.states[job.key],
                    "seconds": read_record(job).get("seconds"),
                    "expected": dict(job.cost),
                }
                for job in jobs
            ],
        }

    def _place(self, job: Job) -> str:
        """Seen from the sweep's own folder, so that the root can be moved."""
        return f"../{job.folder.parent.name}/{job.folder.name}"


def read_told(folder: Path) -> dict[str, Any]:
    """The sweep.json of a sweep's folder; empty where there is none yet."""
    path = folder / SWEEP_FILE
    return read_json(path) if path.exists() else {}


def sweep_folder(root: Path, name: str, recipe: Recipe, points: Sequence[str]) -> Path:
    """The folder of a sweep under `root`; of other points than the usual ones, one that is named by them."""
    folder = f"{name}-{_cleaned(recipe.name)}"
    if not points:
        return root / folder
    told = "-".join(dict.fromkeys(points))
    cleaned = _cleaned(told).strip("-.")
    if cleaned != told or len(cleaned) > _LONGEST_POINTS:
        # Others might come to the same name.
        digest = hashlib.blake2b(told.encode(), digest_size=3).hexdigest()
        cleaned = f"{cleaned[:_LONGEST_POINTS].strip('-.')}-{digest}"
    return root / f"{folder}-{cleaned}"


def _cleaned(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def run_sweep(sweep: Sweep, engine: Engine, report: Report) -> None:
    """Do what is still to be done of a sweep; sweep.json always says how far it is."""

    def note(job: Job, state: State, error: str) -> None:
        sweep.states[job.key] = state
        if error:
            sweep.errors[job.key] = error
        sweep.write()
        report(job, state, error)

    sweep.write()
    try:
        engine(sweep.waiting(), note)
    finally:
        # Stopped in the middle, nothing runs any more.
        for key, state in sweep.states.items():
            if state == "running":
                sweep.states[key] = "done" if is_done(sweep.jobs[key]) else "waiting"
        sweep.write()


def run_locally(jobs: Sequence[Job], report: Report) -> None:
    """Do jobs one after another in this process."""
    lost: set[str] = set()
    for job in jobs:
        if job.needs in lost:
            lost.add(job.key)
            report(job, "skipped", "")
            continue
        report(job, "running", "")
        try:
            carry_out(job)
        except Exception as error:  # whatever it is, the other cells do not depend on it
            lost.add(job.key)
            report(job, "failed", error_text(error))
        else:
            report(job, "done", "")
