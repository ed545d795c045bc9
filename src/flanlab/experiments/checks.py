"""What is checked before a model is loaded: by `flan run`, `flan train`, `flan train --plan` and `flan recipe check` alike."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from transformers import PreTrainedConfig

from flanlab.data.encoding import SeparateTextEncoder, TextEncoder
from flanlab.data.mirror import mirror_from_environment
from flanlab.data.mixture import EncodedExample
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.predict import refuse_seen
from flanlab.experiments.folders import FINISHED_FILE, RECIPE_FILE, SECONDS_FILE, kept_model
from flanlab.experiments.recipe import ALLOW_OVERLAP, Plan, Recipe, divide, make_mixture, plan_rows
from flanlab.files import check_writable, existing_part
from flanlab.models.loading import LoadedModel, load_encoder, read_config
from flanlab.models.names import check_model_name
from flanlab.models.sources import read_stamp
from flanlab.processes import is_first
from flanlab.progress import say
from flanlab.settings import PREDICTIONS, RESULTS, ROUNDING, TRAINING, changed_fields
from flanlab.tasks.holdout import HoldOutSplit
from flanlab.training.estimate import saved_bytes
from flanlab.training.log import check_tracker
from flanlab.training.loss import Objective, PackedObjective, PaddedObjective
from flanlab.training.methods import check_method
from flanlab.training.settings import TrainingSettings
from flanlab.training.stream import DevExamples, dev_examples
from flanlab.training.trainer import examples_per_step

ANOTHER_FOLDER = "Name another folder with --out, or delete that one."
_CHECKED_EXAMPLES = 1_000
"""Head of the stream whose lengths are checked."""


@dataclass(frozen=True)
class Prepared:
    """All that a recipe needs but the model's weights."""

    plan: Plan
    per_step: int
    """Examples of a step."""
    dev: DevExamples
    """What the loss is measured on while training."""


def check_run(recipe: Recipe, folder: Path, rows: RowReader) -> tuple[HoldOutSplit, Prepared | None]:
    """Check a recipe as `run_recipe` does. Rows are read only if that needs no download; else the second value is None."""
    split = check_recipe(recipe, folder, evaluates=True)
    return split, prepare(recipe, split, rows, evaluates=True) if are_near(split, rows) else None


def check_recipe(
    recipe: Recipe, folder: Path | None = None, *, evaluates: bool = False, model: LoadedModel | None = None
) -> HoldOutSplit:
    """Refuse a recipe that cannot be carried out. No row is read. Of the model, only the configuration is.

    Args:
        recipe: the recipe.
        folder: of the run. It must be free or hold a part of the same run, and its disk must have room.
        evaluates: whether the held-out tasks are evaluated, of which the model then must not have seen any.
        model: a model in memory, in place of the recipe's. Only all of its weights can be tuned, since an adapter names its
            base by a place.

    Raises:
        FlanlabError: there is no such model, the method does not fit it, a task or cluster is unknown, the hold-out leaves
            nothing to train on or to test on, or the recipe asks for what is not there (dev rows, a tracker).
    """
    if model is None:
        check_model_name(recipe.model)
    elif model.folder is None and recipe.training.method != "full":
        raise FlanlabError(
            f"A model in memory cannot be tuned with `method: {recipe.training.method}`: the adapter could not name its base.",
            hint="Save the model with save_pretrained and give the folder's name, or tune all weights (method: full).",
        )
    # Of several processes the first one alone looks at the folder, in which it soon writes.
    own_folder = folder if is_first() else None
    if own_folder is not None:
        check_folder(own_folder, recipe)
    check_method(recipe.model, recipe.training)
    check_tracker(recipe.training.track)
    split = divide(recipe)
    if recipe.training.dev_every is not None and not any(task.has_split("dev") for task in split.train):
        raise FlanlabError(
            "training.dev_every is set, but no task that is trained on has dev rows.", hint="Leave it out, or add a dev split."
        )
    if evaluates:
        stamp = read_stamp(Path(recipe.model)) if model is None else model.stamp
        refuse_seen(split.test, recipe.model, stamp, recipe.allows_seen, way=ALLOW_OVERLAP)
    if own_folder is not None:
        check_disk(own_folder, recipe.model, _config(recipe, model), recipe.training)
    return split


def prepare(
    recipe: Recipe, split: HoldOutSplit, rows: RowReader, *, evaluates: bool, model: LoadedModel | None = None
) -> Prepared:
    """Read the rows of a recipe, and check what only they can show.

    Raises:
        FlanlabError: rows are not available, or examples are too long for the model or for a batch.
    """
    plan = plan_rows(recipe, split, rows)
    encoder = load_encoder(recipe.model) if model is None else model.encoder
    dev = make_dev_examples(plan, encoder, rows)
    per_step = check_examples(plan, encoder, _config(recipe, model), dev)
    if evaluates:
        _ = plan.dev_planned  # refuses what cannot be asked
    return Prepared(plan, per_step, dev)


