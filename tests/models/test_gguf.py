"""GGUF files named by their path: the weights come through, conversion happens once, and faults are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from flanlab.errors import FlanlabError
from flanlab.models import gguf as module
from flanlab.models.answering import Question
from flanlab.models.loading import load_encoder, load_model
from tests.tiny import SIZES, make_tokenizer

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}
HEADS = {"q_proj": 4, "k_proj": 2}


def write_gguf(folder: Path, target: Path, without: str = "nothing") -> None:
    """The tiny Llama as llama.cpp's converter writes it: other names, and pairs of rotary dimensions side by side."""
    tokenizer = make_tokenizer()
    writer = GGUFWriter(target, "llama")
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokenizer))
    _write_tokenizer(writer, tokenizer)
    for name, tensor in AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model.state_dict().items():
        values, short = tensor.numpy(), f"model.{name}"
        for heads in [count for part, count in HEADS.items() if part in name]:
            rows = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
            values = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))
        for ours, theirs in NAMES.items():
            short = short.replace(ours, theirs)
        if without not in short:
            writer.add_tensor(short, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    import json

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([TokenType.CONTROL if token == "<|end|>" else TokenType.NORMAL for token in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in state["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLANLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_gguf(tiny_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.Q.gguf"
    write_gguf(tiny_folder, path)
    return path


def test_gguf_scores_as_the_model_it_was_made_from(cache: Path, tiny_gguf: Path, tiny_folder: Path) -> None:
    plain, loaded = load_model(str(tiny_folder), device="cpu"), load_model(str(tiny_gguf), device="cpu")
    assert loaded.name == str(tiny_gguf)
    assert loaded.stamp is None
    encoded = plain.encoder.encode("The soup was cold. Positive or negative?", ["positive", "negative"])
    assert loaded.encoder.encode("The soup was cold. Positive or negative?", ["positive", "negative"]) == encoded
    asked = [Question(encoded.prompt, encoded.answers, 5)]
    ((_, expected),), ((_, found),) = plain.answer(asked, 512), loaded.answer(asked, 512)
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)
    assert found.text == expected.text


def test_a_file_is_converted_once_whatever_its_name(
    cache: Path, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    original = module.convert_gguf
    monkeypatch.setattr(module, "convert_gguf", lambda gguf, target: (calls.append(gguf), original(gguf, target)))
    folder = module.gguf_model_folder(tiny_gguf)
    other = tiny_gguf.rename(tmp_path / "other.GGUF")
    assert module.gguf_model_folder(other) == folder
    assert load_encoder(str(other)).end == 0
    assert len(calls) == 1
    assert [path for path in folder.parent.iterdir() if path != folder] == [], "nothing half-done is left"
    with other.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert module.gguf_model_folder(other) != folder, "other weights, another folder"


def test_weights_that_are_missing_are_not_made_up(cache: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """As in the first of several files that a model is split over."""
    path = tmp_path / "tiny-00001-of-00002.gguf"
    write_gguf(tiny_folder, path, without="blk.1.")
    with pytest.raises(FlanlabError, match=r"00001-of-00002\.gguf lacks weights: model\.layers\.1\.") as caught:
        load_model(str(path))
    assert "merged" in caught.value.hint
    assert not list((cache / "models").glob("*"))


def test_missing_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match=r"no GGUF file at .*none\.gguf"):
        load_model(str(tmp_path / "none.gguf"))


@pytest.mark.parametrize("kept", [0, 3, 100, -1000])
def test_damaged_gguf_file(kept: int, cache: Path, tiny_gguf: Path) -> None:
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:kept])
    with pytest.raises(FlanlabError, match=r"tiny\.Q\.gguf: could not be read as a GGUF model") as caught:
        load_model(str(tiny_gguf))
    assert "--endpoint" in caught.value.hint
    assert not list((cache / "models").glob("*"))
