"""Models in GGUF files (the format of llama.cpp): converted once to safetensors, in the user's cache folder.

Quantized weights are turned back into float32, so what is tuned and scored is the model as rounded by that quantization.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

from flanlab.errors import FlanlabError, explained
from flanlab.files import cache_folder, made_once, new_folder
from flanlab.progress import say


def is_gguf(name: str) -> bool:
    """Whether a model's name is the name of a GGUF file."""
    return name.lower().endswith(".gguf")


def gguf_model_folder(path: Path) -> Path:
    """Folder of the converted model of a GGUF file. A file with new content is converted first.

    Raises:
        FlanlabError: the file does not exist, or transformers cannot read it.
    """
    if not path.is_file():
        raise FlanlabError(f"There is no GGUF file at {path}.", hint="Check the path. A split model must be merged first.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"gguf-{digest[:16]}"
    made_once(folder, lambda: _convert_any(path, folder))
    return folder


def _convert_any(path: Path, folder: Path) -> None:
    say(f"Converting {path.name} to safetensors (once) ...")
    hint = (
        "The file must be complete, with an architecture and quantization that transformers reads from GGUF. Otherwise serve it"
        " with llama.cpp's Python server and use --endpoint."
    )
    with explained(f"{path}: could not be read as a GGUF model", hint):
        convert_gguf(path, folder)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as a Hugging Face folder with float32 weights, completely or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # The reader draws its own progress bar, which no setting of transformers turns off.
    with contextlib.redirect_stderr(io.StringIO()):
        model_and_report: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
        )
    quantized, report = model_and_report
    if missing := sorted(report["missing_keys"]):
        # transformers would use random numbers instead.
        raise FlanlabError(
            f"{gguf} lacks weights: {', '.join(missing[:5])}.",
            hint="Download the file again. A model that is split over several GGUF files must be merged first.",
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = quantized.config
    # transformers marks a model read from GGUF as quantized and refuses to save it. Its weights are now plain float32.
    del config.quantization_config
    with torch.device("meta"):  # the weights are taken over, not copied
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantized.state_dict(), assign=True)
    plain.tie_weights()
    with new_folder(folder) as temporary:
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
