"""Contamination of evaluation rows by a training mixture or any other corpus, and scores with and without them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flanlab import __version__
from flanlab.data.corpus import corpus_files, read_corpus
from flanlab.data.mixture import EncodedExample
from flanlab.data.ngrams import Piece
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.contamination import (
    SHORTEST,
    EvaluatedRow,
    FrequentIn,
    evaluated_rows,
    find_overlaps,
    refuse_other_rows,
    scores_apart,
    summarize,
)
from flanlab.evaluation.evaluate import plan_tasks
from flanlab.evaluation.planning import EvaluationSettings, task_as_asked
from flanlab.experiments.folders import RECIPE_FILE
from flanlab.experiments.recipe import Plan, make_mixture, make_plan, names_a_recipe, read_recipe
from flanlab.files import new_file, write_json
from flanlab.models.loading import load_encoder
from flanlab.progress import meter, say
from flanlab.results.files import RESULTS_FILE, read_predictions, read_results
from flanlab.tasks.loading import find_tasks
from flanlab.tasks.schema import Task
from flanlab.training.trainer import examples_per_step

TABLE_FILE = "contamination.parquet"
SUMMARY_FILE = "contamination.json"


@dataclass(frozen=True)
class _Evaluated:
    """A task with the rows of it that are looked for."""

    task: Task
    rows: list[EvaluatedRow]
    variants: Mapping[str, Path]
    """Folders of its predictions, where there are some."""


def check_contamination(
    tasks: str | Path | Task | Sequence[str | Path | Task],
    corpus: Sequence[str | Path],
    folder: str | Path,
    *,
    sizes: Sequence[int] = (13, 8),
    frequent: int = 10,
    frequent_in: FrequentIn = "evaluation",
    columns: Sequence[str] = (),
    evaluation: EvaluationSettings | None = None,
    predictions: str | Path | None = None,
    collections: Sequence[str | Path] | None = None,
    mirror: str | Path | None = None,
) -> dict[str, Any]:
    """Look for evaluation rows in a corpus, and write a table of them and a summary into `folder`.

    Args:
        tasks: the tasks whose rows are searched, as for `evaluate`. With `predictions`, those of them that were predicted; by
            default all that were.
        corpus: files and folders of text, and recipes (.yaml), of which the training examples are read.
        folder: for contamination.parquet and contamination.json, which are written at the end.
        sizes: words of the n-grams.
        frequent: an n-gram in more places than this is ignored.
        frequent_in: where places are counted: `evaluation`, `corpus` (GPT-3's filtering) or `nowhere`.
        columns: columns of text in .jsonl and .parquet. Default: `prompt` and `target` if both exist, else `text`.
        evaluation: split and number of rows, as of `flan eval`.
        predictions: a folder of `flan eval` or `flan run`: the rows are those that were predicted, and scores are given on
            all, clean and overlapping ones.
        collections: as for `evaluate`.
        mirror: as for `run`.

    Returns:
        The content of contamination.json.

    Raises:
        FlanlabError: names what cannot be read; predictions of other rows; an n below SHORTEST.

    Examples:
        >>> import flanlab as fl
        >>> folder.mkdir()
        >>> corpus = folder / "corpus.txt"
        >>> _ = corpus.write_text("Eight words or more that no row of the task holds.")
        >>> found = fl.check_contamination("visitor_comments", [corpus], folder / "out")
        >>> found["tasks"]["visitor_comments"]["8"]["input"]["overlapping"]
        0
    """
    if predictions is not None and evaluation is not None:
        raise FlanlabError("The rows are those that were predicted.", hint="Leave --rows and --split out.")
    names = tasks or predicted_tasks(predictions)
    if not names:
        raise FlanlabError(
            "Nothing says whose rows are looked for.", hint="Name tasks or clusters, or a folder with --predictions."
        )
    if too_small := [size for size in sizes if size < SHORTEST]:
        raise FlanlabError(
            f"{too_small[0]}-grams are too short to tell: they are found anywhere.", hint=f"Use {SHORTEST} words or more."
        )
    folder, reader, found = Path(folder), RowReader(mirror), find_tasks(names, collections)
    recipes = [Path(path) for path in corpus if names_a_recipe(path)]
    files = corpus_files([Path(path) for path in corpus if not names_a_recipe(path)])
    plans = {path: make_plan(read_recipe(path), reader) for path in recipes}
    if predictions is not None:
        evaluation = _predicted_settings(Path(predictions))
        chosen = _predicted(found, Path(predictions), evaluation, reader)
    else:
        evaluation = evaluation or EvaluationSettings()
        chosen = _planned(found, evaluation, reader)
    rows = [row for one in chosen for row in one.rows]
    say(f"{len(rows)} rows of {len(chosen)} task{'s' * (len(chosen) > 1)} are looked for")
    mixtures = (piece for path, plan in plans.items() for piece in _mixture_pieces(path, plan))
    table, read = find_overlaps(
        rows,
        itertools.chain(mixtures, read_corpus(files, columns) if files else ()),
        sizes,
        frequent=frequent,
        frequent_in=frequent_in,
    )
    summary = {
        "format": 1,
        "flanlab": __version__,
        "split": evaluation.split,
        "sizes": list(sizes),
        "shortest": SHORTEST,
        "frequent": {"more_than": frequent, "in": frequent_in},
        "corpus": {
            "read": [str(path) for path in corpus],
            "files": len(files),
            "documents": read.documents,
            "words": read.words,
        },
        "tasks": summarize(table),
        "scores": {
            one.task.name: {str(size): scores_apart(one.task, one.variants, evaluation, table, size) for size in sizes}
            for one in chosen
            if one.variants
        },
    }
    with new_file(folder / TABLE_FILE) as temporary:
        pq.write_table(table, temporary)
    write_json(folder / SUMMARY_FILE, summary)
    return summary


def predicted_tasks(folder: str | Path | None) -> list[str]:
    """Names of the tasks that a folder holds predictions of."""
    return [] if folder is None else sorted({place.name for place in Path(folder).glob("predictions/*/*")})


def _planned(tasks: Sequence[Task], settings: EvaluationSettings, reader: RowReader) -> list[_Evaluated]:
    """The rows that `flan eval` would take."""
    return [
        _Evaluated(one.task, evaluated_rows(one.task, one.rows, dict.fromkeys(row for row, _ in one.pairs)), {})
        for one in plan_tasks(tasks, settings, 0, reader)
    ]


def _predicted(tasks: Sequence[Task], folder: Path, settings: EvaluationSettings, reader: RowReader) -> list[_Evaluated]:
    """The rows that were predicted, made sure to be the same as now."""
    variants: dict[str, dict[str, Path]] = {}
    for place in sorted(folder.glob("predictions/*/*")):
        variants.setdefault(place.name, {})[place.parent.name] = place
    if not variants:
        raise FlanlabError(
            f"{folder}: holds no predictions.", hint="Name the folder that `flan eval` or `flan run` wrote with --out."
        )
    chosen = []
    for own in (subtask for whole in tasks for subtask in whole.evaluated_subtasks(settings.split) if subtask.name in variants):
        task = task_as_asked(own, settings)
        rows = reader.read(task, settings.split)
        indices: dict[int, None] = {}
        for place in variants[task.name].values():
            predictions = read_predictions(place)
            refuse_other_rows(task, rows, predictions)
            indices.update(dict.fromkeys(predictions["row"].to_pylist()))
        chosen.append(_Evaluated(task, evaluated_rows(task, rows, sorted(indices)), variants[task.name]))
    if not chosen:
        raise FlanlabError(
            f"{folder}: holds predictions of {', '.join(sorted(variants))}, none of which is among the tasks chosen.",
            hint="Name tasks that were predicted, or none; --tasks tells where they are.",
        )
    return chosen


def _predicted_settings(folder: Path) -> EvaluationSettings:
    """As the results say, or the recipe of a run that has none yet."""
    recipe, results = folder / RECIPE_FILE, folder / RESULTS_FILE
    if results.is_file():
        asked = next(iter(read_results(folder).variants.values()))
        return EvaluationSettings.model_validate(asked.settings)
    return read_recipe(recipe).evaluation if recipe.is_file() else EvaluationSettings()


def _mixture_pieces(path: Path, plan: Plan) -> Iterator[Piece]:
    """Every example that a recipe trains on, prompt and target, as its model reads them."""
    encoder = load_encoder(plan.recipe.model)
    mixture = make_mixture(plan)
    examples = examples_per_step(mixture, encoder, plan.recipe.training) * plan.recipe.training.steps
    with meter(f"Reading the mixture of {path}", examples) as bar:
        for position, found in enumerate(mixture.stream(range(examples), encoder)):
            bar.advance()
            if isinstance(found, EncodedExample):
                example = found.example
                place = f"example {position}: {example.task}, row {example.row}, template {example.template}"
                yield Piece(str(path), place, f"{example.prompt}\n{example.target}")
