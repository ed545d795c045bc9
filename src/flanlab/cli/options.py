"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def folder_to_write(folder: Path | None) -> Path | None:
    """Refuse what cannot become a folder, before any work is done for it."""
    for place in (folder, *folder.parents) if folder else ():
        if place.exists() and not place.is_dir():
            raise typer.BadParameter(f"{place} is a file; name a folder.")
    return folder


Mirror = Annotated[
    Path | None,
    typer.Option(
        envvar="FLANLAB_MIRROR", help="Folder that mirrors Hub data sets: <hub id>/<config or default>/<split>.parquet."
    ),
]
Collections = Annotated[
    list[str] | None,
    typer.Option("--tasks", help="Where tasks are: library, extra, sampler, or a folder of your own. May be repeated."),
]


def _accept_gemma_terms(accepted: bool) -> None:
    if accepted:
        from flanlab.models.built_in import accept_gemma_terms

        accept_gemma_terms()


AcceptGemmaTerms = Annotated[
    bool,
    typer.Option(
        "--accept-gemma-terms",
        callback=_accept_gemma_terms,
        expose_value=False,
        help="You accept the Gemma Terms of Use, which gemma-3-270m needs. Remembered.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Out = Annotated[
    Path | None, typer.Option(callback=folder_to_write, help="Folder of the run; the same folder again goes on with it.")
]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe file, or `quickstart` for the packaged one.")]
