"""The jobs of a sweep: one model trained, or one evaluation, each in a folder of its own that any sweep may share."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from flanlab.data.encoding import PromptStyle
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.run import RECIPE_FILE, train_recipe
from flanlab.experiments.torchrun import launch
from flanlab.files import read_json, write_json, write_text
from flanlab.models.loading import STAMP_FILE
from flanlab.progress import say
from flanlab.results.files import RESULTS_FILE
from flanlab.tasks.loading import leave_out, load_collections, select_tasks

State = Literal["waiting", "running", "done", "failed", "skipped"]
TRAINED, CELLS, JOBS = "trained", "cells", "jobs"
"""Under a sweep's root: models trained, evaluations, and what is known of the work on both."""


@dataclass(frozen=True)
class Job:
    """A piece of work that can be carried out anywhere the root is within reach."""

    kind: Literal["train", "evaluate"]
    key: str
    """Hash of everything that shapes what the job leaves."""
    title: str
    root: str
    recipe: Mapping[str, Any]
    mirror: str | None
    needs: str | None = None
    """Key of the training that must be done before."""
    base: str = ""
    """The model that was first, as the ablation's recipe names it; what speeds are remembered by."""
    model: str = ""
    """Of an evaluation: the model, or the folder where the training leaves it."""
    tasks: tuple[str, ...] = ()
    styles: tuple[PromptStyle, ...] = ()
    seen: bool = False
    """Whether tasks are evaluated that the model has seen."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """What is expected: `tokens`, `examples` or `questions`, and `seconds`."""
    processes: int = 1
    """How many carry it out together. No part of the key: what they leave is the same, to rounding."""

    @property
    def folder(self) -> Path:
        """Where its results go."""
        return Path(self.root) / (TRAINED if self.kind == "train" else CELLS) / self.key

    @property
    def record_file(self) -> Path:
        """Where its state is kept, beside what it leaves, so that a run's folder holds nothing foreign."""
        return Path(self.root) / JOBS / f"{self.key}.json"

    @property
    def log_file(self) -> Path:
        """What it says, where nobody watches."""
        return self.record_file.with_suffix(".log")

    @property
    def error_file(self) -> Path:
        """Where several processes say why they failed, until that is in the record."""
        return self.record_file.with_suffix(".error")

    def with_cost(self, cost: Mapping[str, float]) -> Job:
        """The job with what it is expected to cost."""
        return replace(self, cost=cost)


def read_record(job: Job) -> dict[str, Any]:
    """What is known of the work on a job: `state`, `seconds` over all sittings, `error`; empty where nothing is."""
    return read_json(job.record_file) if job.record_file.exists() else {}


def is_done(job: Job) -> bool:
    """Whether what the job leaves is there, whole."""
    left = job.folder / "model" / STAMP_FILE if job.kind == "train" else job.folder / RESULTS_FILE
    return left.is_file() and read_record(job).get("state") == "done"


def carry_out(job: Job) -> None:
    """Do a job, or go on with it; nothing is done where it is done already, by whomever.

    Raises:
        FlanlabError, or any other error of the work; it is kept in the job's record.
    """
    with _alone(job) as lock:
        if is_done(job):
            return
        before = read_record(job)
        earlier = _seconds_worked(job, before)
        facts = {"kind": job.kind, "title": job.title, "host": socket.gethostname(), "process": os.getpid()}
        write_json(job.record_file, {**facts, "state": "running", "seconds": earlier})
        started = time.monotonic()
        try:
            _begin(job)
            work(job) if job.processes == 1 else _work_together(job, lock)
            _finish(job)
        except BaseException as error:
            state = "failed" if isinstance(error, Exception) else "stopped"
            told = {"state": state, "seconds": earlier + time.monotonic() - started, "error": error_text(error)}
            write_json(job.record_file, {**facts, **told})
            raise
        finally:
            _free_memory()
        seconds = earlier + time.monotonic() - started
        record = {**facts, "state": "done", "seconds": seconds, "model": job.base, "processes": job.processes}
        if not before:
            # From these, later sweeps tell what theirs will take.
            record["tokens_per_second"] = job.cost["tokens"] / seconds
        write_json(job.record_file, record)


