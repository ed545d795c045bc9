"""The training loop: packed examples, loss on target tokens only, and a stream that resumes at its position."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import EncodedExample, Mixture
from flanlab.errors import FlanlabError
from flanlab.files import is_full
from flanlab.models.loading import LoadedModel
from flanlab.processes import from_first, is_first, rank, world_size
from flanlab.progress import meter, say
from flanlab.training.checkpoints import load_latest, no_room, save_checkpoint
from flanlab.training.log import (
    TrainingLog,
    notes_of,
    open_tracker,
    operations_per_token,
    peak_operations,
    step_record,
)
from flanlab.training.loss import Objective, example_weight, kl_places, objective_for
from flanlab.training.memory import kept_memory
from flanlab.training.methods import make_optimizer, prepare_for_training, untuned_copy
from flanlab.training.packing import owners
from flanlab.training.parallel import add_up, add_up_gradients, clip_gradients, is_sharded, spread
from flanlab.training.precision import computing
from flanlab.training.settings import TrainingSettings
from flanlab.training.stopping import WINDOW, HeldInterrupts, LossWatch
from flanlab.training.stream import DevExamples, steps_of_examples, usual_workers

Shares = list[list[list[EncodedExample]]]
"""A step's micro-batches, process by process."""


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
    dev: DevExamples | None = None,
    keep: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Tune a model on a mixture. Resumes from the newest checkpoint in `folder`, if there is one.

    Args:
        loaded: the model, which is changed in place.
        mixture: the training stream.
        settings: the recipe's training section, settled (see `precision.settle`).
        folder: where checkpoints and `log.jsonl` go.
        training_key: hash of everything that shapes the result. A checkpoint with another key is refused.
        stamp: written into every checkpoint as flanlab.json.
        dev: examples whose loss is measured every `settings.dev_every` steps, by cluster.
        keep: called with the model after each of `settings.keep_steps`, before a checkpoint that is later.

    Returns:
        The tuned model (for LoRA, the model with its adapter).

    Raises:
        FlanlabError: the loss is no longer a finite number, or a checkpoint does not belong to these settings.
    """
    untuned = untuned_copy(loaded, settings)
    model = prepare_for_training(loaded, settings)
    objective = objective_for(model, loaded.encoder, untuned)
    model = spread(model, settings)
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, settings)
    done = saved = load_latest(folder, model, optimizer, training_key)
    if saved:
        say(f"Resuming from step {saved} of {settings.steps}.")
    per_step = examples_per_step(mixture, loaded.encoder, settings)
    workers = usual_workers(device.type) if settings.workers is None else settings.workers
    stream = steps_of_examples(mixture, loaded.encoder, per_step, saved, settings.steps, workers)
    peak, operations = peak_operations(device), operations_per_token(model)
    last_saved = time.monotonic()

    def save() -> None:
        nonlocal saved, last_saved
        if done > saved:
            save_checkpoint(folder, model, optimizer, done, training_key, stamp)
            saved, last_saved = done, time.monotonic()

    model.train()
    interrupts = HeldInterrupts()
    # Until the end of each save: a signal during a save would leave it incomplete.
    with kept_memory(device, large=bool(settings.train_embeddings)) as return_memory, interrupts:
        try:
            tracker = open_tracker(settings.track, folder, settings.model_dump())
            with TrainingLog(folder / "log.jsonl", saved, tracker) as log, meter("Training", settings.steps, saved) as bar:
                watch = LossWatch(from_first(lambda: log.losses))
                started = time.monotonic()
                for step, examples in enumerate(stream, start=saved):
                    waited = time.monotonic() - started
                    learning_rate = settings.learning_rate_at(step)
                    shares = share_out(objective, examples, settings)
                    loss, norm = train_step(model, optimizer, objective, shares, settings, learning_rate)
                    if not math.isfinite(loss) or not math.isfinite(norm):
                        _refuse(step, f"loss {loss}, gradient norm {norm}", examples)
                    done = step + 1
                    if done % _STEPS_BETWEEN_RETURNS == 0:
                        return_memory()
                    # Measured from the end of the previous step, to include waiting for examples.
                    now = time.monotonic()
                    seconds, started = now - started, now
                    padding = sum(objective.padding(batch) for share in shares for batch in share)
                    record = step_record(done, loss, norm, learning_rate, examples, padding, seconds, waited)
                    if peak is not None:
                        record["mfu"] = round(operations * record["tokens"] / seconds / peak, 4)
                    if dev and settings.dev_every and (done % settings.dev_every == 0 or done in (1, settings.steps)):
                        found = record["dev_loss"] = dev_losses(model, objective, dev, settings)
                        shown = ", ".join(f"{cluster} {value:.3f}" for cluster, value in found.items())
                        say(f"Step {done}, loss on dev: {shown}")
                        started = time.monotonic()
                    log.write(record)
                    bar.advance(1, notes_of(record, seconds))
                    if keep is not None and done in settings.keep_steps:
                        keep(model, done)
                        started = time.monotonic()
                    is_due = time.monotonic() - last_saved > settings.checkpoint_minutes * 60
                    # Signals and clocks differ between processes, but all processes must decide the same.
                    stopped, due = add_up([interrupts.count, is_due and is_first()], device)
                    if watch.has_exploded(loss):
                        medians = f"was {watch.lowest:.3g} before, and is {watch.median:.3g}"
                        _refuse(step, f"the median loss of the last {WINDOW} steps {medians}", examples)
                    if due and done < settings.steps:
                        save()
                        started = time.monotonic()
                    if stopped:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            if interrupts.count < 2 or world_size() > 1:
                save()
                say(f"Saved after step {done} of {settings.steps}. The same command resumes from there.")
            raise
        except OSError as error:
            if is_full(error):
                raise no_room(folder, "The training log could not be written") from error
            raise
        save()
    # Signals that were delayed while the last checkpoint was written.
    if add_up([interrupts.count], device)[0]:
        raise KeyboardInterrupt
    model.eval()
    return model


_STEPS_BETWEEN_RETURNS = 32


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    shares: Shares,
    settings: TrainingSettings,
    learning_rate: float,
) -> tuple[float, float]:
    """One update. Returns the mean loss (see `settings.loss_average`), with the mean penalty (`settings.kl_weight`), and the
    gradient's norm before clipping.

    The loss of each micro-batch is divided by the weights of all target tokens of the whole step. So the update does not depend
    on how the step is divided into micro-batches and among processes. All processes get the whole step.
    """
    average = settings.loss_average
    everything = [example for share in shares for batch in share for example in batch]
    total_weight = math.fsum(len(example.target) * example_weight(example, average) for example in everything)
    if not total_weight:
        return 0.0, 0.0
    # The mean over its tokens, whatever divides the loss.
    kl_weight = settings.kl_weight * total_weight / max(1, sum(len(kl_places(one)) for one in everything))
    optimizer.zero_grad(set_to_none=True)
    losses = []
    device = next(model.parameters()).device
    # One context for the whole step: weights are cast to bfloat16 once, not for each micro-batch.
    with computing(settings, device):
        for batch, counts in own_batches(model, shares):
            weights = None if average == "tokens" else [example_weight(example, average) for example in batch]
            loss = objective.loss(model, batch, weights, kl_weight) / total_weight * counts
            with torch.autocast(device.type, enabled=False):
                loss.backward()
            losses.append(loss.detach())
    total = add_up([torch.stack(losses).sum().item() if losses else 0.0], device)[0]
    add_up_gradients(model)
    norm = clip_gradients(model, settings.gradient_clip)
    if math.isfinite(total) and math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
    return total, norm


@torch.no_grad()
def dev_losses(model: nn.Module, objective: Objective, dev: DevExamples, settings: TrainingSettings) -> dict[str, float]:
    """Loss per target token of each cluster's dev examples. The processes share the work as in a step."""
    with computing(settings, next(model.parameters()).device):
        sums = [
            sum(
                objective.loss(model, batch).item() * counts
                for batch, counts in own_batches(model, share_out(objective, examples, settings))
            )
            for examples in dev.values()
        ]
    if isinstance(model, FSDPModule):
        # Its root keeps whole, rounded weights until a backward pass. They must not be saved or updated.
        model.reshard()
    totals = add_up(sums, next(model.parameters()).device)
    target_tokens = [sum(len(example.target) for example in examples) for examples in dev.values()]
    return {cluster: total / tokens for cluster, total, tokens in zip(dev, totals, target_tokens, strict=True)}


