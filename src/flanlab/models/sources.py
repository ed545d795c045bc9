"""Where a model's files are, and what they say without its weights: its configuration, its stamp, an adapter's base."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from flanlab.errors import FlanlabError
from flanlab.files import read_json
from flanlab.hub import work_offline_if_unreachable
from flanlab.models.built_in import BUILT_IN_MODELS, built_in_model_folder
from flanlab.models.gguf import gguf_model_folder, is_gguf
from flanlab.models.names import names_a_folder

GEMMA_TYPES = ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma", "t5gemma")
STAMP_FILE = "flanlab.json"
"""File next to the weights of each tuned model: what it was trained on, and what was held out."""


def source_of(name: str) -> str:
    """A folder's full path (of built-in models and GGUF files, in the cache); any other name as it is. For transformers."""
    if name in BUILT_IN_MODELS:
        return str(built_in_model_folder(name))
    if is_gguf(name):
        return str(gguf_model_folder(Path(name)))
    if os.path.isdir(name):
        # peft writes it into an adapter, which is used from other working folders too.
        return os.path.abspath(name)
    work_offline_if_unreachable(name)
    return name


def base_of(folder: Path) -> str | None:
    """Name of an adapter's base model; None for a model that is not an adapter."""
    if not (folder / "adapter_config.json").is_file():
        return None
    # The stamp names the base model as the user did. The adapter's file may contain a path of another machine.
    stamp = read_stamp(folder)
    base = str(stamp["base_model"] if stamp else _adapter_facts(folder)["base_model_name_or_path"])
    if names_a_folder(base) and not Path(base).exists():
        raise FlanlabError(
            f"{folder} is an adapter of the base model {base}, but there is no such folder.",
            hint=base_hint(folder),
        )
    return base


def base_hint(folder: Path) -> str:
    """Where to write the base model of an adapter."""
    file, key = (
        (STAMP_FILE, "base_model") if (folder / STAMP_FILE).is_file() else ("adapter_config.json", "base_model_name_or_path")
    )
    return f"Write the base model's folder (its full path) or its Hub id into {key} of {folder / file}."


def kind_of_adapter(folder: Path) -> str:
    """The type of an adapter, as peft calls it."""
    return str(_adapter_facts(folder).get("peft_type"))


def _adapter_facts(folder: Path) -> Mapping[str, Any]:
    path = folder / "adapter_config.json"
    content = read_json(path)
    if not isinstance(content, dict) or not content.get("base_model_name_or_path"):
        raise FlanlabError(f"{path}: has no base model.", hint="Write base_model_name_or_path into it: a folder or a Hub id.")
    return content


def is_encoder_decoder(name: str) -> bool:
    """Whether a model is known to have an encoder and a decoder. Only its configuration is read."""
    config = config_if_any(name)
    return config is not None and bool(config.is_encoder_decoder)


def is_gemma(name: str) -> bool:
    """Whether a model, or an adapter's base, is known to be a Gemma that Google's Gemma Terms of Use cover."""
    config = config_if_any(name)
    return config is not None and config.model_type in GEMMA_TYPES


def is_prompt_tuned(name: str) -> bool:
    """Whether a model is a soft prompt of another model."""
    return base_of(Path(name)) is not None and kind_of_adapter(Path(name)) == "PROMPT_TUNING"


def config_if_any(name: str) -> PreTrainedConfig | None:
    """A model's configuration (for an adapter, its base's). None if it is not available.

    Built-in models and GGUF files would have to be converted first. They are never encoder-decoder models.
    """
    try:
        while (base := base_of(Path(name))) is not None:
            name = base
        if name in BUILT_IN_MODELS or is_gguf(name):
            return None
        work_offline_if_unreachable(name)
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception:
        # A folder with only a tokenizer. Any other problem is reported when the model is loaded.
        return None
    return config


def generation_config_if_any(name: str) -> GenerationConfig | None:
    """A model's generation configuration, if its files have one."""
    try:
        return GenerationConfig.from_pretrained(base_source(name))
    except (OSError, ValueError):
        return None


def base_source(name: str) -> str:
    """The name or folder of a model for transformers; for an adapter, of its whole base model."""
    while (base := base_of(Path(name))) is not None:
        name = base
    return source_of(name)


def read_stamp(folder: Path) -> Mapping[str, Any] | None:
    """The stamp of a model folder, or None if there is none.

    Raises:
        FlanlabError: the stamp cannot be read, so the hold-out could not be enforced.
    """
    path = folder / STAMP_FILE
    if not path.is_file():
        return None
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["tasks"]
    except (ValueError, KeyError, TypeError) as error:
        raise FlanlabError(
            f"{path}: the stamp is damaged, so it is unknown what the model was trained on.",
            hint="Restore the file from its run folder. If you delete it, what the model has seen counts as unknown.",
        ) from error
    return content
