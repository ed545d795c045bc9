"""A tuned model for other programs: a plain Hugging Face folder with a card, and its upload to the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flanlab.errors import FlanlabError, one_line
from flanlab.experiments.model_card import Kind, model_card
from flanlab.files import new_folder, read_json, write_json, write_text
from flanlab.models.built_in import BUILT_IN_MODELS, GEMMA_TERMS_URL
from flanlab.models.gguf import is_gguf
from flanlab.models.loading import load_model
from flanlab.models.sources import STAMP_FILE, is_encoder_decoder, is_gemma, is_prompt_tuned, read_stamp
from flanlab.results.files import RESULTS_FILE, read_results

CARD_FILE = "README.md"
NOTICE_FILE = "NOTICE"
_GEMMA_NOTICE = f"""Gemma is provided under and subject to the Gemma Terms of Use found at {GEMMA_TERMS_URL.removeprefix("https://")}

The model in this folder is a derivative of Gemma. It was changed by instruction tuning with flanlab.
"""
"""What section 3.1 of the terms asks for."""
_ADAPTER_CONFIG = "adapter_config.json"


def export_model(run: str | Path, out: str | Path, *, merge: bool = False) -> Path:
    """Write the tuned model of a run as a folder that transformers loads alone, or peft where it is an adapter.

    Args:
        run: a run folder, or a folder of a model that was tuned here.
        out: the new folder; an earlier export there is replaced.
        merge: put a LoRA adapter into its base, so that the folder holds a whole model in float32.

    Returns:
        `out`.

    Raises:
        FlanlabError: no tuned model there, a folder that holds something else, or an adapter that only flanlab could load.

    Examples:
        >>> import flanlab as fl
        >>> tuned = fl.train(example_recipe, folder / "run", model=example_model)
        >>> exported = fl.export_model(folder / "run", folder / "model")
        >>> sorted(path.name for path in exported.iterdir() if path.name in ("README.md", "flanlab.json", "model.safetensors"))
        ['README.md', 'flanlab.json', 'model.safetensors']
    """
    run, out = Path(run), Path(out)
    source = run / "model" if (run / "model").is_dir() else run
    stamp = read_stamp(source) if source.is_dir() else None
    if stamp is None:
        raise FlanlabError(f"{run} holds no model that was tuned here.", hint="Name the folder of a run that is tuned.")
    if out.is_dir() and any(out.iterdir()) and not (out / STAMP_FILE).is_file():
        raise FlanlabError(f"{out} holds something else.", hint="Name another folder with --out.")
    if out.resolve() == run.resolve() or source.resolve() in (out.resolve(), *out.resolve().parents):
        raise FlanlabError(f"{out} is the run itself.", hint="Name another folder with --out.")
    kind = _kind(source, stamp, merge)
    with new_folder(out) as temporary:
        if kind == "merged":
            loaded = load_model(str(source), device="cpu")
            loaded.model.save_pretrained(temporary)
            loaded.encoder.tokenizer.save_pretrained(temporary)
        else:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
        if kind in ("lora", "prompt"):
            # What peft wrote down may be a folder of this machine.
            config = read_json(temporary / _ADAPTER_CONFIG)
            write_json(temporary / _ADAPTER_CONFIG, {**config, "base_model_name_or_path": stamp["base_model"]})
        write_json(temporary / STAMP_FILE, stamp)
        # Where the run has got that far.
        mixture = read_json(run / "mixture.json") if (run / "mixture.json").is_file() else None
        results = read_results(run) if (run / RESULTS_FILE).is_file() else None
        card = model_card(stamp, kind, mixture, results, has_encoder=is_encoder_decoder(str(source)))
        write_text(temporary / CARD_FILE, card)
        if is_gemma(str(temporary)):
            write_text(temporary / NOTICE_FILE, _GEMMA_NOTICE)
    return out


def push_model(folder: Path, repository: str) -> str:
    """Upload an exported folder to the Hub; a repository that is not there yet is made, and is private.

    Returns:
        The address of the upload.

    Raises:
        FlanlabError: the Hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        done = api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Upload a model tuned with flanlab")
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise FlanlabError(
            f"{folder} could not be uploaded to {repository}: {one_line(error)}",
            hint="Name a repository of yours as OWNER/NAME, and log in with `hf auth login`; the folder is kept.",
        ) from error
    return str(done)


def _kind(source: Path, stamp: Mapping[str, Any], merge: bool) -> Kind:
    """What the exported folder will be."""
    if not (source / _ADAPTER_CONFIG).is_file():
        return "whole"
    if is_prompt_tuned(str(source)):
        if merge:
            raise FlanlabError(
                f"{source} is a soft prompt, and no weights could take its place.",
                hint="Export it without --merge; peft loads it with its base model.",
            )
        kind: Kind = "prompt"
    else:
        kind = "merged" if merge else "lora"
    base = str(stamp["base_model"])
    if kind != "merged" and (base in BUILT_IN_MODELS or is_gguf(base) or (Path(base) / _ADAPTER_CONFIG).is_file()):
        raise FlanlabError(
            f"The base of the adapter in {source} is {base}, which other programs do not know by that name.",
            hint="Export a whole model with --merge."
            if kind == "lora"
            else "Tune a soft prompt before a model from the Hub or a folder with weights.",
        )
    return kind
