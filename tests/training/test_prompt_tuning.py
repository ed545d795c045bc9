"""Soft prompts: packed, scored and generated from as peft computes them unpacked, and saved so that peft loads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from flanlab.data.mixture import EncodedExample
from flanlab.errors import FlanlabError
from flanlab.experiments.run import save_tuned
from flanlab.models.answering import Question
from flanlab.models.loading import LoadedModel, load_model
from flanlab.models.soft_prompt import soft_prompt_of
from flanlab.models.sources import STAMP_FILE
from flanlab.training.loss import PackedObjective, objective_for
from flanlab.training.methods import check_method, prepare_for_training
from tests.tiny import stock_model
from tests.training.stream import STAMP, make_mixture, make_settings, train_tiny

KINDS = ["llama", "qwen2", "gpt_neox"]
SETTINGS = make_settings(method="prompt", prompt_length=7, learning_rate=0.3)


def tune(base: Path, folder: Path) -> Path:
    """Tune a soft prompt for some steps, and write it with a stamp."""
    loaded = load_model(str(base), device="cpu")
    model = train_tiny(loaded, make_mixture(folder / "tasks"), SETTINGS, folder / "training")
    save_tuned(model, loaded, {**STAMP, "base_model": str(base)}, folder / "tuned")
    return folder / "tuned"


@pytest.fixture(scope="module")
def tuned(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tuned soft prompts by architecture; not to be written to."""
    return {kind: tune(tiny_folders[kind], tmp_path_factory.mktemp(kind)) for kind in KINDS}


def by_peft(base: Path, adapter: Path) -> Any:
    return PeftModel.from_pretrained(stock_model(base), str(adapter)).eval()