def share_out(objective: Objective, examples: Sequence[EncodedExample], settings: TrainingSettings) -> Shares:
    """The micro-batches of each process, with about equally many tokens for all."""
    owner = owners([example.length for example in examples], world_size())
    return [
        objective.batches(
            [example for example, one in zip(examples, owner, strict=True) if one == process], settings.micro_batch_tokens
        )
        for process in range(world_size())
    ]


def own_batches(model: nn.Module, shares: Shares) -> list[tuple[list[EncodedExample], int]]:
    """This process's micro-batches, each with its weight: 1 or 0.

    All processes gather the layers of a sharded model for each batch. So if another process has more batches, this one computes
    the step's shortest example again, with weight 0.
    """
    own = shares[rank()]
    idle = max(map(len, shares)) - len(own) if is_sharded(model) else 0
    everything = (example for share in shares for batch in share for example in batch)
    shortest = min(everything, key=lambda example: example.length)
    return [(batch, 1) for batch in own] + [([shortest], 0)] * idle


def _refuse(step: int, what: str, examples: Sequence[EncodedExample]) -> None:
    named = ", ".join(f"{e.example.task}:{e.example.row} (template {e.example.template})" for e in examples[:8])
    raise FlanlabError(
        f"Training stopped at step {step + 1}: {what}. Examples of the step: {named}" + ", ..." * (len(examples) > 8) + ".",
        hint="Lower training.learning_rate and start again with another --out, or check the examples with `flan tasks show`.",
    )
