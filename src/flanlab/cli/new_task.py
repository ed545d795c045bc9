"""`flan tasks new`: a first task file for your own rows or a data set of the Hub."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flanlab.cli.options import Mirror, ask_person, cluster_named, folder_to_write, on_terminal
from flanlab.errors import FlanlabError
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import BUILT_IN_COLLECTIONS, load_collections
from flanlab.tasks.schema import Task

if TYPE_CHECKING:
    import pyarrow as pa

    from flanlab.data.scaffold.answers import Ask
    from flanlab.data.scaffold.columns import Column


def new_task(
    rows: Annotated[
        str, typer.Argument(help="A CSV, TSV, JSON, JSONL, Parquet or Arrow file, or a Hub id such as nyu-mll/glue.")
    ],
    cluster: Annotated[
        str,
        typer.Option(metavar="CLUSTER", help=f"The kind of task it is: {', '.join(Cluster)}. miscellaneous if none fits."),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the task. Default: from the file or data set.")] = None,
    answer: Annotated[
        str | None,
        typer.Option(help="The column with the answer. Without it the column is guessed; if that is not clear, you are asked."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Configuration (subset) of the Hub data set.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the Hub data set.")] = None,
    out: Annotated[Path, typer.Option(callback=folder_to_write, help="Folder for the task file.")] = Path("my_tasks"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing draft.")] = False,
    mirror: Mirror = None,
) -> None:
    """Write a first task file. What can be guessed from the rows is filled in, the rest is marked TODO.

    Example: flan tasks new reviews.csv --cluster sentiment --name our_reviews
    """
    from flanlab.data.scaffold.draft import scaffold_task
    from flanlab.data.table_files import table_name
    from flanlab.files import write_text

    kind = cluster_named(cluster)
    path, hub = _file_or_hub(rows)
    if path is not None and (config or revision):
        raise FlanlabError("--config and --revision are for data sets of the Hub.", hint="Leave them out for a file.")
    name = name or _name_after(f"{rows.rpartition('/')[2]} {config or ''}" if path is None else table_name(path))
    target = out / f"{name}.yaml"
    built_in = load_collections(BUILT_IN_COLLECTIONS)
    _refuse_taken(name, target, built_in, force)
    tables = _tables(path, hub, config, revision, mirror)
    place = (
        {"files": Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()}
        if path is not None
        else {key: value for key, value in (("hub", hub), ("config", config), ("revision", revision)) if value}
    )
    same_rows = [task.name for task in built_in if hub is not None and _reads(task, hub, config)]
    try:
        draft = scaffold_task(
            tables, name=name, cluster=kind, place=place, answer=answer, ask=_ask_on_terminal(), same_rows=same_rows
        )
    except FlanlabError as error:
        raise FlanlabError(f"{rows}: {error.message}", hint=error.hint) from error
    write_text(target, draft.text)
    _report(target, draft.guesses, mirror, answer)


def _ask_on_terminal() -> Ask | None:
    """Asks on a terminal which column is the answer; None where nobody can answer."""
    if not on_terminal():
        return None

    def ask(columns: Sequence[Column], likely: Column | None) -> str:
        from flanlab.progress import say

        say("It is not clear which column holds the answer:")
        for number, column in enumerate(columns, start=1):
            example = " ".join(str(column.sample[0]).split())[:60] if column.sample else ""
            say(f"  {number}  {column.name}: {example}")
        named = {str(number): column.name for number, column in enumerate(columns, start=1)}
        default = str(columns.index(likely) + 1) if likely is not None else ...
        hint = "Choose a number, or name the column with --answer."
        choices = [*named, *named.values()]
        chosen: str = ask_person("Number or name of the answer", hint, default, choices=choices, show_choices=False)
        return named.get(chosen, chosen)

    return ask


def _report(target: Path, guesses: list[tuple[str, str]], mirror: Path | None, answer: str | None) -> None:
    typer.echo(f"Wrote {target}. What was guessed, and why:")
    for topic, guess in guesses:
        typer.echo(f"  {topic:9} {guess}")
    name = target.stem
    options = f"--tasks {shlex.quote(str(target.parent))}"
    if mirror is not None and "FLANLAB_MIRROR" not in os.environ:
        options += f" --mirror {shlex.quote(str(mirror))}"
    if answer is None:
        typer.echo("If another column is the answer, run the same command with --answer COLUMN --force.")
    typer.echo("Next: open the file, fill in what is marked TODO, and")
    typer.echo(f"  flan tasks lint {name} {options}")
    typer.echo(f"  flan tasks show {name} {options}")
    typer.echo(f"  flan eval {name} {options} --model smollm2-135m-instruct --out runs/{name}")


def _file_or_hub(rows: str) -> tuple[Path | None, str | None]:
    from flanlab.data.table_files import table_suffix

    path = Path(rows)
    if path.is_dir():
        raise FlanlabError(
            f"{rows} is a folder.", hint="Name one file in it. `source.files` in the task file can list several."
        )
    if path.is_file() or table_suffix(path):
        if not path.is_file():
            raise FlanlabError(f"{rows}: there is no such file.", hint="Check the path.")
        return path, None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", rows):
        raise FlanlabError(f"{rows}: there is no such file, and it is not a Hub id.", hint="Write a Hub id as owner/name.")
    return None, rows


def _name_after(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_")
    return name if name[:1].isalpha() else f"task_{name}".rstrip("_")


def _refuse_taken(name: str, target: Path, built_in: Sequence[Task], force: bool) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise FlanlabError(
            f"{name!r} is not a valid name of a task.",
            hint=f"Use small letters, digits and _, such as --name {_name_after(name)}.",
        )
    if target.exists() and not force:
        raise FlanlabError(
            f"{target} exists already.", hint="Write it again with --force, or name another with --name or --out."
        )
    if not target.parent.is_dir() and target.parent.exists():
        raise FlanlabError(f"{target.parent} is not a folder.", hint="Name a folder with --out.")
    if name in set(Cluster):
        raise FlanlabError(f"`{name}` is the name of a cluster.", hint="Choose another with --name.")
    if any(task.name == name for task in built_in):
        raise FlanlabError(
            f"flanlab has a task called `{name}` (`flan tasks show {name}`).", hint="Choose another with --name."
        )


def _reads(task: Task, hub: str, config: str | None) -> bool:
    return any(hub in (source.hub, source.formerly) and source.config == config for source in task.sources.values())


def _tables(
    path: Path | None, hub: str | None, config: str | None, revision: str | None, mirror: Path | None
) -> dict[str, pa.Table]:
    from flanlab.data.mirror import shard_of
    from flanlab.data.sources import load_splits
    from flanlab.data.table_files import read_table

    if path is not None:
        if (shard := shard_of(path)) and shard.total > 1:
            raise FlanlabError(
                f"{path}: is one of {shard.total} shards of the split {shard.split}, and a task file reads one file.",
                hint="Write all shards to one file. If this shard is enough, rename it so that its name does not end in"
                " -NUMBER-of-COUNT.",
            )
        return {"all": read_table(path)}
    assert hub is not None
    return load_splits(hub, config, revision, mirror)
