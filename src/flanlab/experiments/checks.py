"""What is refused before it costs: by `flan train`, `flan run`, `flan train --plan` and `flan recipe check` alike."""

from __future__ import annotations

import shutil
from pathlib import Path

from flanlab.data.reader import RowReader
from flanlab.data.sources import mirror_from_environment
from flanlab.errors import FlanlabError
from flanlab.experiments.recipe import Plan, Recipe, divide, plan_rows
from flanlab.experiments.run_folder import FINISHED_FILE
from flanlab.files import existing_part
from flanlab.models.loading import LoadedModel
from flanlab.models.names import check_model_name
from flanlab.progress import say
from flanlab.tasks.holdout import HoldOutSplit
from flanlab.training.estimate import saved_bytes
from flanlab.training.methods import check_method
from flanlab.training.settings import TrainingSettings
from flanlab.training.tracking import check_tracker


def check_recipe(recipe: Recipe, *, in_memory: bool = False) -> HoldOutSplit:
    """Refuse a recipe that cannot be carried out. No row is read, and nothing is loaded.

    Args:
        recipe: the recipe.
        in_memory: its model is not looked up by its name.

    Raises:
        FlanlabError: there is no such model, the method does not fit it, a task or cluster is unknown, the hold-out leaves
            nothing to train on or to test on, or the recipe asks for what is not there (dev rows, a tracker).
    """
    if not in_memory:
        check_model_name(recipe.model)
    check_method(recipe.model, recipe.training)
    check_tracker(recipe.training.track)
    split = divide(recipe)
    if recipe.training.dev_every is not None and not any(task.has_split("dev") for task in split.train):
        raise FlanlabError(
            "training.dev_every is set, but no task that is trained on has dev rows.", hint="Leave it out, or add a dev split."
        )
    return split


def plan_if_near(recipe: Recipe, split: HoldOutSplit, rows: RowReader) -> Plan | None:
    """The plan with all rows, read if that needs no download; None if rows would have to come from the Hub.

    Raises:
        FlanlabError: as `plan_rows`.
    """
    tasks = (*split.train, *split.test)
    from_hub = any(source.hub is not None for task in tasks for source in task.sources.values())
    if from_hub and (rows.mirror or mirror_from_environment()) is None:
        return None
    return plan_rows(recipe, split, rows)


def check_disk(folder: Path, loaded: LoadedModel, training: TrainingSettings) -> None:
    """Refuse a disk without room for one checkpoint and the tuned model; warn if three checkpoints have no room.

    What an earlier part of the run saved there counts as room, because it is replaced.

    Raises:
        FlanlabError: says how much is needed and how much is free.
    """
    if (folder / "training" / FINISHED_FILE).is_file():
        return
    checkpoint, model = saved_bytes(loaded.name, loaded.model.config, training)
    saved = sum(path.stat().st_size for path in folder.glob("training/step-*/*.safetensors"))
    free = shutil.disk_usage(existing_part(folder)).free + saved
    needs = f"A checkpoint takes {_gigabytes(checkpoint)} and the tuned model {_gigabytes(model)}, but"
    has = f"{_gigabytes(free)} are free for {folder}."
    if free < checkpoint + model:
        raise FlanlabError(
            f"{needs} only {has}",
            hint="Free some space, name a folder on another disk with --out, or set training.method: lora, which saves less.",
        )
    if free < 3 * checkpoint + model:
        say(f"Warning: {needs} {has} Two checkpoints are kept while a third is written, so a long training may fill the disk.")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
