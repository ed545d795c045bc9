"""A run: a recipe carried out in one folder. Untuned scores, tuning, tuned scores, results; each stage kept once done.

Or the same several times, each time trained with another seed.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from flanlab import __version__
from flanlab.data.encoding import PromptStyle
from flanlab.data.mixture_card import describe_mixture
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.evaluate import evaluate, score_tasks
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup, variant_of
from flanlab.evaluation.predict import refuse_seen
from flanlab.evaluation.sides import results_over_seeds, variance_told
from flanlab.experiments.checks import ANOTHER_FOLDER, Prepared, check_recipe, prepare
from flanlab.experiments.cost import count_questions, run_prices
from flanlab.experiments.folders import FINISHED_FILE, RECIPE_FILE, SECONDS_FILE, kept_model, seconds_of
from flanlab.experiments.power import averaged, detects
from flanlab.experiments.recipe import ALLOW_OVERLAP, Plan, Recipe, make_mixture, make_plan
from flanlab.experiments.stamp import make_stamp, training_facts, training_key
from flanlab.files import new_folder, read_json, write_json, write_text
from flanlab.models.built_in import BUILT_IN_MODELS
from flanlab.models.loading import LoadedModel, load_model, scoring_model
from flanlab.models.sources import STAMP_FILE
from flanlab.processes import first_before_others, from_first, is_first, together
from flanlab.progress import clock, say
from flanlab.results.files import RESULTS_FILE, read_results, write_results
from flanlab.results.schema import TUNED, Results, Variant, kept_variant
from flanlab.settings import flattened
from flanlab.tasks.holdout import ON_ITS_ROWS
from flanlab.tasks.loading import own_versions
from flanlab.tasks.schema import Task
from flanlab.training.methods import save_trained
from flanlab.training.parallel import whole_weights
from flanlab.training.precision import settle, vocabulary_share
from flanlab.training.stream import DevExamples
from flanlab.training.trainer import train

_SETTLED_FILE = "settled.json"
"""What `auto` came to when the run began, which stays so on another machine; and what the run trains on, by content."""
_SETTLED = {"compute_dtype", "train_embeddings"}
_DESCRIBED_EXAMPLES = 10_000
"""Head of the stream whose tokens a run counts before it begins; `flan mix` counts a whole cycle."""


def run_recipe(
    recipe: Recipe, folder: Path, rows: RowReader | None = None, model: LoadedModel | None = None, *, seeds: int = 1
) -> Results:
    """Run a recipe in `folder`; a folder that holds part of it already is resumed.

    Several processes, as torchrun starts them, share the work; the first writes what is not a share of theirs.

    Args:
        recipe: the recipe.
        folder: of the run.
        rows: where rows come from.
        model: a model in memory, in place of the recipe's. It is trained with one seed.
        seeds: how often the model is trained, each time with another seed: again in `folder/seed-1` and so on. The untuned
            model is asked once, and scores of the tuned one are over all trainings. A finished run is extended.

    Returns:
        The results, as they are written into the folder.

    Raises:
        FlanlabError: the recipe cannot be carried out, or the folder holds a run of another recipe.
    """
    if model is not None and seeds > 1:
        raise FlanlabError(
            "A model in memory can be trained with one seed only.",
            hint="Save the model with save_pretrained, and give the folder's name.",
        )
    rows = rows or RowReader()
    with together():
        results = _run(recipe, folder, rows, model)
    return results if seeds == 1 else _over_seeds(results, recipe, folder, rows, seeds)


def _run(recipe: Recipe, folder: Path, rows: RowReader, model: LoadedModel | None) -> Results:
    started = time.monotonic()
    ready, loaded, stamp = _begin(recipe, folder, rows, model, evaluates=True)
    plan, planned, settings = ready.plan, ready.plan.planned, recipe.evaluation
    styles = prompt_styles(loaded, [one.task for one in planned])
    scored = scoring_model(loaded, settings.dtype)

    def begin() -> None:
        announce(ready, loaded, scored, styles, is_begun=(folder / "run.json").exists())
        _claim(folder, recipe, plan, stamp)
        write_json(folder / "run.json", _facts(plan, loaded, scored))
        planned = ready.per_step * recipe.training.steps
        write_json(
            folder / "mixture.json",
            describe_mixture(make_mixture(plan), loaded.encoder, planned, most=_DESCRIBED_EXAMPLES),
        )

    from_first(begin)
    variants: dict[str, Variant] = {}
    tuned = f"{loaded.name}, tuned"

    def score(setup: Setup, dev_planned: Sequence[PlannedTask] = plan.dev_planned, **facts: str) -> None:
        evaluate(setup, planned, dev_planned, folder)
        variants[setup.name] = setup.variant(**facts)

    with counted_seconds(folder, started) as seconds:
        # Before training, which puts a LoRA adapter into the model.
        for style in styles:
            for arm in settings.arms(style):
                names = variant_of(f"untuned_{style}", f"untuned, {style} prompt", arm, settings, style, settings.shot_count)
                score(Setup(scored, arm, recipe.seed, style, *names))
        # Credited with the better of all ways to ask it after as many exemplars; the tuned one has its main way alone.
        before = [name for name, one in variants.items() if one.settings["shots"] == settings.shot_count]
        model = _tune(loaded, plan, stamp, folder, ready.dev)
        seen = dict.fromkeys((task.name for task in plan.split.in_domain), ON_ITS_ROWS)
        seen |= refuse_seen(plan.split.test, model.name, model.stamp, recipe.allows_seen, way=ALLOW_OVERLAP)
        for arm in settings.arms():
            score(Setup(model, arm, recipe.seed, "instruction", *tuned_variant(arm, settings)), model=tuned)
        for step in plan.recipe.training.keep_steps:
            place = kept_model(folder, step)
            if not place.is_dir():
                say(f"Warning: {place} is missing and is not scored: training was past step {step} when it was asked for.")
                continue
            kept, title = load_model(str(place), dtype=settings.dtype), f"tuned for {step} step{'' if step == 1 else 's'}"
            score(Setup(kept, settings.arms()[0], recipe.seed, "instruction", kept_variant(step), title), [], model=tuned)

        def finish() -> None:
            results = score_tasks(
                planned,
                settings,
                variants,
                folder,
                before=before,
                after=TUNED,
                seen=seen,
                name=recipe.name,
                description=recipe.description,
                hold_out=[cluster.value for cluster in plan.split.hold_out.clusters],
                left_out=dict(plan.split.left_out),
                allowed_overlaps=dict(plan.split.allowed),
                notes=_notes(plan, loaded),
                seconds=round(seconds(), 1),
            )
            write_results(results, folder)

        from_first(finish)
        return read_results(folder)


def train_recipe(recipe: Recipe, folder: Path, rows: RowReader | None = None, model: LoadedModel | None = None) -> LoadedModel:
    """Only the tuning of a recipe; the model is left in `folder/model`.

    Raises:
        FlanlabError: as `run_recipe`.
    """
    with together():
        ready, loaded, stamp = _begin(recipe, folder, rows or RowReader(), model, evaluates=False)
        from_first(lambda: _claim(folder, recipe, ready.plan, stamp))
        announce_training(ready.plan, loaded)
        return _tune(loaded, ready.plan, stamp, folder, ready.dev)


def _over_seeds(first: Results, recipe: Recipe, folder: Path, rows: RowReader, seeds: int) -> Results:
    """Train and ask the model again with further seeds, and write results over all trainings in place of the first one's."""
    # What `auto` came to is the same for all trainings. The learning curve is the first one's.
    same = recipe.with_training(**settled_earlier(folder), keep_steps=[])
    settings, planned = recipe.evaluation, make_plan(recipe, rows).planned
    others = [folder / f"seed-{number}" for number in range(1, seeds)]
    seconds = first.seconds or 0.0
    for number, other in enumerate(others, start=1):
        say(f"Training {number + 1} of {seeds}, with the seed {recipe.training_seed + number}:")
        with counted_seconds(other, time.monotonic()) as so_far:
            model = train_recipe(same.reseeded(number), other, rows)
            for arm in settings.arms():
                evaluate(Setup(model, arm, recipe.seed, "instruction", *tuned_variant(arm, settings)), planned, [], other)
            seconds += so_far()
    if not is_first():
        return first
    untuned = [name for name, variant in first.variants.items() if variant.title.startswith("untuned")]
    before = [name for name in untuned if first.variants[name].settings["shots"] == settings.shot_count]
    found = results_over_seeds(folder, others, before=before, after=TUNED)
    note = (
        f"Scores of the tuned model are means over {seeds} trainings with the seeds {recipe.training_seed} to"
        f" {recipe.training_seed + seeds - 1}. Of the variance of its mean, rows / templates / seeds contribute"
        f" {variance_told(found, TUNED)}. Example predictions are of the first training."
    )
    found = found.model_copy(update={"notes": [*first.notes, note], "seconds": round(seconds, 1)})
    write_results(found, folder)
    return found


