"""The training loop: packed examples, loss on target tokens alone, and a stream that goes on where it was."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import EncodedExample, Mixture
from flanlab.data.packing import best_fit
from flanlab.errors import FlanlabError
from flanlab.models.loading import LoadedModel
from flanlab.models.packed_attention import PackedBatch, check_isolation, pack_segments, packed_logits
from flanlab.progress import meter, say
from flanlab.training.checkpoints import Progress, load_latest, save_checkpoint
from flanlab.training.settings import TrainingSettings
from flanlab.training.stream import steps_of_examples, usual_workers


def examples_per_step(mixture: Mixture, encoder: TextEncoder, settings: TrainingSettings) -> int:
    """How many examples of the stream make up one step: a fixed number, so that step s begins at example s x this."""
    return max(1, round(settings.tokens_per_step / mixture.mean_length(encoder)))


def train(
    loaded: LoadedModel,
    mixture: Mixture,
    settings: TrainingSettings,
    *,
    folder: Path,
    training_key: str,
    stamp: Mapping[str, Any],
) -> nn.Module:
    """Tune a model on a mixture; goes on from the newest checkpoint in `folder`, if any.

    Args:
        loaded: the model; changed in place.
        mixture: the training stream.
        settings: the recipe's training section.
        folder: where checkpoints and `log.jsonl` go.
        training_key: hash of everything that shapes the result; a checkpoint with another key is refused.
        stamp: written into every checkpoint as flanlab.json.

    Returns:
        The tuned model (for LoRA, the model with its adapter).

    Raises:
        FlanlabError: the loss is no longer a finite number, or a checkpoint does not belong to these settings.
    """
    model = prepare_for_training(loaded, settings)
    optimizer = make_optimizer(model, settings)
    progress = load_latest(folder, model, optimizer, training_key) or Progress(0, training_key)
    if progress.step:
        say(f"Going on from step {progress.step} of {settings.steps}.")
    per_step = examples_per_step(mixture, loaded.encoder, settings)
    workers = usual_workers(loaded.model.device.type) if settings.workers is None else settings.workers
    stream = steps_of_examples(mixture, loaded.encoder, per_step, progress.step, settings.steps, workers)
    log = _open_log(folder / "log.jsonl", progress.step)
    last_saved = time.monotonic()
    model.train()
    interrupts = _HeldInterrupts()
    try:
        with interrupts, log, meter("Training", settings.steps, progress.step) as bar:
            started = time.monotonic()
            for step, examples in enumerate(stream, start=progress.step):
                waited = time.monotonic() - started
                learning_rate = settings.learning_rate_at(step)
                loss, norm = train_step(model, optimizer, examples, settings, learning_rate)
                if not math.isfinite(loss) or not math.isfinite(norm):
                    _refuse(step, loss, norm, examples)
                progress = Progress(step + 1, training_key)
                # Counted from the end of the step before, so that waiting for examples shows.
                now = time.monotonic()
                seconds, started = now - started, now
                target_tokens = sum(len(example.target) for example in examples)
                tokens = sum(example.length for example in examples)
                record = {
                    "step": step + 1,
                    "loss": loss,
                    "gradient_norm": norm,
                    "learning_rate": learning_rate,
                    "examples": len(examples),
                    "tokens": tokens,
                    "target_tokens": target_tokens,
                    "seconds": round(seconds, 3),
                    "waiting_seconds": round(waited, 4),
                }
                log.write(json.dumps(record) + "\n")
                log.flush()
                bar.advance(
                    1,
                    f"loss {loss:.3f}, {target_tokens / seconds:.0f} target tokens/s, {tokens / seconds:.0f} tokens/s",
                )
                if time.monotonic() - last_saved > settings.checkpoint_minutes * 60 and progress.step < settings.steps:
                    save_checkpoint(folder, model, optimizer, progress, stamp)
                    last_saved = started = time.monotonic()
                if interrupts.count:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if interrupts.count < 2:
            save_checkpoint(folder, model, optimizer, progress, stamp)
            say(f"Saved after step {progress.step} of {settings.steps}.")
        raise
    save_checkpoint(folder, model, optimizer, progress, stamp)
    model.eval()
    return model


def prepare_for_training(loaded: LoadedModel, settings: TrainingSettings) -> nn.Module:
    """The model with the parameters trainable that the method trains, checked for leaks between packed examples."""
    if settings.method == "lora":
        from peft import LoraConfig, get_peft_model

        # The seed of the adapter's first weights is fixed, so that a resumed run starts from the same ones.
        torch.manual_seed(0)
        adapter = LoraConfig(
            r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model: nn.Module = get_peft_model(loaded.model, adapter)
    else:
        check_isolation(loaded.model)
        # bfloat16 has too few digits to add small updates to; the computing is done in it nevertheless (packed_loss).
        model = loaded.model.float().requires_grad_(True)
    if settings.compile:
        # Layer by layer: they are all alike, so the compiler works once.
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.compile(dynamic=True)
    return model


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW, or Adafactor as the paper used it (Shazeer & Stern 2018, with an external learning rate)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "adamw":
        # One pass over the memory instead of many: six times as fast on a CPU.
        return torch.optim.AdamW(
            parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
        )
    from transformers.optimization import Adafactor

    return Adafactor(
        parameters,
        lr=settings.learning_rate,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
        weight_decay=settings.weight_decay,
    )


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[EncodedExample],
    settings: TrainingSettings,
    learning_rate: float,
) -> tuple[float, float]:
    """One update; returns the loss per target token and the gradient's norm before clipping.

    The loss of each micro-batch is divided by the target tokens of the whole step, so the update is the same however the
    step is cut into micro-batches.
    """
    target_tokens = sum(len(example.target) for example in examples)
    if not target_tokens:
        return 0.0, 0.0
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for row in best_fit([example.length for example in examples], settings.micro_batch_tokens):
        loss = packed_loss(model, [examples[position] for position in row]) / target_tokens
        loss.backward()
        losses.append(loss.detach())
    total = torch.stack(losses).sum().item()
    norm = nn.utils.clip_grad_norm_(
        [parameter for parameter in model.parameters() if parameter.requires_grad], settings.gradient_clip
    ).item()
    if math.isfinite(total) and math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
    return total, norm


def packed_loss(model: nn.Module, examples: Sequence[EncodedExample]) -> Tensor:
    """Sum of the cross-entropy of all target tokens (natural log), the examples packed into one row.

    On a GPU weights and loss are float32, what lies between them bfloat16.
    """
    device = next(model.parameters()).device
    batch = pack_segments([(example.prompt, [example.target]) for example in examples]).to(device)
    positions, targets = _target_positions(batch, examples)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = packed_logits(model, batch, positions.to(device))
    return functional.cross_entropy(logits.float(), targets.to(device), reduction="sum")


def _target_positions(batch: PackedBatch, examples: Sequence[EncodedExample]) -> tuple[Tensor, Tensor]:
    """Positions that predict a target token, and those tokens:

    tokens    p p p t t | p p t
    predicts  . . t t . | . t .
    """
    positions: list[int] = []
    targets: list[int] = []
    for (start, length, _), example in zip(batch.segments, examples, strict=True):
        positions.extend(range(start + len(example.prompt) - 1, start + length - 1))
        targets.extend(example.target)
    return torch.tensor(positions), torch.tensor(targets)


class _HeldInterrupts:
    """Holds the first Ctrl-C back until the step is whole: half an update must never be saved. The second stops at once."""

    def __init__(self) -> None:
        self.count = 0
        self._before: Any = None

    def __enter__(self) -> None:
        # Only the main thread may set handlers, and only there does Ctrl-C arrive.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hold)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hold(self, *_: object) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
        say("Stopping after this step; press Ctrl-C again to stop at once, without saving it.")


def _open_log(path: Path, steps_done: int) -> Any:
    """The log for appending, cut back to the steps that the checkpoint holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.write_text("".join(line + "\n" for line in lines[:steps_done]), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _refuse(step: int, loss: float, norm: float, examples: Sequence[EncodedExample]) -> None:
    named = ", ".join(f"{e.example.task}:{e.example.row} (template {e.example.template})" for e in examples[:8])
    raise FlanlabError(
        f"Training stopped at step {step + 1}: loss {loss}, gradient norm {norm}. Examples of the step: {named}, ...",
        mend="Lower training.learning_rate, or look at the examples with `flan tasks show`; the last checkpoint is kept.",
    )