def are_near(split: HoldOutSplit, rows: RowReader) -> bool:
    """Whether the rows of all tasks can be read without the Hub."""
    sources = [source for task in (*split.train, *split.test) for source in task.sources.values()]
    return (rows.mirror or mirror_from_environment()) is not None or all(source.hub is None for source in sources)


def check_examples(plan: Plan, encoder: TextEncoder, config: PreTrainedConfig, dev: DevExamples | None = None) -> int:
    """Refuse examples that are longer than the model reads or than a batch: of dev rows, and of the head of the stream.

    Returns:
        How many examples a step has.
    """
    training, mixture = plan.recipe.training, make_mixture(plan)
    per_step = examples_per_step(mixture, encoder, training)
    head = mixture.examples(range(min(_CHECKED_EXAMPLES, mixture.cycle_length)), encoder)
    examples = [found for found in head if isinstance(found, EncodedExample)]
    examples += [example for some in (dev or {}).values() for example in some]
    objective: Objective
    if isinstance(encoder, SeparateTextEncoder):
        objective = PaddedObjective(tuple(encoder.answer_start))
    else:
        objective = PackedObjective((0,) * training.prompt_length if training.method == "prompt" else ())
    objective.check_reach(config, examples)
    objective.batches(examples, training.micro_batch_tokens)
    return per_step


def make_dev_examples(plan: Plan, encoder: TextEncoder, rows: RowReader) -> DevExamples:
    """What the loss is measured on while training, where the recipe asks for that; of the tasks that have a dev split.

    Raises:
        FlanlabError: rows are not available, or none fits into the mixture's limits.
    """
    recipe, training = plan.recipe, plan.recipe.training
    if training.dev_every is None:
        return {}
    found_rows = {task.name: rows.read(task, "dev") for task in plan.split.train if task.has_split("dev")}
    found = dev_examples(
        plan.split.train, found_rows, plan.train_rows, recipe.mixture, recipe.seed, encoder, training.dev_examples
    )
    if not found:
        raise FlanlabError(
            "training.dev_every is set, but no dev example fits into the limits for prompt and target.",
            hint="Raise mixture.prompt_tokens or mixture.target_tokens, or leave training.dev_every out.",
        )
    return found


def check_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds anything but a run of this recipe, which may be another in what it evaluates.

    Where the model and the tasks are found does not matter: what is found there is compared when the run begins.
    """
    check_writable(folder)
    path = folder / RECIPE_FILE
    if not path.exists():
        # A further training that is stopped while its model is loaded leaves the time that it took.
        if folder.is_dir() and any(one.name != SECONDS_FILE for one in folder.iterdir()):
            raise FlanlabError(f"{folder} is not empty and holds no run.", hint="Name another folder with --out.")
        return
    try:
        earlier = Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError) as error:
        raise FlanlabError(f"{path}: is damaged, or from another version of flanlab.", hint=ANOTHER_FOLDER) from error
    changes = changed_fields(earlier, recipe)
    if trained := [f"  {name}: {change}" for name, change in changes.items() if TRAINING in change.affects]:
        raise FlanlabError("\n".join([f"{folder} holds a run of another recipe:", *trained]), hint=ANOTHER_FOLDER)
    scored = [
        f"{name}: {change}" for name, change in changes.items() if set(change.affects) & {*PREDICTIONS, RESULTS, ROUNDING}
    ]
    if scored:
        say(f"{folder}: the recipe's evaluation has changed ({'; '.join(scored)}). Training is kept.")


def check_disk(folder: Path, model: str, config: PreTrainedConfig, training: TrainingSettings) -> None:
    """Refuse a disk without room for one checkpoint, the tuned model and those that are kept; warn if not for three.

    What an earlier part of the run saved there counts as room, because it is replaced.

    Raises:
        FlanlabError: says how much is needed and how much is free.
    """
    if (folder / "training" / FINISHED_FILE).is_file():
        return
    checkpoint, tuned = saved_bytes(model, config, training)
    kept = [step for step in training.keep_steps if not kept_model(folder, step).is_dir()]
    models = tuned * (1 + len(kept))
    saved = sum(path.stat().st_size for path in folder.glob("training/step-*/*.safetensors"))
    free = shutil.disk_usage(existing_part(folder)).free + saved
    beside = f" with {len(kept)} of training.keep_steps" if kept else ""
    needs = f"A checkpoint takes {_gigabytes(checkpoint)} and the tuned model{beside} {_gigabytes(models)}, but"
    has = f"{_gigabytes(free)} are free for {folder}."
    if free < checkpoint + models:
        raise FlanlabError(
            f"{needs} only {has}",
            hint="Free some space, name a folder on another disk with --out, or set training.method: lora, which saves less.",
        )
    if free < 3 * checkpoint + models:
        say(f"Warning: {needs} {has} Two checkpoints are kept while a third is written, so a long training may fill the disk.")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"


def _config(recipe: Recipe, model: LoadedModel | None) -> PreTrainedConfig:
    return read_config(recipe.model) if model is None else model.model.config