def examples_of(loaded: LoadedModel, folder: Path) -> list[EncodedExample]:
    found = make_mixture(folder).examples(range(8), loaded.encoder)
    return [one for one in found if isinstance(one, EncodedExample)]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_loss_is_pefts_own(kind: str, tiny_folders: dict[str, Path], tuned: dict[str, Path], tmp_path: Path) -> None:
    loaded = load_model(str(tuned[kind]), device="cpu")
    examples = examples_of(loaded, tmp_path)
    objective = objective_for(loaded.model, loaded.encoder)
    assert isinstance(objective, PackedObjective)
    assert len(objective.virtual) == 7
    prompt = soft_prompt_of(loaded.model)
    assert prompt is not None
    loss = objective.loss(loaded.model, examples)
    loss.backward()

    reference = by_peft(tiny_folders[kind], tuned[kind])
    theirs = reference.prompt_encoder["default"].embedding.weight.requires_grad_(True)
    total = torch.zeros(())
    for example in examples:
        labels = torch.tensor([[-100] * len(example.prompt) + example.target])
        ids = torch.tensor([example.prompt + example.target])
        total = total + reference(input_ids=ids, labels=labels).loss * len(example.target)
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    assert prompt.prompt.grad is not None
    assert theirs.grad is not None
    assert theirs.grad.abs().sum() > 0
    torch.testing.assert_close(prompt.prompt.grad, theirs.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_answers_are_pefts_own(kind: str, tiny_folders: dict[str, Path], tuned: dict[str, Path]) -> None:
    loaded = load_model(str(tuned[kind]), device="cpu")
    assert loaded.stamp is not None
    questions = [
        Question([5, 6, 7, 8], [[20, 21, 0], [22, 0]], 5),
        Question(list(range(30, 60)), [[9, 0], [10, 11, 12, 0], [13, 0]], 5),
        Question([40], [], 3),
    ]
    replies = dict(loaded.answer(questions, 4096))
    reference = by_peft(tiny_folders[kind], tuned[kind])
    for position, question in enumerate(questions):
        for option, score in zip(question.options, replies[position].scores, strict=True):
            with torch.inference_mode():
                logits = reference(input_ids=torch.tensor([question.prompt + option])).logits[0].log_softmax(-1)
            # The logits begin with those of the virtual tokens.
            first = 7 + len(question.prompt) - 1
            expected = sum(logits[first + place, token].item() for place, token in enumerate(option))
            assert score == pytest.approx(expected, abs=1e-4)
        text = list(question.prompt)
        for _ in range(question.max_new_tokens):
            with torch.inference_mode():
                text.append(int(reference(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
        assert replies[position].text == loaded.encoder.decode(text[len(question.prompt) :]).strip()


def test_tuning_moves_the_soft_prompt_alone(tiny_folder: Path, tuned: dict[str, Path]) -> None:
    before, after = load_model(str(tiny_folder), device="cpu"), load_model(str(tuned["llama"]), device="cpu")
    start = prepare_for_training(load_model(str(tiny_folder), device="cpu"), SETTINGS)
    assert [name for name, value in start.named_parameters() if value.requires_grad] == ["model.embed_tokens.prompt"]
    first, last = soft_prompt_of(start), soft_prompt_of(after.model)
    assert first is not None
    assert last is not None
    vocabulary = before.model.get_input_embeddings().weight
    assert all(any(torch.equal(row, word) for word in vocabulary) for row in first.prompt), "it starts from words"
    assert not torch.equal(first.prompt, last.prompt)
    assert after.identity != before.identity
    weights = dict(before.model.named_parameters())
    for name, value in after.model.named_parameters():
        assert name.endswith(".prompt") or torch.equal(value, weights[name.replace(".words", "")])


def test_answers_follow_the_soft_prompt(tiny_folder: Path, tuned: dict[str, Path]) -> None:
    question = Question([5, 6, 7], [[8, 0]])
    models = [load_model(str(folder), device="cpu") for folder in (tiny_folder, tuned["llama"])]
    scores = [next(model.answer([question], 100))[1].scores[0] for model in models]
    assert abs(scores[0] - scores[1]) > 0.1


def test_a_soft_prompt_counts_for_the_size_of_a_batch(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    examples = examples_of(loaded, tmp_path)
    longest = max(one.length for one in examples)
    plain, prompted = PackedObjective(), PackedObjective(tuple(range(340, 347)))
    assert plain.batches(examples, longest)
    with pytest.raises(FlanlabError, match=f"An example of {longest + 7} tokens does not fit into a row of {longest}"):
        prompted.batches(examples, longest)


def test_what_cannot_be_tuned_is_told(encoder_decoders: dict[str, Path], tuned: dict[str, Path]) -> None:
    with pytest.raises(FlanlabError, match=r"is an encoder-decoder model\. Soft prompts") as caught:
        check_method(str(encoder_decoders["t5"]), SETTINGS)
    assert "training.method" in caught.value.hint
    with pytest.raises(FlanlabError, match="is a soft prompt of another model"):
        check_method(str(tuned["llama"]), make_settings())
    check_method(str(encoder_decoders["t5"]), make_settings(method="lora"))


def test_damaged_adapters_are_told(tiny_folder: Path, tuned: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuned["llama"], tmp_path / "copy"))
    weights = folder / "adapter_model.safetensors"
    tensor = load_file(weights)["prompt_embeddings"]
    save_file({"prompt_embeddings": tensor[:, :5].contiguous()}, weights)
    with pytest.raises(FlanlabError, match="has width 5, but the model's embeddings have width 32"):
        load_model(str(folder), device="cpu")
    save_file({"other": tensor}, weights)
    with pytest.raises(FlanlabError, match="has no prompt_embeddings"):
        load_model(str(folder), device="cpu")

    above = tmp_path / "above"
    shutil.copytree(tuned["llama"], above)
    (above / STAMP_FILE).write_text(json.dumps({**STAMP, "base_model": str(tuned["llama"])}), encoding="utf-8")
    with pytest.raises(FlanlabError, match="which is a soft prompt"):
        load_model(str(above), device="cpu")


def test_other_kinds_of_prompt_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    prefix = get_peft_model(stock_model(tiny_folder), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    prefix.save_pretrained(str(tmp_path))
    load_model(str(tiny_folder), device="cpu").encoder.tokenizer.save_pretrained(tmp_path)
    (tmp_path / STAMP_FILE).write_text(json.dumps({**STAMP, "base_model": str(tiny_folder)}), encoding="utf-8")
    with pytest.raises(FlanlabError, match="of the type PREFIX_TUNING, which is not supported"):
        load_model(str(tmp_path), device="cpu")
