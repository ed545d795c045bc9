"""Options that several commands share."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flanlab.errors import FlanlabError
from flanlab.files import check_writable
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import resolve_name

if TYPE_CHECKING:
    from flanlab.models.completions import Endpoint

MODEL_HELP = "A model folder, a GGUF file, a Hub id, one of `flan models`, or a name that the --endpoint knows."
ModelName = Annotated[str, typer.Argument(help=MODEL_HELP)]
EndpointUrl = Annotated[
    str | None, typer.Option("--endpoint", help="Ask the model of this OpenAI-compatible server instead: http://host:8000/v1.")
]
RemoteTokenizer = Annotated[
    str | None, typer.Option(help="Folder, GGUF file or Hub id of the remote model's tokenizer. Without it, text is sent.")
]
RequestsPerMinute = Annotated[float | None, typer.Option(min=0.001, help="Largest number of requests started in a minute.")]
Parallel = Annotated[int | None, typer.Option(min=1, help="Largest number of requests at once. Default: 8.")]
ApiKeyVariable = Annotated[
    str | None, typer.Option(help="Environment variable with the server's key. Default: OPENAI_API_KEY.")
]


def folder_to_write(folder: Path | None) -> Path | None:
    """Refuse a place that cannot be a folder, or cannot be written to, before any work is done."""
    for place in (folder, *folder.parents) if folder else ():
        if place.exists() and not place.is_dir():
            raise typer.BadParameter(f"{place} is a file; name a folder.")
    if folder is not None:
        check_writable(folder)
    return folder


def cluster_named(name: str) -> Cluster:
    """The cluster that is meant: its name, an abbreviation, or a beginning that only one has (`NLI`, `misc`)."""
    with contextlib.suppress(FlanlabError):
        if isinstance(found := resolve_name((), name), Cluster):
            return found
    raise typer.BadParameter(f"There is no cluster called {name!r}. Use one of: {', '.join(Cluster)}.")


def run_folder(out: Path | None, recipe: Path) -> Path:
    """Where a recipe's run is, unless --out says so."""
    return out or Path("runs") / recipe.stem


def named_values(words: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE, as it was typed: names to values."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or name in found:
            fault = f"{name} is given twice" if name in found else f"{word!r} is not of the form NAME=VALUE"
            raise typer.BadParameter(f"{fault}.", param_hint=option)
        found[name] = value
    return found


def on_terminal() -> bool:
    """Whether a person is there to answer."""
    from flanlab.progress import console

    return sys.stdin.isatty() and console.is_terminal


def ask_person(question: str, hint: str, default: Any, **options: Any) -> Any:
    """What a person types: a number where the default is one. `hint` says what to give instead where the input ends."""
    from rich.prompt import FloatPrompt, Prompt

    from flanlab.progress import console

    try:
        kind = FloatPrompt if isinstance(default, float) else Prompt
        return kind.ask(question, console=console, default=default, **options)
    except EOFError:
        raise FlanlabError("There was no answer.", hint=hint) from None


def comma_separated(words: Sequence[str]) -> list[str]:
    """The values of an option that takes several with commas between them, and may be repeated."""
    return [part.strip() for word in words for part in word.split(",")]


def say_loading() -> None:
    """Say that the command has begun, before it imports PyTorch: that takes seconds and prints nothing."""
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
        from flanlab.progress import say

        say("Loading PyTorch and transformers ...")


def say_reading(what: str) -> None:
    """Say that the command has begun, before it imports what takes a second."""
    from flanlab.progress import say

    say(f"Reading {what} ...")


def endpoint_of(
    url: str | None,
    tokenizer: str | None,
    requests_per_minute: float | None = None,
    parallel: int | None = None,
    api_key_variable: str | None = None,
) -> Endpoint | None:
    """The server that the options of remote models name; None where they name none."""
    if url is None:
        if tokenizer or requests_per_minute or parallel or api_key_variable:
            raise typer.BadParameter("is needed with the options of remote models.", param_hint="--endpoint")
        return None
    from flanlab.models.completions import Endpoint

    return Endpoint(url, tokenizer, requests_per_minute, parallel or Endpoint.parallel, api_key_variable)


Mirror = Annotated[
    Path | None,
    typer.Option(
        envvar="FLANLAB_MIRROR", help="Folder with copies of Hub data sets: <hub id>/<config or default>/<split>.parquet."
    ),
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out tasks whose rows are not available, and name them.")
]
Collections = Annotated[
    list[str] | None,
    typer.Option("--tasks", help="Where to find tasks: library, extra, sampler, or your own folder. May be repeated."),
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
        help="Accept the Gemma Terms of Use, which gemma-3-270m needs. This is remembered.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plan = Annotated[bool, typer.Option("--plan", help="Only print what the training costs; nothing is loaded.")]
Out = Annotated[Path | None, typer.Option(callback=folder_to_write, help="Folder of the run. An existing run is resumed.")]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe file, or `quickstart` for the packaged one.")]
