"""Loading: what is refused, and what identity and stamp say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.llama import modeling_llama

from flanlab.data.encoding import TextEncoder
from flanlab.errors import FlanlabError
from flanlab.models import loading
from flanlab.models.answering import Question
from flanlab.models.loading import load_encoder, load_model
from flanlab.models.scoring import TokenAnswer, generate
from flanlab.models.sources import STAMP_FILE, read_stamp
from tests.tiny import make_tokenizer, save_tiny, stock_model


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copied"))


def test_loads_a_folder(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    assert loaded.folder == tiny_folder
    assert loaded.name == str(tiny_folder)
    assert loaded.stamp is None
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    # Tied embeddings count once.
    assert loaded.parameters == sum(value.numel() for value in load_file(tiny_folder / "model.safetensors").values())


@pytest.mark.parametrize(("said", "text"), [("It is good.\n", "It is good."), ("(a)\n\n", "(a)"), ("yes", "yes")])
def test_text_before_a_line_break_in_the_same_token_is_kept(
    said: str, text: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Llama 3's and Qwen's tokenizers, where ".\\n" is a token."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([".\n", ")\n\n"])
    model = replace(load_model(str(tiny_folder), device="cpu"), encoder=TextEncoder(tokenizer))
    tokens = tokenizer(said)["input_ids"]
    question = Question([1], [], 12, frozenset({0}), model.encoder.newline_tokens)

    def decode_greedily(_: Any, questions: Any, __: int) -> Any:
        logits = [torch.nn.functional.one_hot(torch.tensor([token]), len(tokenizer)).float() for token in [*tokens, 0]]
        after: Any = Mock(read=Mock(side_effect=logits[1:]))
        generated, _unsound = generate(questions, logits[0], lambda _: after)
        yield 0, TokenAnswer([], [], generated[0], failed=False)

    monkeypatch.setattr(loading, "answer_questions", decode_greedily)
    ((_, answer),) = model.answer([question], 100)
    assert answer.text == text


def test_identity_follows_weights_and_tokenizer(copied: Path, tiny_folder: Path) -> None:
    identity = load_model(str(tiny_folder), device="cpu").identity
    assert load_model(str(copied), device="cpu").identity == identity, "the same content under another name"
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(copied), device="cpu").identity != identity
    shutil.copy(tiny_folder / "model.safetensors", copied)
    (copied / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert load_model(str(copied), device="cpu").identity != identity


@pytest.mark.parametrize("name", ["./no-such-model", "/no/such/model", "no/such/model"])
def test_missing_folder_is_named(name: str) -> None:
    with pytest.raises(FlanlabError, match="no model folder at"):
        load_model(name)


def test_unreachable_hub_id_is_an_error_with_a_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to the Hub")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    with pytest.raises(FlanlabError, match=r"someone/model could not be loaded: We couldn't connect") as caught:
        load_model("someone/model")
    assert "Hub" in caught.value.hint


def test_pickled_weights_are_never_read(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    with pytest.raises(FlanlabError, match="could not be loaded"):
        load_model(str(copied), device="cpu")


def test_damaged_weights(copied: Path) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FlanlabError, match="could not be loaded"):
        load_model(str(copied), device="cpu")


def test_weights_of_another_shape(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(16)
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FlanlabError, match="could not be loaded"):
        load_model(str(copied), device="cpu")


def test_missing_weights_are_not_made_up(copied: Path) -> None:
    """transformers would fill them with random numbers."""
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FlanlabError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(copied), device="cpu")


def test_damaged_config(copied: Path) -> None:
    (copied / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(FlanlabError, match="could not be loaded"):
        load_model(str(copied), device="cpu")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"hidden_size": "abc"}),
        ("config.json", {"hidden_act": "no such function"}),
        ("config.json", {"num_attention_heads": 0}),
        ("tokenizer.json", None),
        ("tokenizer_config.json", []),
    ],
)
def test_files_that_make_no_sense(file: str, content: Any, copied: Path) -> None:
    before = json.loads((copied / file).read_text(encoding="utf-8"))
    spoilt = {**before, **content} if isinstance(content, dict) else content
    (copied / file).write_text(json.dumps(spoilt), encoding="utf-8")
    with pytest.raises(FlanlabError, match="could not be loaded"):
        load_model(str(copied), device="cpu")


def make_adapter(base: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(stock_model(base), adapter).save_pretrained(folder)
    shutil.copy(base / "tokenizer.json", folder)
    shutil.copy(base / "tokenizer_config.json", folder)
    facts = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**facts, "base_model_name_or_path": str(base)}), encoding="utf-8")
    return folder


def test_an_adapter_without_a_tokenizer_takes_its_bases(tiny_folder: Path, tmp_path: Path) -> None:
    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    with_its_own = load_model(str(folder), device="cpu")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    loaded = load_model(str(folder), device="cpu")
    assert loaded.encoder.hash == load_model(str(tiny_folder), device="cpu").encoder.hash
    assert loaded.identity != load_model(str(tiny_folder), device="cpu").identity
    assert with_its_own.encoder.end == loaded.encoder.end
    assert load_encoder(str(folder)).hash == loaded.encoder.hash


def test_an_adapter_with_added_tokens_brings_their_embeddings(tiny_folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<new>", "<other>"])
    model = stock_model(tiny_folder)
    model.config.tie_word_embeddings = False
    model.resize_token_embeddings(len(tokenizer) + 3)  # and padded
    kept = ["embed_tokens", "lm_head"]
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=kept, task_type="CAUSAL_LM"))
    with torch.no_grad():
        tuned.get_input_embeddings().weight[-4] = 3.0
    tuned.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    facts["base_model_name_or_path"] = str(tiny_folder)
    (folder / "adapter_config.json").write_text(json.dumps(facts), encoding="utf-8")
    loaded = load_model(str(folder), device="cpu")
    embedding = loaded.model.get_input_embeddings().weight
    assert len(embedding) == len(tokenizer) + 3
    assert embedding[-4].eq(3.0).all()
    [(_, reply)] = loaded.answer([Question([len(tokenizer) - 1, 5], [[6, 0]], 2)], 64)
    assert not reply.failed


def test_a_base_folder_that_is_gone_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    facts = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    facts["base_model_name_or_path"] = "./gone"
    (folder / "adapter_config.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(FlanlabError, match=r"adapter of the base model \./gone, but there is no such folder"):
        load_model(str(folder), device="cpu")


def test_a_padded_vocabulary_is_loaded_and_its_padding_decodes_to_nothing(tmp_path: Path) -> None:
    vocabulary = len(make_tokenizer())
    folder = save_tiny(tmp_path / "padded", vocab_size=vocabulary + 20)
    loaded = load_model(str(folder), device="cpu")
    assert loaded.model.get_input_embeddings().num_embeddings == vocabulary + 20
    assert loaded.encoder.decode([vocabulary + 3]) == ""


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}}),
        ("config.json", {"rms_norm_eps": 1e-3}),
        ("generation_config.json", {"eos_token_id": [0, 5]}),
    ],
)
def test_identity_follows_the_configuration(file: str, changes: dict[str, Any], copied: Path, tiny_folder: Path) -> None:
    content = json.loads((copied / file).read_text(encoding="utf-8"))
    (copied / file).write_text(json.dumps(content | {"transformers_version": "4.0"}), encoding="utf-8")
    identity = load_model(str(tiny_folder), device="cpu").identity
    assert load_model(str(copied), device="cpu").identity == identity, "who wrote the file changes no answer"
    (copied / file).write_text(json.dumps(content | changes), encoding="utf-8")
    assert load_model(str(copied), device="cpu").identity != identity


def test_ends_of_generation_are_those_of_the_configuration(copied: Path) -> None:
    (copied / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}), encoding="utf-8")
    assert load_model(str(copied), device="cpu").encoder.ends == {0, 5}
    assert load_encoder(str(copied)).hash == load_model(str(copied), device="cpu").encoder.hash


def test_weights_that_are_no_numbers_are_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FlanlabError, match="computes NaN or infinity"):
        load_model(str(copied), device="cpu")


def test_an_adapter_that_does_not_fit_is_not_scored_as_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    """peft would warn, and go on with the base's weights alone."""
    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    assert load_model(str(folder), device="cpu").identity != load_model(str(tiny_folder), device="cpu").identity
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    left_out = next(iter(weights))
    save_file({name: tensor for name, tensor in weights.items() if name != left_out}, path, metadata={"format": "pt"})
    with pytest.raises(FlanlabError, match="does not fit .* it lacks " + re.escape(left_out)):
        load_model(str(folder), device="cpu")
    path.rename(folder / "adapter_model.bin")
    with pytest.raises(FlanlabError, match=r"no .*adapter_model\.safetensors"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize("content", [{}, {"base_model_name_or_path": None, "peft_type": "LORA"}, []])
def test_an_adapter_without_a_base(content: Any, copied: Path) -> None:
    (copied / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FlanlabError, match=r"adapter_config\.json: has no base model"):
        load_model(str(copied), device="cpu")


@pytest.mark.parametrize(("options", "new_tokens"), [([[5] * 30], 0), ([], 30)])
def test_a_text_beyond_learned_positions_is_refused(options: list[list[int]], new_tokens: int, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "gpt2", "gpt2", n_positions=64)
    loaded = load_model(str(folder), device="cpu")
    assert list(loaded.answer([Question([7] * 34, options, new_tokens)], 512))
    with pytest.raises(FlanlabError, match="65 tokens, its answer included, is longer than the 64"):
        list(loaded.answer([Question([7] * 35, options, new_tokens)], 512))


def test_damaged_adapter_config(copied: Path) -> None:
    (copied / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(FlanlabError, match="adapter_config"):
        load_model(str(copied), device="cpu")


def test_leaking_architecture_is_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = modeling_llama.LlamaMLP.forward
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", lambda self, x: forward(self, x + 0.5 * torch.roll(x, 1, dims=1)))
    with pytest.raises(FlanlabError, match="cannot separate packed sequences"):
        load_model(str(tiny_folder), device="cpu")


def test_stamp_is_read(copied: Path) -> None:
    assert read_stamp(copied) is None
    stamp = {"tasks": {"rte": {"clusters": ["natural_language_inference"], "lineage": ["rte"]}}}
    (copied / STAMP_FILE).write_text(json.dumps(stamp), encoding="utf-8")
    assert load_model(str(copied), device="cpu").stamp == stamp


@pytest.mark.parametrize("text", ["{", "{}", "[]", "3"])
def test_damaged_stamp_is_never_taken_for_none(copied: Path, text: str) -> None:
    (copied / STAMP_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(FlanlabError, match="stamp is damaged"):
        load_model(str(copied), device="cpu")


def _change_tokenizer(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Let `change` work on what tokenizer.json and tokenizer_config.json hold."""
    paths = folder / "tokenizer.json", folder / "tokenizer_config.json"
    tokenizer, settings = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    change(tokenizer, settings)
    for path, content in zip(paths, (tokenizer, settings), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")


def test_model_without_start_and_padding_token_is_scored(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    assert loaded.encoder.tokenizer.bos_token is None
    assert loaded.encoder.tokenizer.pad_token is None
    encoded = loaded.encoder.encode("Positive or negative?", ["positive", "no"])
    ((_, reply),) = loaded.answer([Question(encoded.prompt, encoded.answers)], 512)
    assert len(reply.scores) == 2


def test_model_without_end_token_is_refused(copied: Path) -> None:
    _change_tokenizer(copied, lambda _, settings: settings.pop("eos_token"))
    with pytest.raises(FlanlabError, match="no end-of-sequence token") as caught:
        load_model(str(copied), device="cpu")
    assert "eos_token" in caught.value.hint


def test_token_past_the_embedding_is_refused(copied: Path) -> None:
    def add(tokenizer: dict[str, Any], _: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["strange"] = len(vocabulary)

    _change_tokenizer(copied, add)
    rows = len(load_file(copied / "model.safetensors")["model.embed_tokens.weight"])
    with pytest.raises(FlanlabError, match=rf"embedding has {rows} rows, and 'strange' is number {rows}"):
        load_model(str(copied), device="cpu")


def test_special_token_past_the_embedding_is_left_alone(copied: Path) -> None:
    """Gemma 3's text-only sizes share a tokenizer that has an image token past their embedding."""

    def add(tokenizer: dict[str, Any], _: dict[str, Any]) -> None:
        image = dict(tokenizer["added_tokens"][0], id=len(tokenizer["model"]["vocab"]), content="<image>")
        tokenizer["added_tokens"].append(image)

    _change_tokenizer(copied, add)
    loaded = load_model(str(copied), device="cpu")
    assert len(loaded.encoder.tokenizer) == len(loaded.model.get_input_embeddings().weight) + 1