def _seconds_worked(job: Job, record: Mapping[str, Any]) -> float:
    """Seconds of earlier sittings; one that was killed worked until the last thing that it wrote."""
    seconds: float = record.get("seconds", 0.0)
    if record.get("state") == "running":
        began = job.record_file.stat().st_mtime
        seconds += max([0.0, *(path.stat().st_mtime - began for path in job.folder.rglob("*"))])
    return seconds


def work(job: Job) -> None:
    """The part of a job that several processes share: each calls this."""
    _train(job) if job.kind == "train" else _evaluate(job)


def read_job(path: Path) -> Job:
    """A job as `_work_together` has written it for its processes."""
    content = read_json(path)
    return Job(**content | {name: tuple(content[name]) for name in ("tasks", "styles")})


def _work_together(job: Job, lock: int) -> None:
    """The same by several processes, started for it.

    Raises:
        FlanlabError: with what the first that failed said of it.
    """
    file = job.record_file.with_suffix(".job")
    job.error_file.unlink(missing_ok=True)
    write_json(file, asdict(job))
    # The first of them takes this process's GPU.
    _free_memory()
    try:
        status = launch(
            f"{__package__}.sweep_child",
            [str(file)],
            job.processes,
            job.log_file,
            # As many together as this process would use.
            threads=max(1, torch.get_num_threads() // job.processes),
            # So that nobody begins the job anew while they end, should this process be killed.
            held=[lock],
        )
        if status and job.error_file.exists():
            raise FlanlabError(job.error_file.read_text(encoding="utf-8"))
        if status:
            raise FlanlabError(
                f"Its {job.processes} processes ended with status {status}, and did not say why.",
                hint=f"See the end of {job.log_file}. A process that the system kills has mostly been short of memory.",
            )
    finally:
        file.unlink(missing_ok=True)
        job.error_file.unlink(missing_ok=True)


def _begin(job: Job) -> None:
    if job.kind == "train":
        if (job.folder / RECIPE_FILE).exists():
            # The key has vouched for all that shapes the model; the rest, such as the number of workers, may have changed.
            _write_recipe(job)
    elif job.needs is not None:
        # With these the cell's own report shows how its model came to be.
        trained = Path(job.root) / TRAINED / job.needs
        job.folder.mkdir(parents=True, exist_ok=True)
        _write_recipe(job)
        (job.folder / "training").mkdir(exist_ok=True)
        shutil.copyfile(trained / "training" / "log.jsonl", job.folder / "training" / "log.jsonl")


def _finish(job: Job) -> None:
    if job.kind == "train":
        # Three times the size of the model, and of no use any more.
        for checkpoint in (job.folder / "training").glob("step-*"):
            shutil.rmtree(checkpoint)


def _train(job: Job) -> None:
    train_recipe(Recipe.model_validate(job.recipe), job.folder, RowReader(_path(job.mirror)))


def _evaluate(job: Job) -> None:
    recipe = Recipe.model_validate(job.recipe)
    # Without the parts left out, whose rows would be shown as exemplars otherwise.
    known = leave_out(load_collections(recipe.tasks.collections), recipe.tasks.exclude)
    tasks = select_tasks(known, job.tasks)
    evaluate_model(
        job.model,
        tasks,
        recipe.evaluation,
        job.folder,
        styles=job.styles,
        seed=recipe.seed,
        rows=RowReader(_path(job.mirror)),
        allow_seen=job.seen,
        # Not where the model lies on this machine, but what it is.
        named={"name": job.title.removeprefix("evaluate "), "model": f"{job.base}, tuned" if job.needs else job.base},
    )


def _write_recipe(job: Job) -> None:
    write_text(job.folder / RECIPE_FILE, yaml.safe_dump(job.recipe, sort_keys=False, allow_unicode=True))


def error_text(error: BaseException) -> str:
    """An error as a person should read it; its kind too where it was not written for people."""
    if isinstance(error, FlanlabError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


@contextmanager
def _alone(job: Job) -> Iterator[int]:
    """Keeps two sweeps from doing the same job at once: the second waits, and finds it done. Gives the lock's descriptor."""
    import fcntl  # not on Windows, where everything else is

    lock = job.record_file.with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another sweep that is at the same: {job.title}.")
            # Released by the system when that process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
