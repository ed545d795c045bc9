"""A model without weights, built from its configuration: enough to estimate its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from flanlab.errors import FlanlabError, one_line
from flanlab.models.packed_attention import ATTENTION_NAME
from flanlab.models.sources import base_source


def read_config(name: str, say: Callable[[str], None] = lambda _: None) -> PreTrainedConfig:
    """A model's configuration; for an adapter, its base's.

    Raises:
        FlanlabError: it is not available.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(base_source(name, say), trust_remote_code=False)
    except FlanlabError:
        raise
    except Exception as error:
        raise FlanlabError(
            f"The configuration of {name} is not available: {one_line(error)}",
            hint="Check that the Hub can be reached (and, for a gated model, that you accepted its terms and set HF_TOKEN), or"
            " name a folder with the model's config.json.",
        ) from error
    return config


def build_skeleton(name: str, config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    """A model with random or no weights. Call it where tensors have no content (a fake-tensor mode, the meta device).

    Raises:
        FlanlabError: there is no language model with this configuration.
    """
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    attention = {} if config.is_encoder_decoder else {"attn_implementation": ATTENTION_NAME}
    try:
        model = kind.from_config(config, dtype=dtype, trust_remote_code=False, **attention)
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
