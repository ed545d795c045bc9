"""Attention that packed rows do not support is refused when the model loads, by name; any other is let through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma3TextConfig,
    Llama4TextConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    XGLMConfig,
)
from transformers.models.llama import modeling_llama

from flanlab.errors import FlanlabError
from flanlab.models import attention_features
from flanlab.models.attention_features import check_features
from flanlab.models.loading import load_model
from flanlab.models.packed_attention import ATTENTION_NAME
from tests.tiny import SIZES, WINDOWED, make_tokenizer

GROUPED: dict[str, Any] = {**SIZES, "vocab_size": 340, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 0}
HEADS: dict[str, Any] = {**GROUPED, "head_dim": 8}
XGLM: dict[str, Any] = {"vocab_size": 340, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=ATTENTION_NAME)
    assert isinstance(model, PreTrainedModel)
    return model.eval()


@pytest.mark.parametrize(
    ("config", "feature"),
    [
        (Llama4TextConfig(**HEADS, num_local_experts=2, intermediate_size_mlp=48), "layers of the kind chunked_attention"),
        (Gemma3TextConfig(**HEADS, use_bidirectional_attention=True), "bidirectional attention"),
        (
            Qwen2MoeConfig(**GROUPED, num_experts=4, use_sliding_window=True, sliding_window=8, max_window_layers=1),
            "sliding window that its attention function does not get",
        ),
        (XGLMConfig(**XGLM), "attention that does not use transformers' attention interface"),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)
def test_what_is_not_computed_is_named(config: PreTrainedConfig, feature: str) -> None:
    model = model_of(config)
    with pytest.raises(FlanlabError, match=f"{type(model).__name__} uses .*{feature}"):
        check_features(model)
    assert model.config._attn_implementation == ATTENTION_NAME


def test_attention_in_chunks_is_seen_in_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a configuration calls its layers."""
    monkeypatch.setattr(attention_features, "_KINDS_OF_LAYERS", {"chunked_attention"})
    model = model_of(Llama4TextConfig(**HEADS, num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=16))
    with pytest.raises(FlanlabError, match="chunked attention"):
        check_features(model)


def test_a_mask_wider_than_the_window_is_refused(windowed_folders: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(windowed_folders["qwen3"], attn_implementation=ATTENTION_NAME)
    model.model.layers[1].self_attn.sliding_window = 7
    with pytest.raises(FlanlabError, match="differs from its sliding window of 7 tokens"):
        check_features(model)


def test_an_unknown_tensor_for_attention_is_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = modeling_llama.LlamaAttention.forward

    def biased(self: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        return forward(self, *args, **kwargs, position_bias=torch.zeros(1))

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", biased)
    with pytest.raises(FlanlabError, match="depends on `position_bias`"):
        load_model(str(tiny_folder), device="cpu")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox", *WINDOWED])
def test_what_is_computed_is_let_through(kind: str, windowed_folders: dict[str, Path]) -> None:
    model = load_model(str(windowed_folders[kind]), device="cpu").model
    assert model.config._attn_implementation == ATTENTION_NAME


def test_a_model_that_chooses_among_attentions_of_its_own_is_refused(tmp_path: Path) -> None:
    config = FalconConfig(vocab_size=340, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(FlanlabError, match=r"\(falcon\) uses attention that does not use"):
        load_model(str(tmp_path), device="cpu")
