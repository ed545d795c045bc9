"""How a model is trained: which parameters, with which memory savings, and with which optimizer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from flanlab.errors import FlanlabError
from flanlab.models.attention_features import check_isolation
from flanlab.models.loading import LoadedModel
from flanlab.models.soft_prompt import add_soft_prompt, first_soft_prompt, save_soft_prompt, soft_prompt_of
from flanlab.models.sources import is_encoder_decoder, is_prompt_tuned
from flanlab.training.precision import keep_rounded_output, trains_embeddings, vocabulary_weights
from flanlab.training.settings import TrainingSettings


def check_method(model: str, settings: TrainingSettings) -> None:
    """Refuse a model that cannot be tuned. Only its configuration is read.

    Raises:
        FlanlabError: the method does not fit the model.
    """
    if is_prompt_tuned(model):
        raise FlanlabError(f"{model} is a soft prompt of another model.", hint="Tune the other model.")
    if settings.method == "prompt" and is_encoder_decoder(model):
        raise FlanlabError(
            f"{model} is an encoder-decoder model. Soft prompts work only for decoder-only models.",
            hint="Set training.method to lora or full.",
        )
    if settings.kl_weight and is_encoder_decoder(model):
        raise FlanlabError(
            f"{model} is an encoder-decoder model, which predicts no prompts. So kl_weight has no meaning.",
            hint="Leave out training.kl_weight.",
        )


def prepare_for_training(loaded: LoadedModel, settings: TrainingSettings) -> nn.Module:
    """The model with the method's parameters trainable, checked for leaks between packed examples."""
    if not loaded.model.config.is_encoder_decoder:
        check_isolation(loaded.model)
    if settings.method == "full":
        # bfloat16 has too few digits to add small updates. Computation may still use it (see loss).
        loaded.model.float()
    model = make_trainable(loaded.model, settings)
    keep_rounded_output(loaded.model, settings)
    if settings.gradient_checkpointing:
        checkpoint_layers(loaded.model)
    if settings.compile:
        # Layer by layer: they are all the same, so the compiler works once.
        for layer in layers_of(model):
            layer.compile(dynamic=True)
    return model


def untuned_copy(loaded: LoadedModel, settings: TrainingSettings) -> nn.Module | None:
    """The model as it is before training, for the penalty of `settings.kl_weight`; None without it."""
    if not settings.kl_weight:
        return None
    untuned: nn.Module = copy.deepcopy(loaded.model).requires_grad_(False).eval()
    keep_rounded_output(untuned, settings)
    return untuned


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The transformer layers of a model."""
    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def make_trainable(model: Any, settings: TrainingSettings) -> nn.Module:
    """Make the method's parameters of a language model trainable, and no others, in place."""
    without_dropout(model)
    if settings.method == "lora":
        from peft import LoraConfig, get_peft_model

        # A resumed run starts from the same initial weights.
        torch.manual_seed(settings.seed or 0)
        adapter = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=2 * settings.lora_rank,
            target_modules="all-linear",
            task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        )
        adapted: nn.Module = get_peft_model(model, adapter)
        return adapted
    if settings.method == "prompt":
        model.requires_grad_(False)
        add_soft_prompt(model, first_soft_prompt(model, settings.prompt_length, settings.seed or 0))
    else:
        model.requires_grad_(True)
        if not trains_embeddings(settings, model):
            for weight in vocabulary_weights(model):
                weight.requires_grad_(False)
    trainable: nn.Module = model
    return trainable


def checkpoint_layers(model: Any) -> None:
    """Compute each layer's forward pass again in the backward pass, instead of keeping its activations."""
    with warnings.catch_warnings():
        # The name that came in its place is not in all versions of transformers that flanlab works with.
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})


def save_trained(model: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write what was trained: all weights as a Hugging Face folder, or an adapter as peft writes it.

    `weights` are the whole weights of a sharded model.
    """
    if soft_prompt_of(model) is not None:
        # Whole in each process: a soft prompt is never trained under FSDP.
        save_soft_prompt(model, folder)
    else:
        model.save_pretrained(folder, state_dict=weights)


def without_dropout(model: nn.Module) -> None:
    """Turn off dropout, wherever a model has it, in place.

    With dropout, a step would depend on how it is divided into batches and among processes, and a resumed run would continue
    with other random numbers. Today's models are trained without it. T5 and GPT-2 have it.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Modules of transformers that pass a rate to functions have it as an attribute.
        for name, value in vars(module).items():
            if isinstance(value, float) and "drop" in name:
                setattr(module, name, 0.0)


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW, or Adafactor as in the paper (Shazeer & Stern 2018, with an external learning rate)."""
    parameters = trained(model)
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