def _begin(
    recipe: Recipe, folder: Path, rows: RowReader, model: LoadedModel | None, *, evaluates: bool
) -> tuple[Prepared, LoadedModel, dict[str, Any]]:
    """A recipe checked, its plan with what `auto` comes to, the model, and the stamp of the tuned one."""
    with first_before_others():
        split = check_recipe(recipe, folder, evaluates=evaluates, model=model)
        ready = prepare(recipe, split, rows, evaluates=evaluates, model=model)
    with first_before_others():
        loaded = model or load_model(recipe.model)
    began = recipe.with_training(seed=recipe.training_seed, **from_first(lambda: settled_earlier(folder)))
    settled = began.model_copy(update={"training": settle(began.training, loaded.model)})
    plan = replace(ready.plan, recipe=settled)
    stamp = make_stamp(plan, loaded)
    from_first(lambda: _check_contents(folder, stamp))
    return replace(ready, plan=plan), loaded, stamp


def settled_earlier(folder: Path) -> dict[str, Any]:
    """The settings of training that this run was begun with, in place of `auto`; none for a new run."""
    path = folder / _SETTLED_FILE
    return {name: value for name, value in read_json(path).items() if name in _SETTLED} if path.exists() else {}


def prompt_styles(loaded: LoadedModel, tasks: Sequence[Task]) -> list[PromptStyle]:
    """How the untuned model is asked: by the plain instruction, through its own chat template where it has one, and by the
    tasks' baseline prompts where all of them have one.
    """
    styles: list[PromptStyle] = ["instruction"]
    if loaded.encoder.takes_dialogues:
        styles.append("chat")
    if all(task.baseline is not None for task in tasks):
        styles.append("baseline")
    return styles


