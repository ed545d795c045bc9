"""Load a model with its tokenizer and its stamp, from a folder or the Hub. Weights must be safetensors."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash
from safetensors import safe_open
from torch import nn
from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from flanlab.data.encoding import SeparateTextEncoder, TextEncoder
from flanlab.errors import FlanlabError, explained, one_line
from flanlab.models.answering import Answer, Question, Scoring
from flanlab.models.attention_features import NOT_THROUGH_THE_INTERFACE, check_features, check_isolation, unsupported_attention
from flanlab.models.encoder_decoder import answer_from_encoder, check_padding
from flanlab.models.names import model_hint, names_a_folder, suggestion
from flanlab.models.packed_attention import ATTENTION_NAME
from flanlab.models.scoring import answer_questions
from flanlab.models.soft_prompt import add_soft_prompt, read_soft_prompt, soft_prompt_of, virtual_tokens
from flanlab.models.sources import (
    base_hint,
    base_of,
    base_source,
    config_if_any,
    generation_config_if_any,
    is_prompt_tuned,
    kind_of_adapter,
    read_stamp,
    source_of,
)
from flanlab.processes import own_gpu

# peft asks transformers for a property by its old name. No user can change that.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

Dtype = Literal["auto", "float32", "bfloat16"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight", "shared.weight")
"""Suffixes of the names of token embeddings and output layers in a file of weights."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready for scoring and training: made by `load_model`.

    `model` is the transformers model, and `encoder.tokenizer` its tokenizer.
    """

    model: PreTrainedModel = field(repr=False)
    encoder: TextEncoder = field(repr=False)
    name: str
    folder: Path | None
    """Local folder, or None for a model from the Hub's cache."""
    stamp: Mapping[str, Any] | None = field(repr=False)
    """Content of flanlab.json; None for a model that was not tuned with flanlab."""
    in_memory: bool = field(default=False, repr=False)
    """Whether it was given as an object: then its name says nothing of its weights."""

    @cached_property
    def identity(self) -> str:
        """Hash of the loaded weights, the configuration and the tokenizer. It is part of the predictions' key."""
        hashes = map(_hash, sorted(self.model.state_dict().items()))
        facts = [*hashes, _configuration(self.model), self.encoder.hash]
        return hashlib.blake2b("".join(facts).encode(), digest_size=16).hexdigest()

    @property
    def dtype(self) -> str:
        """Number type that it computes in: float32 or bfloat16."""
        return str(self.model.dtype).removeprefix("torch.")

    @cached_property
    def parameters(self) -> int:
        """Number of parameters. Tied ones count once. Cached, because a LoRA adapter later changes the model itself."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def scoring(self) -> Scoring:
        """Options are ranked."""
        return "log-probabilities"

    def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Answer]]:
        """Answer questions in batches of up to `token_budget` tokens. Yields (position, answer)."""
        if isinstance(self.encoder, SeparateTextEncoder):
            answers = answer_from_encoder(self.model, self.encoder.answer_start, questions, token_budget)
        else:
            virtual = virtual_tokens(self.model)
            asked = [replace(question, prompt=[*virtual, *question.prompt]) for question in questions] if virtual else questions
            answers = answer_questions(self.model, asked, token_budget)
        for position, answer in answers:
            lengths = [len(option) for option in questions[position].options]
            text = self.encoder.decode(answer.generated).strip()
            if questions[position].line_breaks:
                text = text.split("\n")[0].rstrip()
            yield position, Answer(answer.scores, answer.scores_without_end, lengths, text, answer.failed)


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: Dtype = "auto",
) -> LoadedModel:
    """Load a language model: a built-in one, a folder (full weights or an adapter), a GGUF file, or a Hub id.

    The model is put on a GPU if there is one. Each of several processes uses its own. `dtype` is the type of weights and
    computation. auto: float32 on a CPU, bfloat16 on a GPU. Never float16, because T5 overflows in it. A causal model is checked
    for unsupported attention and for leaks between packed segments. An encoder-decoder model is checked for padding that it
    reads.

    Raises:
        FlanlabError: the model does not exist, has no safetensors weights, or has an architecture that cannot be scored.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    source = source_of(name)
    place = Path(source)
    folder = place if place.is_dir() else None
    if folder is None and names_a_folder(name):
        hint = f"Name a folder, a Hub id, or one of `flan models`.{suggestion(name)}"
        raise FlanlabError(f"There is no model folder at {name}.", hint=hint)
    device = _device(device)
    stamp = read_stamp(folder) if folder else None
    rounded = dtype == "bfloat16" or (dtype == "auto" and device.startswith("cuda"))
    with explained(f"The model {name} could not be loaded", model_hint(name)):
        model = _read_weights(source, torch.bfloat16 if rounded else torch.float32)
        tokenizer = _read_tokenizer(source)
    return _ready(model.to(device), tokenizer, name, folder, stamp)


