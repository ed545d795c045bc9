"""Loading a model with its tokenizer and its stamp, from a folder or the Hub; weights as safetensors only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from flanlab.data.encoding import TextEncoder
from flanlab.errors import FlanlabError
from flanlab.files import read_json
from flanlab.models.answering import Reply
from flanlab.models.embedded import EMBEDDED_MODEL, embedded_model_folder
from flanlab.models.gguf import gguf_model_folder, is_gguf
from flanlab.models.packed_attention import ATTENTION_NAME, check_isolation
from flanlab.models.scoring import Question, answer_questions

STAMP_FILE = "flanlab.json"
"""Beside the weights of every model tuned here: what it was trained on, and what was held out."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for packed training and scoring."""

    model: PreTrainedModel
    encoder: TextEncoder
    name: str
    folder: Path | None
    """Local folder, or None for a model read from the Hub's own cache."""
    stamp: Mapping[str, Any] | None
    """Content of flanlab.json; None for a model not tuned here, of which nothing is known."""

    @cached_property
    def identity(self) -> str:
        """Hash of the weights as loaded and of the tokenizer: what predictions are keyed by."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        digest.update(self.encoder.hash.encode())
        return digest.hexdigest()

    @cached_property
    def parameters(self) -> int:
        """Number of parameters; tied ones count once. Counted once, since a LoRA adapter is put into the model itself."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Reply]]:
        """Reply to questions in batches of up to `token_budget` tokens; yields (position, reply)."""
        for position, answer in answer_questions(self.model, questions, token_budget):
            lengths = [len(option) for option in questions[position].options]
            text = self.encoder.decode(answer.generated).strip()
            yield position, Reply(answer.scores, answer.scores_without_end, lengths, text)


def load_model(
    name: str, *, device: str | None = None, revision: str | None = None, say: Callable[[str], None] = lambda _: None
) -> LoadedModel:
    """Load a causal language model: the embedded one, a folder (full weights or a LoRA adapter), a GGUF file, or a Hub id.

    float32 on a CPU, bfloat16 on a GPU. The model is checked once for leaks between packed segments.

    Raises:
        FlanlabError: no such model, no safetensors weights, or an architecture that packing does not fit.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    source = _source(name, say)
    place = Path(source)
    folder = place if place.is_dir() else None
    if folder is None and (name.startswith((".", "/")) or name.count("/") > 1):
        raise FlanlabError(f"There is no model folder at {name}.", mend=f"Name a folder, a Hub id, or {EMBEDDED_MODEL}.")
    target_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stamp = read_stamp(folder) if folder else None
    dtype = torch.bfloat16 if target_device.type == "cuda" else torch.float32
    try:
        model = _read_weights(source, revision, dtype, say)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise FlanlabError(
            f"The model {name} could not be loaded: {' '.join(str(error).split())[:400]}",
            mend=f"Name a folder or Hub id of a causal language model with safetensors weights, or {EMBEDDED_MODEL}.",
        ) from error
    model = model.to(target_device).eval()
    check_isolation(model)
    return LoadedModel(model, TextEncoder(tokenizer), name, folder, stamp)


def load_encoder(name: str, *, say: Callable[[str], None] = lambda _: None) -> TextEncoder:
    """Only the tokenizer of a model, for work that needs no weights."""
    try:
        return TextEncoder(AutoTokenizer.from_pretrained(_source(name, say), trust_remote_code=False))
    except (OSError, ValueError, ImportError) as error:
        raise FlanlabError(
            f"The tokenizer of {name} could not be loaded: {' '.join(str(error).split())[:400]}",
            mend=f"Name a model folder, a Hub id, or {EMBEDDED_MODEL}.",
        ) from error


def _source(name: str, say: Callable[[str], None]) -> str:
    """What transformers knows a model by: a folder in the cache for the embedded model and for GGUF files, else the name."""
    if name == EMBEDDED_MODEL:
        return str(embedded_model_folder(say))
    return str(gguf_model_folder(Path(name), say)) if is_gguf(name) else name


def _read_weights(source: str, revision: str | None, dtype: torch.dtype, say: Callable[[str], None]) -> Any:
    """The model of a folder or Hub id; an adapter is merged into its base, which may be an adapter itself."""
    if (Path(source) / "adapter_config.json").is_file():
        from peft import PeftModel

        # The stamp names the base model as the user did; the adapter's own file may hold a path of another machine.
        stamp = read_stamp(Path(source))
        base = stamp["base_model"] if stamp else read_json(Path(source) / "adapter_config.json")["base_model_name_or_path"]
        return PeftModel.from_pretrained(_read_weights(_source(base, say), revision, dtype, say), source).merge_and_unload()
    model_and_report: Any = AutoModelForCausalLM.from_pretrained(
        source,
        output_loading_info=True,
        revision=revision,
        dtype=dtype,
        attn_implementation=ATTENTION_NAME,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model, report = model_and_report
    if report["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise FlanlabError(
            f"The model {source} lacks weights: {', '.join(sorted(report['missing_keys'])[:5])}.",
            mend="Fetch the model anew; it must be a causal language model with all its weights.",
        )
    return model


def read_stamp(folder: Path) -> Mapping[str, Any] | None:
    """The stamp of a model folder, or None where there is none.

    Raises:
        FlanlabError: a stamp that cannot be read; the hold-out could then not be enforced.
    """
    path = folder / STAMP_FILE
    if not path.is_file():
        return None
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["tasks"]
    except (ValueError, KeyError, TypeError) as error:
        raise FlanlabError(
            f"{path}: the stamp is damaged, so what the model was trained on is not known.",
            mend="Restore the file from the run folder it came from, or delete it to have the model treated as unknown.",
        ) from error
    return content