def save_tuned(
    model: torch.nn.Module,
    loaded: LoadedModel,
    stamp: Mapping[str, Any],
    folder: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a tuned model as a plain Hugging Face folder (or an adapter) with its stamp; `weights` are a divided model's."""
    with new_folder(folder) as temporary:
        save_trained(model, temporary, weights)
        loaded.encoder.tokenizer.save_pretrained(temporary)
        write_json(temporary / STAMP_FILE, stamp)


def _tune(loaded: LoadedModel, plan: Plan, stamp: Mapping[str, Any], folder: Path, dev: DevExamples) -> LoadedModel:
    target = folder / "model"
    key = training_key(stamp)
    finished = folder / "training" / FINISHED_FILE

    def is_done() -> bool:
        return finished.is_file() and read_json(finished)["training_key"] == key and (target / STAMP_FILE).is_file()

    def keep(model: torch.nn.Module, step: int) -> None:
        weights = whole_weights(model)
        from_first(lambda: save_tuned(model, loaded, {**stamp, "steps": step}, kept_model(folder, step), weights))

    if not from_first(is_done):
        model = train(
            loaded,
            make_mixture(plan),
            plan.recipe.training,
            folder=folder / "training",
            training_key=key,
            stamp=stamp,
            dev=dev,
            keep=keep,
        )
        weights = whole_weights(model)

        def finish() -> None:
            save_tuned(model, loaded, stamp, target, weights)
            write_json(finished, {"training_key": key})

        from_first(finish)
    return load_model(str(target), dtype=plan.recipe.evaluation.dtype)


def _check_contents(folder: Path, stamp: Mapping[str, Any]) -> None:
    """Refuse to go on with a training that began with another model, other tasks or other rows."""
    path = folder / _SETTLED_FILE
    if not path.exists() or not any((folder / "training").glob("*")):
        return
    old, new = flattened(read_json(path)["trained_on"]), flattened(training_facts(stamp))
    changes = [f"  {name}: {old.get(name)} -> {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)]
    if changes:
        raise FlanlabError(
            "\n".join([f"{folder} holds a run that was trained on something else:", *changes]), hint=ANOTHER_FOLDER
        )


def _claim(folder: Path, recipe: Recipe, plan: Plan, stamp: Mapping[str, Any]) -> None:
    """Take a folder for a recipe: once it is planned, so that a faulty one leaves the folder free for the corrected one."""
    write_text(folder / RECIPE_FILE, recipe_text(recipe))
    settled = plan.recipe.training.model_dump(include=_SETTLED)
    write_json(folder / _SETTLED_FILE, {**settled, "trained_on": training_facts(stamp)})


def recipe_text(recipe: Recipe) -> str:
    """A recipe as it is written into a folder."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def tuned_variant(arm: EvaluationSettings, settings: EvaluationSettings) -> tuple[str, str]:
    """Name of an arm's predictions of the tuned model in files, and for people."""
    return variant_of(TUNED, "tuned", arm, settings, "instruction", settings.shot_count)


def _facts(plan: Plan, loaded: LoadedModel, scored: LoadedModel) -> dict[str, Any]:
    """Versions and hashes: what it takes to know whether two runs were the same."""
    rows = {one.task.name: one.rows for one in plan.planned} | {**plan.train_rows}
    return {
        "flanlab": __version__,
        "python": platform.python_version(),
        "packages": {
            name: _version(name) for name in ("torch", "transformers", "tokenizers", "datasets", "pyarrow", "peft", "numpy")
        },
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "device": str(loaded.model.device)},
        "model": {"name": loaded.name, "identity": loaded.identity, "tokenizer": loaded.encoder.hash},
        "precision": {"training": plan.recipe.training.compute_dtype, "scoring": scored.dtype},
        "train_embeddings": plan.recipe.training.train_embeddings,
        "tasks": {
            task.name: {"task": task.hash, "rows": rows[task.name].source_hash}
            for task in (*plan.split.train, *plan.split.test)
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _notes(plan: Plan, loaded: LoadedModel) -> list[str]:
    """What a reader must know to judge the numbers."""
    notes = own_versions([*plan.split.train, *plan.split.test])
    if built_in := BUILT_IN_MODELS.get(loaded.name):
        notes.append(f"The untuned model is {built_in.description}")
    elif loaded.encoder.has_chat_template:
        notes.append("The untuned model has a chat template: it is probably instruction-tuned already.")
    if loaded.stamp is not None:
        notes.append(f"The model was tuned here before, on {len(loaded.stamp['tasks'])} tasks; see its flanlab.json.")
    rows = ", ".join(f"{one.task.name} {len({row for row, _ in one.pairs})}" for one in plan.planned)
    notes.append(f"Rows evaluated: {rows}. Intervals are 95 %, over rows and templates.")
    notes.append("The untuned model is credited with the better of its prompt styles, metric by metric.")
    for name, reason in plan.split.allowed.items():
        notes.append(f"Trained on {name} although it {reason}.")
    return notes


def announce(
    ready: Prepared, loaded: LoadedModel, scored: LoadedModel, styles: Sequence[PromptStyle], *, is_begun: bool
) -> None:
    """Say what will be done and about how long it takes on this machine."""
    plan = ready.plan
    training, settings = plan.recipe.training, plan.recipe.evaluation
    prices = run_prices(plan, loaded, scored, styles)
    before = count_questions(plan.planned, settings, styles)
    before += count_questions(plan.dev_planned, settings, [style for style in styles if style != "baseline"])
    questions = count_questions([*plan.planned, *plan.dev_planned], settings, ["instruction"])
    held_out = ", ".join(cluster.label for cluster in plan.split.hold_out.clusters) or "nothing"
    test_seconds = (before + questions) * prices.question
    say(f"{plan.recipe.name}: {loaded.name} ({loaded.parameters / 1e6:.0f}M parameters) on {loaded.model.device}")
    say(f"  held out    {held_out}" + (f": {', '.join(task.name for task in plan.split.test)}" if plan.split.test else ""))
    if plan.split.in_domain:
        say(f"  in-domain   {', '.join(task.name for task in plan.split.in_domain)}: test rows of tasks that are trained on")
    tasks, clusters = len(plan.split.train), len({task.clusters[0] for task in plan.split.train})
    other = "other " if plan.split.test else ""
    say(f"  trains on   {tasks} task{'s' * (tasks > 1)} of {clusters} {other}cluster{'s' * (clusters > 1)}")
    say(f"              {ready.per_step * training.steps} examples in {training.steps} step{'s' * (training.steps > 1)}")
    announce_training(plan, loaded)
    for name, reason in plan.split.left_out.items():
        if reason != "held out":
            say(f"  left out    {name}: {reason}")
    say(f"  evaluates   {before} questions before tuning ({', '.join(styles)} prompts) and {questions} after")
    say(f"  detects     {detects(averaged(plan))}")
    times = f"about {clock(prices.training)} to train and {clock(test_seconds)} to evaluate on this machine"
    say(f"  takes       {times}{', without what is done already' if is_begun else ''}")


def announce_training(plan: Plan, loaded: LoadedModel) -> None:
    """Say what `auto` has come to: the numbers that training computes in, and whether it changes the embeddings."""
    training = plan.recipe.training
    say(f"  computes    in {training.compute_dtype} while training; weights, gradients and optimizer are float32")
    if training.method == "full" and not training.train_embeddings:
        share = vocabulary_share(loaded.model)
        say(f"  keeps       the embeddings as they are: {share:.0%} of the parameters (training.train_embeddings)")


@contextmanager
def counted_seconds(folder: Path, started: float) -> Iterator[Callable[[], float]]:
    """Keeps the seconds of all sittings beside the run, and gives what they are by now.

    A sitting that is killed outright is not counted, nor one that finds the run finished.
    """
    earlier = seconds_of(folder)
    was_finished = (folder / RESULTS_FILE).exists()

    def seconds() -> float:
        return earlier if was_finished else earlier + time.monotonic() - started

    try:
        yield seconds
    finally:
        if is_first():
            write_json(folder / SECONDS_FILE, {"seconds": seconds()})
