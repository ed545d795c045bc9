"""`flan contamination`: which evaluation rows a training mixture or any other corpus holds parts of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import flanlab as fl
from flanlab.cli.options import AsJson, Collections, Mirror, folder_to_write, say_loading
from flanlab.tasks.schema import Split


def contamination(
    corpus: Annotated[
        list[Path],
        typer.Option(
            help="Where to look: a recipe (its mixture is read), a file of `flan mix --out`, or .txt, .jsonl and"
            " .parquet files (also .gz) or folders of them. May be repeated."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(callback=folder_to_write, help="Folder for the table, the summary and the figure."),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Tasks or clusters whose rows are searched. With --predictions: by default all that were predicted."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="A folder of `flan eval` or `flan run`: search its rows, and score with and without those found."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of text in .jsonl and .parquet. May be repeated. Default: prompt and target if both exist, else text."
        ),
    ] = None,
    ngram: Annotated[
        list[int] | None, typer.Option(min=1, help="Words of an n-gram. May be repeated. Default: 13 and 8.")
    ] = None,
    frequent: Annotated[int, typer.Option(min=1, help="Ignore n-grams that occur in more places than this.")] = 10,
    frequent_in: Annotated[
        Literal["evaluation", "corpus", "nowhere"], typer.Option(help="Where places are counted. corpus is GPT-3's rule.")
    ] = "evaluation",
    split: Annotated[Split | None, typer.Option(help="The split of these rows. Default: test.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Rows of each task, chosen as by `flan eval`. Default: 200.")] = None,
    tasks: Collections = None,
    mirror: Mirror = None,
    as_json: AsJson = False,
) -> None:
    """Look for evaluation rows in a corpus by their n-grams of words, as GPT-3's authors did.

    Example: flan contamination natural_language_inference --corpus recipes/holdout-nli.yaml --out runs/contamination
    """
    say_loading()
    from flanlab.progress import say
    from flanlab.report.contamination import write_contamination_figure

    evaluation = fl.EvaluationSettings(rows=rows or 200, split=split or "test") if rows or split else None
    try:
        summary = fl.check_contamination(
            names or [],
            corpus,
            out,
            sizes=ngram or (13, 8),
            frequent=frequent,
            frequent_in=frequent_in,
            columns=column or (),
            evaluation=evaluation,
            predictions=predictions,
            collections=tasks,
            mirror=mirror,
        )
    except KeyboardInterrupt:
        say("Stopped. Nothing was written: what is read of a corpus is not kept.")
        raise
    figure = write_contamination_figure(summary, out)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    _print_summary(summary, out)
    if figure is not None:
        typer.echo(f"Clean minus all rows, task by task: {figure}")


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    from flanlab.cli.tables import compact_table, result_console

    read = summary["corpus"]
    title = f"Against {read['words']:,} words in {read['documents']:,} documents"
    table = compact_table(title, "", "n", "rows", "overlapping", "clean", "too short", "overlapping\nwith answer")
    for name, by_size in summary["tasks"].items():
        for place, (size, counts) in enumerate(by_size.items()):
            own, both = counts["input"], counts["input_and_answer"]
            cells = (size, own["rows"], own["overlapping"], own["clean"], own["too_short"], both["overlapping"])
            table.add_row("" if place else name, *map(str, cells))
    result_console().print(table)
    for name, by_size in summary["tasks"].items():
        for size, counts in by_size.items():
            if count := counts["input"]["only_frequent"]:
                typer.echo(f"  {name}, n = {size}: {count} clean rows share none but frequent n-grams with the corpus.")
    if summary["scores"]:
        _print_scores(summary["scores"])
    typer.echo(f"Row by row: {folder / 'contamination.parquet'}")


def _print_scores(scores: dict[str, Any]) -> None:
    from flanlab.cli.tables import compact_table, result_console

    subsets = ("all", "clean", "overlapping")
    table = compact_table("Scores with 95 % intervals", "", *subsets)
    for name, by_size in scores.items():
        table.add_row(f"[bold]{name}[/bold]")
        for size, entry in by_size.items():
            metric = entry["main_metric"]
            counts = (f"{entry[subset]['rows']} rows" for subset in subsets)
            table.add_row(f"  {entry['metrics'][metric]}, n = {size}", *counts)
            for variant in entry["all"]["scores"][metric]:
                table.add_row(f"    {variant}", *(_score(entry[subset], metric, variant) for subset in subsets))
        table.add_section()
    result_console().print(table)


def _score(subset: dict[str, Any], metric: str, variant: str) -> str:
    if "scores" not in subset:
        return ""
    score = subset["scores"][metric][variant]
    low, high = score["interval"]
    return f"{score['mean']:.2f} [{low:.2f}, {high:.2f}]"
