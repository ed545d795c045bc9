"""Loading encoder-decoder models: which class, what is refused, adapters, and what identity and stamp say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig

from flanlab.data.encoding import SeparateTextEncoder, TextEncoder
from flanlab.models.answering import Question
from flanlab.models.completions import Endpoint
from flanlab.models.loading import load_encoder, load_model
from flanlab.models.remote import open_remote_model
from flanlab.models.sources import STAMP_FILE, is_encoder_decoder
from tests.task_files import refusal
from tests.tiny_encoder_decoder import KINDS, make_unigram_tokenizer, stock_encoder_decoder


@pytest.fixture
def copied(encoder_decoders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny T5 that a test may spoil."""
    return Path(shutil.copytree(encoder_decoders["t5"], tmp_path / "copied"))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_loads_a_folder(kind: str, encoder_decoders: dict[str, Path]) -> None:
    folder = encoder_decoders[kind]
    loaded = load_model(str(folder), device="cpu")
    assert isinstance(loaded.encoder, SeparateTextEncoder)
    assert (loaded.folder, loaded.name, loaded.stamp) == (folder, str(folder), None)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    # Tied embeddings count once, and BART's bias is no parameter.
    weights = load_file(folder / "model.safetensors")
    assert loaded.parameters == sum(value.numel() for name, value in weights.items() if name != "final_logits_bias")
    assert loaded.encoder.answer_start == ([2, 0] if kind == "bart" else [0])


def test_identity_follows_weights_and_tokenizer(copied: Path, encoder_decoders: dict[str, Path]) -> None:
    identity = load_model(str(encoder_decoders["t5"]), device="cpu").identity
    assert load_model(str(copied), device="cpu").identity == identity, "the same content under another name"
    weights = load_file(copied / "model.safetensors")
    weights["decoder.final_layer_norm.weight"][3] += 1e-3
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(copied), device="cpu").identity != identity
    shutil.copy(encoder_decoders["t5"] / "model.safetensors", copied)
    change_config(copied, decoder_start_token_id=2)
    assert load_model(str(copied), device="cpu").identity != identity


def test_stamp_is_read(copied: Path) -> None:
    stamp = {"tasks": {"rte": {"clusters": ["natural_language_inference"], "lineage": ["rte"]}}}
    (copied / STAMP_FILE).write_text(json.dumps(stamp), encoding="utf-8")
    assert load_model(str(copied), device="cpu").stamp == stamp


@pytest.mark.parametrize("kind", ["flan-t5", "bart"])
def test_adapter_is_loaded_merged(kind: str, encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    folder, target = encoder_decoders[kind], tmp_path / "adapter"
    base = load_model(str(folder), device="cpu")
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_2_SEQ_LM", init_lora_weights=False)
    torch.manual_seed(3)
    adapted = get_peft_model(stock_encoder_decoder(folder), adapter).eval()
    adapted.save_pretrained(target)
    base.encoder.tokenizer.save_pretrained(target)
    stamp = {"base_model": str(folder), "tasks": {}}
    (target / STAMP_FILE).write_text(json.dumps(stamp), encoding="utf-8")

    loaded = load_model(str(target), device="cpu")
    assert isinstance(loaded.encoder, SeparateTextEncoder)
    assert loaded.stamp == stamp
    assert loaded.parameters == base.parameters
    assert is_encoder_decoder(str(target))
    assert load_encoder(str(target)).hash == loaded.encoder.hash == base.encoder.hash
    prompt, labels = [5, 6, 7, 8], [*loaded.encoder.answer_start[1:], 40, 41, loaded.encoder.end]
    option = labels[-3:]
    with torch.inference_mode():
        logits = adapted(input_ids=torch.tensor([prompt]), labels=torch.tensor([labels])).logits[0].log_softmax(-1)[-3:]
    expected = sum(logits[place, token].item() for place, token in enumerate(option))
    [(_, answer)], [(_, untuned)] = (list(model.answer([Question(prompt, [option])], 64)) for model in (loaded, base))
    assert answer.scores == pytest.approx([expected], abs=1e-4)
    assert abs(untuned.scores[0] - expected) > 1e-2


def test_other_kinds_of_encoder_decoder_are_refused(copied: Path) -> None:
    """Whisper answers sound with text."""
    WhisperConfig().save_pretrained(copied)
    error = refusal(lambda: load_model(str(copied), device="cpu"))
    assert "(whisper) has an encoder and a decoder, but is not a text-to-text model" in error.message
    assert "T5 or BART" in error.hint


def test_missing_weights_are_not_made_up(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["decoder.block.1.layer.1.EncDecAttention.q.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert "EncDecAttention.q.weight" in refusal(lambda: load_model(str(copied), device="cpu")).message


def test_a_decoder_that_starts_by_no_known_token_is_refused(copied: Path) -> None:
    change_config(copied, decoder_start_token_id=None)
    error = refusal(lambda: load_model(str(copied), device="cpu"))
    assert "start token" in error.message
    assert "decoder_start_token_id" in error.hint


def test_the_encoder_alone_is_that_of_the_model(encoder_decoders: dict[str, Path], tiny_folder: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        assert load_encoder(str(encoder_decoders[kind])).hash == load_model(str(encoder_decoders[kind])).encoder.hash
        assert is_encoder_decoder(str(encoder_decoders[kind]))
    assert type(load_encoder(str(tiny_folder))) is TextEncoder
    assert not is_encoder_decoder(str(tiny_folder))
    make_unigram_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert type(load_encoder(str(tmp_path / "tokenizer"))) is TextEncoder, "nothing but a tokenizer is known"


def test_what_is_not_there_is_left_to_the_loader() -> None:
    assert not is_encoder_decoder("./no-such-model")


def test_an_endpoint_is_not_asked_with_such_a_models_tokenizer(encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    endpoint = Endpoint("http://127.0.0.1:1/v1", str(encoder_decoders["t5"]))
    error = refusal(lambda: open_remote_model("t5", endpoint, tmp_path / "responses.sqlite"))
    assert "encoder-decoder model" in error.message
    assert isinstance(load_encoder(str(encoder_decoders["t5"])), SeparateTextEncoder)
