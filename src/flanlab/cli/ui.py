"""`flan ui`: the browser app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flanlab.cli.options import Collections, Mirror, folder_to_write


def ui(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of runs or evaluations to look at.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that may be asked, as for `flan eval`. Repeatable. Runs bring their own.")
    ] = None,
    tasks: Collections = None,
    mirror: Mirror = None,
    save_to: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder in which the editor saves tasks; nothing else is written.")
    ] = Path("my_tasks"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
) -> None:
    """Open the browser app: tasks, a template editor, results, and questions to a model. Only this computer reaches it.

    Example: flan ui runs/nli --model smollm2-135m-instruct
    """
    from flanlab.errors import FlanlabError

    try:
        from flanlab.ui.app import serve
    except ModuleNotFoundError as error:
        raise FlanlabError(
            f"The browser app needs the package {error.name}, which is not installed.", hint='pip install "flanlab[ui]"'
        ) from error
    from flanlab.ui.workplace import open_workplace

    serve(open_workplace(runs or [], model or [], tasks or [], mirror, save_to), port, typer.echo)
