"""The training loop: it learns, it goes on bit for bit where it was, and it stops where it must."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flanlab.data.mixture import EncodedExample, Mixture, MixtureSettings
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.experiments.run import save_tuned
from flanlab.models.loading import LoadedModel, load_model
from flanlab.training import checkpoints, trainer
from flanlab.training.log import TrainingLog, operations_per_token, peak_of
from flanlab.training.loss import PackedObjective
from flanlab.training.methods import make_optimizer, prepare_for_training
from flanlab.training.trainer import examples_per_step
from tests.tiny import stock_model
from tests.training.stream import (
    STAMP,
    assert_same_training,
    in_a_child,
    last_checkpoint,
    make_mixture,
    make_settings,
    read_log,
    train_tiny,
    weights,
)

VARIANTS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "weight_decay": 0.1},
    {"optimizer": "adafactor"},
    {"method": "lora", "lora_rank": 4, "schedule": "cosine"},
    {"method": "prompt", "prompt_length": 20, "learning_rate": 0.3},
]


def variant_name(changes: dict[str, Any]) -> str:
    return str(changes.get("method") or changes["optimizer"])


@pytest.fixture
def go(tiny_folder: Path, tmp_path: Path) -> Any:
    """Train the tiny model from its first weights, or from a checkpoint in the folder named."""

    def run(name: str, **changes: Any) -> Path:
        loaded = load_model(str(tiny_folder), device="cpu")
        train_tiny(loaded, make_mixture(tmp_path / "tasks"), make_settings(**changes), tmp_path / name)
        return tmp_path / name

    return run


@pytest.mark.parametrize("changes", VARIANTS, ids=variant_name)
def test_training_lowers_the_loss(go: Any, changes: dict[str, Any]) -> None:
    log = read_log(go("learns", **{**changes, "steps": 30, "schedule": "constant"}))
    losses = [record["loss"] for record in log]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_log_counts_and_learning_rates(go: Any, tiny: LoadedModel, tmp_path: Path) -> None:
    folder, settings, mixture = go("one"), make_settings(), make_mixture(tmp_path / "tasks")
    log = read_log(folder)
    assert [record["step"] for record in log] == list(range(1, 9))
    assert [record["learning_rate"] for record in log] == [settings.learning_rate_at(step) for step in range(8)]
    per_step = examples_per_step(mixture, tiny.encoder, settings)
    assert per_step == round(160 / mixture.mean_length(tiny.encoder))
    third = [mixture.examples([position], tiny.encoder)[0] for position in range(2 * per_step, 3 * per_step)]
    encoded = [found for found in third if isinstance(found, EncodedExample)]
    assert len(encoded) == per_step
    assert log[2]["examples"] == per_step
    assert log[2]["tokens"] == sum(found.length for found in encoded)
    assert log[2]["target_tokens"] == sum(len(found.target) for found in encoded)


def test_first_loss_is_the_mean_over_target_tokens(go: Any, tiny: LoadedModel, tiny_folder: Path, tmp_path: Path) -> None:
    mixture = make_mixture(tmp_path / "tasks")
    per_step = examples_per_step(mixture, tiny.encoder, make_settings())
    reference, total, count = stock_model(tiny_folder), 0.0, 0
    for position in range(per_step):
        found = mixture.examples([position], tiny.encoder)[0]
        assert isinstance(found, EncodedExample)
        ids = torch.tensor([found.prompt + found.target])
        labels = torch.tensor([[-100] * len(found.prompt) + found.target])
        with torch.inference_mode():
            total += reference(input_ids=ids, labels=labels).loss.item() * len(found.target)
        count += len(found.target)
    assert read_log(go("one"))[0]["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("changes", VARIANTS, ids=variant_name)
def test_interrupted_training_goes_on_bit_for_bit(go: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped twice, at the start of a step; with no checkpoint by time, so that Ctrl-C itself must save."""
    whole = go("whole", **changes, checkpoint_minutes=1e6)
    original = trainer.train_step
    for stop_at in (3, 5):
        calls = []

        def stopping(*args: Any, _stop_at: int = stop_at, _calls: list[int] = calls) -> tuple[float, float]:
            rate = args[-1]
            if rate == make_settings(**changes).learning_rate_at(_stop_at) and not _calls:
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(trainer, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            go("parts", **changes, checkpoint_minutes=1e6)
        assert last_checkpoint(whole.parent / "parts").name == f"step-{stop_at:06d}"
    monkeypatch.setattr(trainer, "train_step", original)
    parts = go("parts", **changes, checkpoint_minutes=1e6)
    assert_same_training(whole, parts)


@pytest.mark.parametrize("changes", VARIANTS, ids=variant_name)
def test_ctrl_c_in_the_middle_of_an_update_saves_whole_steps(
    go: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGINT between the update of the weights and the bookkeeping after it."""
    whole = go("whole", **changes)
    original = trainer.make_optimizer
    updates: list[int] = []

    def interrupting(*args: Any) -> torch.optim.Optimizer:
        optimizer = original(*args)
        update = optimizer.step

        def step(*step_args: Any, **kwargs: Any) -> object:
            result = update(*step_args, **kwargs)
            updates.append(1)
            if len(updates) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return result

        optimizer.step = step  # type: ignore[method-assign]
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", interrupting)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go("parts", **changes)
    assert signal.getsignal(signal.SIGINT) is handler
    assert last_checkpoint(whole.parent / "parts").name == "step-000004"
    assert_same_training(whole, go("parts", **changes))


def test_second_ctrl_c_stops_at_once_and_saves_nothing(go: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = PackedObjective.loss
    calls: list[int] = []

    def impatient(*args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(PackedObjective, "loss", impatient)
    with pytest.raises(KeyboardInterrupt):
        go("stopped", checkpoint_minutes=1e6)
    assert len(calls) == 3
    assert list((tmp_path / "stopped").glob("step-*")) == []


def test_ctrl_c_during_the_last_save_waits_for_it(go: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = trainer.save_checkpoint

    def interrupted(*args: Any) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(trainer, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go("saved", checkpoint_minutes=1e6)
    assert last_checkpoint(tmp_path / "saved").name == "step-000008"


def test_killed_process_goes_on_bit_for_bit(go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real `kill -9` in the middle of writing a checkpoint: the log is a step ahead of the last whole one."""
    folder, write = tmp_path / "killed", checkpoints.write_json

    def dying(path: Path, content: Any) -> None:
        write(path, content)
        if path.name == "progress.json" and content["step"] == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as killing:
        killing.setattr(checkpoints, "write_json", dying)
        assert in_a_child(lambda: go("killed")) == -signal.SIGKILL
    assert last_checkpoint(folder).name == "step-000004"
    assert len(read_log(folder)) == 5
    assert len(list(folder.glob(".step-000005.*"))) == 1
    # In children too: sums of other numbers of threads differ.
    assert in_a_child(lambda: (go("whole"), go("killed"))) == 0
    assert_same_training(tmp_path / "whole", folder)
    assert list(folder.glob(".step-*")) == [], "what the killed process left is cleared away"


def test_finished_training_is_not_done_again(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = go("once")
    log, before = (folder / "log.jsonl").read_bytes(), weights(folder)

    def never(*args: Any) -> None:
        raise AssertionError("no step is left")

    monkeypatch.setattr(trainer, "train_step", never)
    assert go("once") == folder
    assert (folder / "log.jsonl").read_bytes() == log
    assert all(torch.equal(before[name], value) for name, value in weights(folder).items())


def test_bfloat16_training_goes_on_bit_for_bit(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adafactor keeps float32 statistics beside bfloat16 weights; a checkpoint must not round them."""
    mixture, settings = make_mixture(tmp_path / "tasks"), make_settings(optimizer="adafactor")

    def run(name: str) -> Path:
        loaded = load_model(str(tiny_folder), device="cpu")
        loaded.model.to(torch.bfloat16)
        train_tiny(loaded, mixture, settings, tmp_path / name)
        return tmp_path / name

    whole = run("whole")
    original = trainer.train_step

    def stopping(*args: Any) -> tuple[float, float]:
        if args[-1] == settings.learning_rate_at(4):
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(trainer, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.setattr(trainer, "train_step", original)
    assert_same_training(whole, run("parts"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_loss_stops_with_step_and_examples(
    go: Any, bad: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = go("good", steps=2, schedule="constant")
    original = trainer.train_step
    steps: list[int] = []

    def spoiled(*args: Any) -> tuple[float, float]:
        steps.append(1)
        if len(steps) == 3:
            loss = PackedObjective.loss
            monkeypatch.setattr(PackedObjective, "loss", lambda *given: loss(*given) * bad)
        return original(*args)

    monkeypatch.setattr(trainer, "train_step", spoiled)
    with pytest.raises(FlanlabError, match=r"stopped at step 3: loss (nan|inf), gradient norm nan") as caught:
        go("bad", schedule="constant")
    assert "counting:" in caught.value.message
    assert "(template " in caught.value.message
    assert "learning_rate" in caught.value.hint
    # The checkpoint before it is sound: those of two good steps.
    assert last_checkpoint(tmp_path / "bad").name == "step-000002"
    for name, value in weights(tmp_path / "bad").items():
        assert torch.equal(value, weights(good)[name])


def test_lora_trains_the_adapter_alone(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    settings = make_settings(method="lora", lora_rank=4)
    model = train_tiny(loaded, make_mixture(tmp_path / "tasks"), settings, tmp_path / "lora")
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert weights(tmp_path / "lora").keys() == trained
    after = model.get_base_model().state_dict()  # type: ignore[operator]
    for name, value in after.items():
        if "lora_" in name:
            assert name.endswith("lora_A.default.weight") or value.abs().sum() > 0, f"{name} was not trained"
        else:
            assert torch.equal(value, before[name.replace(".base_layer", "")])


def test_full_training_moves_every_parameter(tiny: LoadedModel, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in tiny.model.named_parameters()}
    model = train_tiny(tiny, make_mixture(tmp_path / "tasks"), make_settings(), tmp_path / "full")
    assert not model.training
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_checkpoint_holds_the_stamp(go: Any) -> None:
    assert json.loads((last_checkpoint(go("one")) / "flanlab.json").read_text()) == STAMP


def test_checkpoint_of_other_settings_is_refused(go: Any, tiny: LoadedModel, tmp_path: Path) -> None:
    folder = go("one", steps=2)
    with pytest.raises(FlanlabError, match="another recipe") as caught:
        train_tiny(tiny, make_mixture(tmp_path / "tasks"), make_settings(), folder, key="another key")
    assert str(folder) in caught.value.hint


def test_optimizers_take_their_settings(tiny: LoadedModel) -> None:
    model = prepare_for_training(tiny, make_settings())
    adamw = make_optimizer(model, make_settings(weight_decay=0.25))
    assert type(adamw) is torch.optim.AdamW
    assert adamw.param_groups[0]["weight_decay"] == 0.25
    adafactor = make_optimizer(model, make_settings(optimizer="adafactor"))
    assert type(adafactor).__name__ == "Adafactor"
    assert adafactor.param_groups[0]["relative_step"] is False
    assert adafactor.param_groups[0]["scale_parameter"] is False


def test_gradient_is_clipped(tiny: LoadedModel, tmp_path: Path) -> None:
    """One step of plain gradient descent moves the weights by the learning rate times the clipped norm."""
    mixture = make_mixture(tmp_path / "tasks")
    found = [mixture.examples([position], tiny.encoder)[0] for position in range(4)]
    examples = [one for one in found if isinstance(one, EncodedExample)]
    settings = make_settings(gradient_clip=0.125)
    model = prepare_for_training(tiny, settings)
    before = torch.cat([value.detach().flatten().clone() for value in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    shares = trainer.share_out(PackedObjective(), examples, settings)
    _, norm = trainer.train_step(model, optimizer, PackedObjective(), shares, settings, learning_rate=0.5)
    after = torch.cat([value.detach().flatten() for value in model.parameters()])
    assert norm > 0.125
    assert (after - before).norm().item() == pytest.approx(0.5 * 0.125, rel=1e-3)


def test_step_without_examples_changes_nothing(tiny: LoadedModel) -> None:
    model = prepare_for_training(tiny, make_settings())
    before = [value.detach().clone() for value in model.parameters()]
    optimizer = make_optimizer(model, make_settings(weight_decay=0.5))
    assert trainer.train_step(model, optimizer, PackedObjective(), [[]], make_settings(), 0.1) == (0.0, 0.0)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_saved_adapter_is_loaded_merged(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    model = train_tiny(loaded, make_mixture(tmp_path / "tasks"), make_settings(method="lora"), tmp_path / "lora")
    save_tuned(model, loaded, {**STAMP, "base_model": str(tiny_folder)}, tmp_path / "tuned")
    assert "lora" in " ".join(load_file(tmp_path / "tuned" / "adapter_model.safetensors"))
    tuned = load_model(str(tmp_path / "tuned"), device="cpu")
    assert tuned.stamp == {**STAMP, "base_model": str(tiny_folder)}
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(tuned.model(input_ids=ids, attention_mask=mask).logits, expected, rtol=0, atol=1e-4)
        untuned = stock_model(tiny_folder)(input_ids=ids).logits
    assert (expected - untuned).abs().max() > 1e-2


def test_step_with_a_non_finite_loss_changes_no_weight(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_mixture(tmp_path / "tasks").examples([0], tiny.encoder)[0]
    assert isinstance(found, EncodedExample)
    model = prepare_for_training(tiny, make_settings())
    before = [value.detach().clone() for value in model.parameters()]
    original = PackedObjective.loss
    monkeypatch.setattr(PackedObjective, "loss", lambda *given: original(*given) * float("nan"))
    settings = make_settings()
    loss, _ = trainer.train_step(model, make_optimizer(model, settings), PackedObjective(), [[[found]]], settings, 0.1)
    assert loss != loss
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_adapter_on_a_model_tuned_by_an_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    """The base of the second adapter is the first one merged, not the model beneath it."""
    mixture, settings = make_mixture(tmp_path / "tasks"), make_settings(method="lora")
    base = tiny_folder
    for name in ("first", "second"):
        loaded = load_model(str(base), device="cpu")
        model = train_tiny(loaded, mixture, settings, tmp_path / f"{name}-training")
        save_tuned(model, loaded, {**STAMP, "base_model": str(base)}, tmp_path / name)
        base = tmp_path / name
    ids, mask = torch.tensor([[5, 6, 7, 8]]), torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).logits
        given = load_model(str(base), device="cpu").model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-3)


def test_loss_that_explodes_stops_with_step_examples_and_mend(go: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights are thrown far away after step 25: the loss stays a number, and the log alone tells that it was once low."""
    original = trainer.train_step
    losses: list[float] = []

    def thrown(model: Any, *args: Any) -> tuple[float, float]:
        if len(losses) == 25:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(30)
        result = original(model, *args)
        losses.append(result[0])
        return result

    monkeypatch.setattr(trainer, "train_step", thrown)
    with pytest.raises(FlanlabError, match=r"stopped at step \d+: the median loss of the last 20 steps was") as caught:
        go("thrown", steps=60, schedule="constant", checkpoint_minutes=1e6)
    assert 26 <= len(losses) <= 25 + 20
    assert "(template " in caught.value.message
    assert "learning_rate" in caught.value.hint


def test_loss_on_dev_is_measured_now_and_then_and_changes_nothing(go: Any, tiny: LoadedModel, tmp_path: Path) -> None:
    folder, plain = go("measured", dev_every=3), go("plain")
    log = read_log(folder)
    assert [record["step"] for record in log if "dev_loss" in record] == [1, 3, 6, 8]
    assert [{name: value for name, value in record.items() if name != "dev_loss"} for record in log] == read_log(plain)
    # The last, by the model as it was left: over the test rows of one task, an example at a time.
    with torch.no_grad():
        for name, value in weights(folder).items():
            dict(tiny.model.named_parameters())[name].copy_(value)
    (task,) = [task for task in make_mixture(tmp_path / "tasks").tasks if task.name == "counting"]
    mixture = Mixture([task], {"counting": load_rows(task, "test")}, MixtureSettings(), seed=4)
    total = count = 0.0
    for found in mixture.examples(range(5), tiny.encoder):
        assert isinstance(found, EncodedExample)
        with torch.inference_mode():
            total += PackedObjective().loss(tiny.model, [found]).item()
        count += len(found.target)
    assert log[-1]["dev_loss"]["miscellaneous"] == pytest.approx(total / count, rel=1e-5)


def test_log_is_cut_back_by_steps_and_half_a_line_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    # Its head was deleted by somebody.
    path.write_text("".join(json.dumps({"step": step, "loss": step / 2}) + "\n" for step in range(3, 8)) + '{"step": 8, "lo')
    with TrainingLog(path, 5) as log:
        assert log.losses == [1.5, 2.0, 2.5]
        log.write({"step": 6, "loss": 0.25})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [3, 4, 5, 6]


@pytest.mark.parametrize("line", ['{"step": ', "5", '{"loss": 1}', '{"step": 2}'])
def test_damaged_line_in_the_midst_of_the_log_is_told(line: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n{{"step": 3, "loss": 2.0}}\n')
    with pytest.raises(FlanlabError, match="line 2: is damaged"):
        TrainingLog(path, 3)


def test_operations_count_what_is_trained_more_than_what_is_frozen(tiny: LoadedModel) -> None:
    parameters = sum(parameter.numel() for parameter in tiny.model.parameters())
    assert operations_per_token(prepare_for_training(tiny, make_settings())) == 6 * parameters
    model = prepare_for_training(tiny, make_settings(method="lora", lora_rank=4))
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert operations_per_token(model) == 4 * parameters + 6 * adapter


def test_a_full_disk_stops_training_with_what_is_kept(go: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The log finds no room after step 3; what was saved before goes on when there is some again."""
    original = TrainingLog.write

    def full(self: TrainingLog, record: dict[str, Any]) -> None:
        if record["step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, record)

    monkeypatch.setattr(TrainingLog, "write", full)
    with pytest.raises(FlanlabError, match="the disk is full") as caught:
        go("full")
    assert "step-000003 is kept" in caught.value.message
    assert "same command" in caught.value.hint
    monkeypatch.setattr(TrainingLog, "write", original)
    whole = go("whole")
    assert_same_training(whole, go("full"))


def test_a_disk_too_full_for_the_log_to_begin_is_told(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go("begun", steps=2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flanlab.training.log.write_text", full)
    with pytest.raises(FlanlabError, match=r"log could not be written: the disk is full.*step-000002 is kept"):
        go("begun", steps=2)


def test_devices_are_known_by_whole_words() -> None:
    assert peak_of("NVIDIA L4") == 121e12
    assert peak_of("NVIDIA H100 80GB HBM3") == peak_of("NVIDIA H100-SXM5") == 989e12
    assert peak_of("NVIDIA L40") is None
