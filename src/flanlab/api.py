"""The functions of the public API, which the command line, notebooks and the browser app call."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flanlab.data.encoding import PromptStyle
from flanlab.data.mirror import MissingDataError
from flanlab.data.mixture import Mixture
from flanlab.data.mixture_card import describe_mixture, export_mixture
from flanlab.data.reader import RowReader
from flanlab.data.sources import NoRowsError
from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.options import option_shares
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.cost import run_prices
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.experiments.power import averaged, cheapest_designs, components_for, detectable_table
from flanlab.experiments.recipe import AnyRecipe, Recipe, as_recipe, divide, make_plan, reach
from flanlab.files import check_writable
from flanlab.models.answering import Model, Question, no_number, refuse_unwrapped
from flanlab.models.completions import Endpoint
from flanlab.models.loading import LoadedModel, load_encoder, scoring_model, wrap_model
from flanlab.models.loading import load_model as load_named_model
from flanlab.models.names import check_model_name
from flanlab.processes import is_first, together
from flanlab.progress import meter, say
from flanlab.report.html import write_report
from flanlab.report.run import Run
from flanlab.report.sweep import SweepRead
from flanlab.results.table import Table
from flanlab.tasks.loading import find_tasks
from flanlab.tasks.schema import Task

Names = str | Path | Task | Sequence[str | Path | Task]
"""Tasks by name, cluster, YAML file or folder, or as objects. One or several."""


def load_model(model: Any, tokenizer: Any = None, *, device: str | None = None) -> LoadedModel:
    """Load a model by name, or wrap one that is in memory.

    Args:
        model: a Hub id, a folder (weights as safetensors, or an adapter), a GGUF file, a built-in name such as
            `smollm2-135m-instruct`; or a transformers model. That one is changed: it is put into evaluation mode, and its
            attention is replaced by flanlab's, which computes the same for packed sequences. It keeps its dtype and device.
        tokenizer: the tokenizer of a transformers model. Leave it out for a name.
        device: `cpu`, `cuda` or `cuda:1`. Default: a GPU if there is one. A model in memory stays where it is.

    Returns:
        The model with its tokenizer, ready for `score`, `evaluate` and `run`.

    Raises:
        FlanlabError: the model does not exist, has no safetensors weights, or has an architecture that cannot be scored.

    Examples:
        >>> import flanlab as fl
        >>> model = fl.load_model(hf_model, hf_tokenizer)
        >>> model.parameters
        26400
    """
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise FlanlabError(
                "A model by name has its own tokenizer.",
                hint="Leave the tokenizer out, or load the model with transformers and give both objects.",
            )
        return load_named_model(str(model), device=device)
    return wrap_model(model, tokenizer)


def score(model: Model, prompt: str, options: Sequence[str], *, style: PromptStyle = "instruction") -> Table:
    """Rank answers to one prompt by their log-probability (rank classification; Wei et al. 2022, section 2.4).

    Args:
        model: a model from `load_model`.
        prompt: the text that the model reads. Include an OPTIONS block if the model should see one.
        options: possible answers, at least one.
        style: `instruction` (the answer follows after a line break), `chat` (through the model's chat template) or `baseline`
            (the answer continues the text).

    Returns:
        A row for each option, the most likely first: `option`, `log_probability` (natural log, with the end token),
        `log_probability_without_end`, `probability` (its share among these options) and `tokens` (with the end token).

    Raises:
        FlanlabError: there are no options, the model lacks the prompt style, or its server gives no log-probabilities.

    Examples:
        >>> import flanlab as fl
        >>> table = fl.score(example_model, "Is the sky blue?", ["yes", "no"])
        >>> table.columns
        ['option', 'log_probability', 'log_probability_without_end', 'probability', 'tokens']
        >>> round(sum(table.column("probability")), 6)
        1.0
    """
    if not options:
        raise FlanlabError("There are no options to score.", hint='Give a list of answers, such as ["yes", "no"].')
    refuse_unwrapped(model)
    encoded = model.encoder.encode(prompt, list(options), style)
    ((_, answer),) = model.answer([Question(encoded.prompt, encoded.answers)], 4096)
    if answer.failed:
        raise no_number("The model", "this prompt")
    if not answer.scores:
        raise FlanlabError(
            f"{model.name} gives no log-probabilities.", hint="Use `evaluate`, which compares generated answers."
        )
    columns = {
        "option": options,
        "log_probability": answer.scores,
        "log_probability_without_end": answer.scores_without_end,
        "probability": option_shares(answer.scores).tolist(),
        "tokens": answer.option_tokens,
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Table.from_rows(sorted(rows, key=lambda row: -row["log_probability"]))


def evaluate(
    model: str | Path | Model,
    tasks: Names,
    *,
    out: str | Path | None = None,
    styles: Sequence[PromptStyle] = ("instruction",),
    seed: int = 0,
    mirror: str | Path | None = None,
    collections: Sequence[str | Path] | None = None,
    allow_seen: bool = False,
    skip_missing: bool = False,
    endpoint: Endpoint | None = None,
    settings: EvaluationSettings | None = None,
    **changes: Any,
) -> Run:
    """Score a model on tasks: each chosen row through the forward templates, with intervals over rows and templates.

    Args:
        model: a name as for `load_model`, or a model from it.
        tasks: names of tasks (`rte`), subtasks (`anli.r1`) and clusters (`sentiment`), YAML files, folders, or tasks.
        out: folder for predictions, results and report. Existing predictions are kept and not computed again. Default: a
            temporary folder.
        styles: prompt styles. Each is a variant of the results.
        seed: determines the rows, and the order of templates and options.
        mirror: folder with copies of Hub data sets. Default: FLANLAB_MIRROR, or else the Hub.
        collections: where to look up names: `library`, `extra`, `sampler`, or folders. Default: all three.
        allow_seen: also score tasks that the model was trained on, and mark them as seen.
        skip_missing: leave out tasks whose rows are not available. `results.skipped` names them.
        endpoint: address of a server that serves `model` under this name.
        settings: what is asked, and how much. `EvaluationSettings` describes the fields.
        **changes: single fields of `EvaluationSettings`, such as `rows=100`, `shots=[0, 4]` (two variants) or `options="none"`.

    Returns:
        The evaluation, with `scores`, `predictions` and `write_report`. If torchrun started several processes, they share the
        work, and the first one writes the results. The others return before that, so read results in the first one only.

    Raises:
        FlanlabError: a name or setting is unknown, rows or model are not available, or the model was trained on a task.

    Examples:
        >>> import flanlab as fl
        >>> run = fl.evaluate(example_model, ["visitor_comments"], rows=8, templates_per_row=1, out=folder)
        >>> sorted(set(run.scores.column("task")) - {None})
        ['visitor_comments']
    """
    if not styles:
        raise FlanlabError("No prompt style is named.", hint="Use one or more of instruction, chat and baseline.")
    chosen = find_tasks(tasks, collections)
    settings = (settings or EvaluationSettings()).changed(changes)
    folder = Path(tempfile.mkdtemp(prefix="flanlab-") if out is None else out)
    found = evaluate_model(
        str(model) if isinstance(model, Path) else model,
        chosen,
        settings,
        folder,
        styles=styles,
        seed=seed,
        rows=RowReader(mirror),
        allow_seen=allow_seen,
        skip_missing=skip_missing,
        endpoint=endpoint,
    )
    return Run(folder) if found is None else _reported(folder)


def run(
    recipe: AnyRecipe,
    out: str | Path | None = None,
    *,
    model: str | Path | LoadedModel | None = None,
    seeds: int = 1,
    mirror: str | Path | None = None,
) -> Run:
    """Run a recipe: score the untuned model, tune it, score it again, and write the report.

    Args:
        recipe: a recipe file, `quickstart` for the packaged one, its content as a dict, or a Recipe.
        out: folder of the run. If it has a part of this run, the run is resumed. Default: `runs/<name>`.
        model: a model instead of the recipe's: a name, or a model in memory, which is copied before it is trained.
        seeds: how often the model is trained, each time with another seed (order of rows, templates and options; initial
            weights of an adapter or soft prompt). Scores are then means with intervals over rows, templates and seeds.
        mirror: folder with copies of Hub data sets. Default: FLANLAB_MIRROR, or else the Hub.

    Returns:
        The run, with `scores`, `differences`, `predictions`, `compare` and `write_report`. If torchrun started several
        processes, they share the work, and the first one writes the results, as for `evaluate`.

    Raises:
        FlanlabError: the recipe is invalid or cannot be run, or the folder has a run of another recipe.

    Examples:
        >>> import flanlab as fl
        >>> done = fl.run(example_recipe, folder, model=example_model)
        >>> sorted(done.results.variants)
        ['tuned', 'untuned_baseline', 'untuned_chat', 'untuned_instruction']
    """
    content, folder, loaded = _given(recipe, out, model)
    # Training, which an evaluation does not need.
    from flanlab.experiments.run import run_recipe

    run_recipe(content, folder, RowReader(mirror), loaded, seeds=seeds)
    return _reported(folder) if is_first() else Run(folder)


def train(
    recipe: AnyRecipe,
    out: str | Path | None = None,
    *,
    model: str | Path | LoadedModel | None = None,
    mirror: str | Path | None = None,
) -> LoadedModel:
    """Only tune a recipe's model. The result is saved in `out/model`.

    Args:
        recipe: as for `run`.
        out: as for `run`.
        model: as for `run`.
        mirror: as for `run`.

    Returns:
        The tuned model.

    Raises:
        FlanlabError: as `run`.

    Examples:
        >>> import flanlab as fl
        >>> tuned = fl.train(example_recipe, folder, model=example_model)
        >>> sorted(tuned.stamp["hold_out"]["clusters"])
        ['sentiment']
    """
    content, folder, loaded = _given(recipe, out, model)
    from flanlab.experiments.run import train_recipe

    return train_recipe(content, folder, RowReader(mirror), loaded)


def ablate(
    name: str,
    recipe: AnyRecipe,
    out: str | Path = "runs/ablations",
    *,
    points: Sequence[Any] = (),
    only: Sequence[str] = (),
    seeds: int = 1,
    mirror: str | Path | None = None,
) -> SweepRead:
    """Run one of the paper's ablations, or compare settings of your own, with a recipe as the base. Write its page.

    Args:
        name: `clusters`, `few-shot`, `scale`, `settings` and others; an unknown name lists all (`docs/ablations.md`).
        recipe: the base recipe, as for `run`.
        out: folder of all ablations. What one has done, the others reuse. After a stop, the same call resumes.
        points: values of what the ablation varies, such as `[1, 3, 6]` clusters. Default: the ablation's own.
        only: patterns of the names of the cells to do now, such as `tuned-*`. Default: all cells.
        seeds: how often each cell is trained, each time with another seed.
        mirror: as for `run`.

    Returns:
        The finished cells: `scores` and `differences` (tables), `verdict`, `failed` (the error of each failed cell), `folder`.

    Raises:
        FlanlabError: no such ablation or point, an unsuitable recipe, or rows or the model are not available.

    Examples:
        >>> import flanlab as fl
        >>> done = fl.ablate("settings", example_recipe, folder, points=["training.learning_rate=1e-4"])
        >>> done.differences.where(level="clusters").select("before", "after").rows()[0]
        {'before': 'base', 'after': 'learning-rate-1e-4'}
    """
    from flanlab.experiments.sweep import plan_sweep, run_sweep
    from flanlab.report.sweep_page import write_pages

    chosen = [str(point) for point in points]
    sweep = plan_sweep(name, as_recipe(recipe), Path(out), RowReader(mirror), points=chosen, only=only, seeds=seeds)
    try:
        run_sweep(sweep)
    finally:
        done = write_pages(sweep.folder)
    return done


def mix(
    recipe: AnyRecipe,
    out: str | Path | None = None,
    *,
    examples: int | None = None,
    mirror: str | Path | None = None,
    skip_missing: bool = False,
) -> dict[str, Any]:
    """Describe what a recipe trains on, task by task. With `out`, also write the examples for other trainers.

    Args:
        recipe: as for `run`.
        out: a .parquet or .jsonl file for the examples. Default: no file.
        examples: number of examples of the stream. Default: all that the recipe trains on.
        mirror: folder with copies of Hub data sets. Default: FLANLAB_MIRROR, or else the Hub.
        skip_missing: leave out tasks whose rows are not available. `left_out` names them. A task without any row is always
            left out, with a warning.

    Returns:
        By task and by cluster: rows, share, epochs, examples, tokens, target tokens, and what did not fit.

    Raises:
        FlanlabError: the recipe is invalid, rows are not available, or the file type cannot be written.

    Examples:
        >>> import flanlab as fl
        >>> card = fl.mix(example_recipe, folder / "mixture.parquet", examples=20)
        >>> card["planned_examples"], len(card["tasks"]) > 10
        (20, True)
    """
    from flanlab.training.trainer import examples_per_step

    target = None if out is None else Path(out)
    if target is not None and target.suffix not in (".parquet", ".jsonl"):
        raise FlanlabError(f"{target}: this file type cannot be written.", hint="Use a .parquet or .jsonl file.")
    if target is not None:
        check_writable(target.parent)
    content = as_recipe(recipe)
    check_model_name(content.model)
    skip = (NoRowsError, MissingDataError) if skip_missing else (NoRowsError,)
    split = divide(content)
    rows, skipped = reach(split.train, "train", RowReader(mirror), skip)
    for name, reason in skipped.items():
        say(f"Warning: {name} is left out. {reason}")
    encoder = load_encoder(content.model)
    tasks = [task for task in split.train if task.name in rows]
    mixture = Mixture(tasks, rows, content.mixture, content.training_seed)
    planned = examples or examples_per_step(mixture, encoder, content.training) * content.training.steps
    with meter("Measuring the mixture", min(planned, mixture.cycle_length)) as bar:
        card: dict[str, Any] = describe_mixture(mixture, encoder, planned, bar)
    card["left_out"] = dict(split.left_out) | skipped
    if target is not None:
        with meter(f"Writing {target}", planned) as bar:
            export_mixture(mixture, encoder, planned, target, bar)
    return card


def power(
    recipe: AnyRecipe,
    *,
    pilot: str | Path | Sequence[str | Path] = (),
    seeds: int = 1,
    detect: float | None = None,
    mirror: str | Path | None = None,
) -> Table:
    """The smallest difference that a recipe's evaluation will detect with 80 % power, before anything is spent.

    What rows, templates and seeds add to the variance of a difference is taken from a pilot, and gives the interval of another
    design (`docs/statistics.md`).

    Args:
        recipe: as for `run`.
        pilot: folder of an earlier run with the same tasks; or `folder` or `folder:variant` of a model before and of one after,
            and of further ones after that were trained with other seeds. Default: figures measured with two small models.
        seeds: number of trainings in the mean. With 1, the result does not cover other seeds.
        detect: a difference between 0 and 1 (0.03: three points). If given, find the cheapest designs that detect it.
        mirror: as for `run`.

    Returns:
        Without `detect` a row for each task and one for the mean over clusters (`level` clusters): `level`, `task`, `cluster`,
        `rows`, `templates`, `templates_per_row`, `seeds`, `detectable` (0 to 1; None where it cannot be estimated, or no
        difference is large enough) and `note`.
        With `detect` a row for each aim (`average`, `every task`) and number of seeds: `aim`, `reached`, `seeds`, `rows`,
        `templates_per_row`, `seconds` on this machine, `detectable` and `note`. Where it is not reached, the row is that of the
        largest design.

    Raises:
        FlanlabError: the recipe is invalid, rows or the pilot are not available, or a number is out of range.

    Examples:
        >>> import flanlab as fl
        >>> table = fl.power({**example_recipe, "evaluation": {"rows": 40}})
        >>> table.columns[-2:], 0 < table.where(level="clusters").column("detectable")[0] < 1
        (['detectable', 'note'], True)
    """
    from flanlab.experiments.run import prompt_styles

    if seeds < 1 or (detect is not None and not 0 < detect < 1):
        raise FlanlabError(
            "`seeds` is at least 1, and `detect` lies between 0 and 1.", hint="Three points are 0.03 (--detect 3)."
        )
    plan = make_plan(as_recipe(recipe), RowReader(mirror))
    asked = averaged(plan)
    places = [pilot] if isinstance(pilot, str | Path) else pilot
    known = components_for([one.task for one in asked], [str(place) for place in places])
    if detect is None:
        return detectable_table(asked, known, seeds)
    loaded = load_named_model(plan.recipe.model)
    scored = scoring_model(loaded, plan.recipe.evaluation.dtype)
    styles = prompt_styles(loaded, [one.task for one in plan.planned])
    return cheapest_designs(asked, known, detect, run_prices(plan, loaded, scored, styles))


def _given(
    recipe: AnyRecipe, out: str | Path | None, model: str | Path | LoadedModel | None
) -> tuple[Recipe, Path, LoadedModel | None]:
    """The recipe with its model's name, the folder of its run, and a copy of the model if it is in memory."""
    with together():  # so that only one of several processes tells what is wrong with a recipe
        content = as_recipe(recipe)
    name = Path(recipe).stem if isinstance(recipe, str | Path) else content.name
    folder = Path("runs") / name if out is None else Path(out)
    if model is None:
        return content, folder, None
    if isinstance(model, str | Path):
        return content.model_copy(update={"model": str(model)}), folder, None
    refuse_unwrapped(model)
    # A copy, because training changes weights in place, and the caller's model must stay the same.
    copied = replace(model, model=copy.deepcopy(model.model))
    return content.model_copy(update={"model": model.name}), folder, copied


def _reported(folder: Path) -> Run:
    write_report(folder)
    return Run(folder)
