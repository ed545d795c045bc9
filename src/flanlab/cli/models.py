"""`flan models`: the models that have a short name and are downloaded from PyPI."""

from __future__ import annotations

import json

import typer

from flanlab.cli.options import AcceptGemmaTerms, AsJson


def models(accept_gemma_terms: AcceptGemmaTerms = False, as_json: AsJson = False) -> None:
    """List the built-in models. Any folder, GGUF file or Hub id can be used as well.

    Example: flan models
    """
    from flanlab.cli.tables import compact_table, result_console
    from flanlab.models.built_in import BUILT_IN_MODELS, cached_folder

    facts = [
        {
            "name": name,
            "parameters": model.parameters,
            "instruction_tuned": model.instruction_tuned,
            "licence": model.licence,
            "download_mb": model.download_mb,
            "cached": cached_folder(name).is_dir(),
            "folder": str(cached_folder(name)),
            "description": model.description,
        }
        for name, model in BUILT_IN_MODELS.items()
    ]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    table = compact_table("Built-in models, downloaded from PyPI when first used")
    for title in ("model", "size", "instruct", "licence", "download", "cached"):
        table.add_column(title, justify="right" if title in ("size", "download") else "left", no_wrap=True)
    for name, model in BUILT_IN_MODELS.items():
        tuned, cached = ("yes" if is_so else "no" for is_so in (model.instruction_tuned, cached_folder(name).is_dir()))
        size, download = f"{model.parameters / 1e6:.0f} M", f"{model.download_mb} MB"
        table.add_row(name, size, tuned, model.licence, download, cached)
    result_console().print(table)
