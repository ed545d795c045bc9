"""`flan models`: the models that have a short name and are downloaded from PyPI."""

from __future__ import annotations

import json
from typing import Any

import typer

from flanlab.cli.options import AcceptGemmaTerms, AsJson


def models(accept_gemma_terms: AcceptGemmaTerms = False, as_json: AsJson = False) -> None:
    """List the built-in models. Any folder, GGUF file or Hub id can be used as well.

    Example: flan models
    """
    from flanlab.cli.tables import compact_table, result_console
    from flanlab.models.built_in import BUILT_IN_MODELS, cached_folder

    told = ("parameters", "instruction_tuned", "licence", "download_mb")
    facts: list[dict[str, Any]] = [
        {
            "name": name,
            **{fact: getattr(model, fact) for fact in told},
            "cached": cached_folder(name).is_dir(),
            "folder": str(cached_folder(name)),
            "description": model.description,
        }
        for name, model in BUILT_IN_MODELS.items()
    ]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    columns = ("model", "size", "instruct", "licence", "download", "cached")
    table = compact_table("Built-in models, downloaded from PyPI when first used", *columns)
    for one in facts:
        tuned, cached = ("yes" if one[name] else "no" for name in ("instruction_tuned", "cached"))
        size, download = f"{one['parameters'] / 1e6:.0f} M", f"{one['download_mb']} MB"
        table.add_row(one["name"], size, tuned, one["licence"], download, cached)
    result_console().print(table)
