"""The steps of a sweep: one training, or one evaluation, each in a folder that is named by its content.

The folder holds all that is known of a step. It is done when its result is there; it runs while the folder is locked; it has
failed when it left an error. So any number of commands, on any machines that share the folder, may carry out the same steps.
"""

from __future__ import annotations

import gc
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from flanlab.data.encoding import PromptStyle
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.experiments.folders import ERROR_FILE, LOG_FILE, RECIPE_FILE, error_of, is_done
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.run import counted_seconds, recipe_text, train_recipe
from flanlab.experiments.torchrun import end_with_launcher, launch
from flanlab.files import alone_in, in_use, write_text
from flanlab.processes import from_first, is_first, may_tell, together
from flanlab.progress import say
from flanlab.tasks.loading import leave_out, load_collections, select_tasks


class Step(BaseModel):
    """A training or an evaluation, with all that it takes to carry it out on any machine."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["train", "evaluate"]
    title: str
    folder: Path
    recipe: Recipe
    """Of a training: what is trained. Of an evaluation: its settings, and its model or how that was trained."""
    base: str
    """The model that the first training started from, as the ablation's recipe names it."""
    mirror: Path | None = None
    needs: Path | None = None
    """Folder of the training that must be done before."""
    tasks: tuple[str, ...] = ()
    styles: tuple[PromptStyle, ...] = ()
    seen: bool = False
    """Of an evaluation: whether it may ask tasks that the model has seen."""
    count: int = 0
    """About how many examples or questions."""
    seconds: float = 0.0
    """About how long it takes; 0 if it was done when it was planned."""
    processes: int = 1
    """How many processes carry it out together. The result is the same, to rounding."""


def carry_out(step: Step) -> str:
    """Do a step, or resume it. A step that is done is not repeated; one that another process does is waited for.

    Returns:
        Why the step could not be done, also left in its folder; empty if it is done.
    """
    if step.needs is not None and not is_done(step.needs):
        return "its training failed"
    if step.processes > 1:
        _launch(step)
    else:
        _try(step)
    return "" if is_done(step.folder) else error_of([step.folder])


def in_this_process(steps: Iterable[Step]) -> Iterator[tuple[Step, str]]:
    """Do steps one after another. Yields each with its outcome, as `carry_out` returns it."""
    for step in steps:
        say(f"Next: {step.title}.")
        yield step, carry_out(step)


def leave_error(folder: Path, error: BaseException | str) -> None:
    """Write down why a step failed. Of several processes the first one to fail knows the reason."""
    text = str(error)
    if isinstance(error, BaseException) and not isinstance(error, FlanlabError):
        text = f"{type(error).__name__}: {error}\n\n{''.join(traceback.format_exception(error))}"
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), (folder / ERROR_FILE).open("x", encoding="utf-8") as file:
        file.write(text)


def _try(step: Step) -> bool:
    """Do a step in this process, which may be one of several that torchrun started. Returns whether that went well."""
    try:
        with together(), _alone(step):
            if not is_done(step.folder):
                with counted_seconds(step.folder, time.monotonic()):
                    _train(step) if step.kind == "train" else _evaluate(step)
    except Exception as error:  # whatever it is, other cells do not depend on it
        leave_error(step.folder, error)
        return False
    finally:
        _free_memory()
    return True


@contextmanager
def _alone(step: Step) -> Iterator[None]:
    """Keep other commands from doing the same step. They wait, and find it done."""
    if not is_first():
        from_first(lambda: None)
        yield
        return
    if in_use(step.folder):
        say(f"Waiting for another command that does the same: {step.title}.")
    with alone_in(step.folder):
        (step.folder / ERROR_FILE).unlink(missing_ok=True)
        from_first(lambda: None)
        yield


def _train(step: Step) -> None:
    if is_first():
        # The folder's name covers all that shapes the model. The rest, such as the number of workers, may have changed.
        write_text(step.folder / RECIPE_FILE, recipe_text(step.recipe))
    train_recipe(step.recipe, step.folder, RowReader(step.mirror))
    if is_first():
        _delete_checkpoints(step.folder)


def _delete_checkpoints(folder: Path) -> None:
    """Of a training that is done: three times the size of the model, and of no more use."""
    for checkpoint in (folder / "training").glob("step-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def _evaluate(step: Step) -> None:
    recipe = step.recipe
    if step.needs is not None and is_first():
        # The training may have been killed just before it did this.
        _delete_checkpoints(step.needs)
        # With these the evaluation's report shows how the model was trained.
        write_text(step.folder / RECIPE_FILE, recipe_text(recipe))
        (step.folder / "training").mkdir(exist_ok=True)
        shutil.copyfile(step.needs / "training" / "log.jsonl", step.folder / "training" / "log.jsonl")
    # Without the subtasks left out, whose rows a subtask without train rows would be shown as exemplars otherwise.
    known = leave_out(load_collections(recipe.tasks.collections), recipe.tasks.exclude)
    evaluate_model(
        recipe.model if step.needs is None else str(step.needs / "model"),
        select_tasks(known, step.tasks),
        recipe.evaluation,
        step.folder,
        styles=step.styles,
        seed=recipe.seed,
        rows=RowReader(step.mirror),
        allow_seen=step.seen,
        # Not where the model is on this machine, but what it is.
        named={
            "name": step.title.removeprefix("evaluate "),
            "model": f"{step.base}, tuned" if step.needs else step.base,
        },
    )


def _launch(step: Step) -> None:
    """Do a step by several processes of its own, which end when this one does."""
    (step.folder / ERROR_FILE).unlink(missing_ok=True)
    # The first of them uses this process's GPU.
    _free_memory()
    threads = max(1, torch.get_num_threads() // step.processes)
    log = step.folder / LOG_FILE
    status = launch(__name__, [step.model_dump_json()], step.processes, log, threads=threads)
    if status and not is_done(step.folder):
        hint = f"See the end of {log}. A process that the system kills has mostly been short of memory."
        leave_error(step.folder, FlanlabError(f"Its {step.processes} processes ended with status {status}.", hint=hint))


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(content: str) -> int:
    """Do a step as one of several processes: `torchrun -m flanlab.experiments.steps JSON`. Returns the exit status."""
    end_with_launcher()
    step = Step.model_validate_json(content)
    try:
        if _try(step):
            return 0
    except KeyboardInterrupt:
        return 1
    if may_tell():
        print(f"flan: {error_of([step.folder])}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