def wrap_model(model: Any, tokenizer: Any) -> LoadedModel:
    """A transformers model in memory, with its tokenizer. It is put into evaluation mode, and its attention replaced by the
    packed one, which computes the same.

    Raises:
        FlanlabError: this is no transformers model with a tokenizer, or an architecture that cannot be scored.
    """
    if not isinstance(model, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise FlanlabError(
            f"A model in memory must be a transformers model with its tokenizer, not {type(model).__name__} with"
            f" {type(tokenizer).__name__}.",
            hint="Call load_model(model, tokenizer), or load_model(name) for a folder or a Hub id.",
        )
    name = str(getattr(model.config, "_name_or_path", "") or "a model in memory")
    if model.get_output_embeddings() is None:
        raise FlanlabError(
            f"{type(model).__name__} has no output layer that gives each token a probability.",
            hint="Load it with AutoModelForCausalLM or AutoModelForSeq2SeqLM.",
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise FlanlabError(
            f"{type(model).__name__} has weights without content (on the device `meta`).", hint="Load the weights first."
        )
    return replace(_ready(model, tokenizer, name, None, None), in_memory=True)


def scoring_model(loaded: LoadedModel, dtype: Dtype) -> LoadedModel:
    """The model in the numbers that it is scored in. Training begins from weights that are not rounded.

    Raises:
        FlanlabError: the model is in memory in other numbers.
    """
    if dtype in ("auto", loaded.dtype):
        return loaded
    if loaded.in_memory:
        raise FlanlabError(
            f"The model is in memory in {loaded.dtype}, so it is not scored in {dtype}.",
            hint=f"Leave `dtype` out, or load the model with transformers in torch.{dtype}.",
        )
    return load_model(loaded.name, device=str(loaded.model.device), dtype=dtype)


def _ready(
    model: Any, tokenizer: PreTrainedTokenizerBase, name: str, folder: Path | None, stamp: Mapping[str, Any] | None
) -> LoadedModel:
    """The model in evaluation mode and with packed attention, after all checks of what it computes."""
    _check_vocabulary(name, model, tokenizer)
    encoder = _encoder(tokenizer, model.config, model.generation_config)
    model = model.eval()
    if isinstance(encoder, SeparateTextEncoder):
        check_padding(model, encoder.answer_start)
    else:
        model.set_attn_implementation(ATTENTION_NAME)
        try:
            check_features(model)
            check_isolation(model)
        except RuntimeError as error:  # such as layers of different number types
            raise FlanlabError(
                f"{type(model).__name__} cannot compute: {one_line(error)}",
                hint="Its weights need one number type and one device.",
            ) from error
    return LoadedModel(model, encoder, name, folder, stamp)


def _check_vocabulary(name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with tokens for which the model has no embedding.

    Special tokens that no text is encoded to may be beyond the end, such as Gemma 3's image token in text-only sizes.
    """
    prompt = soft_prompt_of(model)
    rows = prompt.vocabulary if prompt is not None else len(model.get_input_embeddings().weight)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    needed = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    beyond = {
        number: token
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and (number in needed or number not in special)
    }
    if beyond:
        first = min(beyond)
        raise FlanlabError(
            f"The tokenizer of {name} has {len(beyond)} tokens that the model does not have: its embedding has {rows} rows, and"
            f" {beyond[first]!r} is number {first}.",
            hint="Use the tokenizer that the model was trained with, or enlarge the embedding (resize_token_embeddings) and"
            " save the model again.",
        )


def _hash(weight: tuple[str, Any]) -> str:
    """Hash of a tensor's name, shape, type and numbers."""
    name, tensor = weight
    # It is to notice other weights, not an attack: a cryptographic hash would take as long as loading.
    digest = xxhash.xxh3_128(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _configuration(model: PreTrainedModel) -> str:
    """What shapes a model's answers apart from its weights (such as rope_theta, and the tokens that end generation), as JSON.

    Without the folder it was read from and the version that wrote it, which change no answer.
    """
    contents = [config.to_dict() for config in (model.config, model.generation_config) if config is not None]
    facts = [{name: value for name, value in content.items() if name != "transformers_version"} for content in contents]
    return json.dumps([_without_private(content) for content in facts], sort_keys=True, default=str)


def _without_private(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(name): _without_private(value) for name, value in content.items() if not str(name).startswith("_")}
    return content


def _device(name: str | None) -> str:
    """The named device; without a name the GPU of this process, if there is one."""
    if name is None:
        number = own_gpu()
        return "cpu" if number is None else f"cuda:{number}"
    try:
        torch.zeros(1, device=name).tolist()
    except Exception as error:  # torch has many kinds: no such name, not compiled in, no such number, meta
        raise FlanlabError(
            f"The device {name} cannot be used: {one_line(error, 150)}", hint="Use cpu, cuda or cuda:1, or leave it out."
        ) from error
    return name


def load_encoder(name: str) -> TextEncoder:
    """Only a model's tokenizer, for work that needs no weights."""
    with explained(f"The tokenizer of {name} could not be loaded", model_hint(name)):
        tokenizer = _read_tokenizer(source_of(name))
    return _encoder(tokenizer, config_if_any(name), generation_config_if_any(name))


def _encoder(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None, generation: GenerationConfig | None
) -> TextEncoder:
    """The encoder for a model with this configuration."""
    named = [getattr(each, "eos_token_id", None) for each in (config, generation)]
    ends = frozenset(end for some in named for end in (some if isinstance(some, list) else [some]) if end is not None)
    if config is None or not config.is_encoder_decoder:
        return TextEncoder(tokenizer, ends)
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        raise FlanlabError(
            "The model's configuration does not name the decoder's start token.",
            hint="Set decoder_start_token_id in its config.json to the value of its training.",
        )
    return SeparateTextEncoder(tokenizer, start, ends)


def _read_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id. For an adapter without one, its base's, as is usual with peft."""
    base = base_of(Path(source))
    if base is not None and not any((Path(source) / file).is_file() for file in _TOKENIZER_FILES):
        return _read_tokenizer(source_of(base))
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return tokenizer


def _read_weights(source: str, dtype: torch.dtype) -> Any:
    """The model of a folder or Hub id. An adapter is merged into its base, which may be an adapter too."""
    base = base_of(Path(source))
    if base is None:
        return _read_whole_model(source, dtype)
    with explained(f"{source} is an adapter of the base model {base}, which could not be loaded", base_hint(Path(source))):
        model = _read_weights(source_of(base), dtype)
    if soft_prompt_of(model) is not None:
        raise FlanlabError(
            f"{source} is an adapter of {base}, which is a soft prompt.", hint="Use an adapter whose base is a whole model."
        )
    if is_prompt_tuned(source):
        add_soft_prompt(model, read_soft_prompt(Path(source)))
        return model
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    file = Path(source) / "adapter_model.safetensors"
    if not file.is_file():
        raise FlanlabError(f"There is no {file}.", hint="Save the adapter's weights as safetensors. Nothing else is read.")
    _make_room(model, file)
    adapted = PeftModel.from_pretrained(model, source)
    if adapted.active_peft_config.is_prompt_learning:
        raise FlanlabError(
            f"{source} is an adapter of the type {kind_of_adapter(Path(source))}, which is not supported.",
            hint="Use one that can be merged, such as LoRA, or a soft prompt (PROMPT_TUNING).",
        )
    # peft would silently ignore weights that the file lacks or names differently.
    with safe_open(file, framework="pt") as weights:
        missing = sorted(set(get_peft_model_state_dict(adapted)) - set(weights.keys()))
    if missing:
        raise FlanlabError(
            f"The adapter {source} does not fit {base}: it lacks {', '.join(missing[:3])}.",
            hint="Use an adapter of this model, with all its weights, or its base with the right revision.",
        )
    return adapted.merge_and_unload()


def _make_room(model: Any, adapter: Path) -> None:
    """Resize the model's token embeddings to those in the adapter's file, if it has any.

    They were trained with added tokens. An embedding may also be larger than the tokenizer, padded to a round number.
    """
    with safe_open(adapter, framework="pt") as weights:
        rows = {weights.get_slice(name).get_shape()[0] for name in weights.keys() if name.endswith(_EMBEDDINGS)}  # noqa: SIM118
    if rows and max(rows) != model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(rows), mean_resizing=False)


def _read_whole_model(source: str, dtype: torch.dtype) -> Any:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.is_encoder_decoder and type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise FlanlabError(
            f"The model {source} ({config.model_type}) has an encoder and a decoder, but is not a text-to-text model.",
            hint="Name a causal language model, or an encoder-decoder model of the T5 or BART family.",
        )
    kind, attention = _class_of(config)
    try:
        model_and_report: Any = kind.from_pretrained(
            source,
            output_loading_info=True,
            dtype=dtype,
            **attention,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except KeyError as error:
        # The error of a model whose own table of attention functions does not have this one.
        if error.args == (ATTENTION_NAME,):
            raise unsupported_attention(f"The model {source} ({config.model_type})", NOT_THROUGH_THE_INTERFACE) from None
        raise
    model, report = model_and_report
    if report["missing_keys"]:
        # transformers would use random numbers instead.
        raise FlanlabError(
            f"The model {source} lacks weights: {', '.join(sorted(report['missing_keys'])[:5])}.",
            hint="Download the model again. It must be a language model with all its weights.",
        )
    return model


def _class_of(config: PreTrainedConfig) -> tuple[Any, dict[str, str]]:
    """The class of a model with this configuration, and the attention that it is made with."""
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM, {}
    return AutoModelForCausalLM, {"attn_implementation": ATTENTION_NAME}


def read_config(name: str) -> PreTrainedConfig:
    """A model's configuration; for an adapter, its base's.

    Raises:
        FlanlabError: it is not available.
    """
    hint = (
        "Check that the Hub can be reached (and, for a gated model, that you accepted its terms and set HF_TOKEN), or name a"
        " folder with the model's config.json."
    )
    with explained(f"The configuration of {name} is not available", hint):
        config: PreTrainedConfig = AutoConfig.from_pretrained(base_source(name), trust_remote_code=False)
    return config


def build_skeleton(name: str, config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    """A model with random or no weights, to estimate its cost. Call it where tensors have no content (on the meta device).

    Raises:
        FlanlabError: there is no language model with this configuration.
    """
    kind, attention = _class_of(config)
    try:
        # A copy, because transformers writes the dtype into it, and the configuration is part of a model's identity.
        model = kind.from_config(copy.deepcopy(config), dtype=dtype, trust_remote_code=False, **attention)
    except (ValueError, ImportError) as error:
        raise FlanlabError(
            f"The configuration of {name} is not one of a language model: {one_line(error)}",
            hint="Name a causal or encoder-decoder language model.",
        ) from error
    if getattr(config, "scale_decoder_outputs", True) is False:
        # T5 from version 1.1 has its own output layer. transformers only notices this when it reads the weights.
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(torch.empty_like(head.weight))
    return model
