"""The training section of a recipe."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flanlab.settings import NOTHING, TRAINING, Settings

LossAverage = Literal["tokens", "examples", "sqrt"]
Tracking = Literal["tensorboard", "trackio", "wandb"]


class TrainingSettings(Settings):
    """Training settings. A step is a fixed number of examples: as many as have `tokens_per_step` tokens on average.

    `docs/reference/recipe.md` describes the fields.
    """

    steps: Annotated[int, TRAINING] = Field(gt=0, description="Optimizer steps.")
    tokens_per_step: Annotated[int, TRAINING] = Field(
        default=8192, gt=0, description="Mean number of tokens of a step, prompts and targets (paper: 8,192)."
    )
    micro_batch_tokens: Annotated[int, TRAINING] = Field(
        default=1024, gt=0, description="Largest number of tokens computed at once. It limits memory."
    )
    seed: Annotated[int | None, TRAINING] = Field(
        default=None,
        description="Order of rows, templates and options in training, and initial weights where there are any. Default: the"
        " recipe's seed, which also determines the questions of the evaluation.",
    )
    method: Annotated[Literal["full", "lora", "prompt"], TRAINING] = Field(
        default="full", description="Train all weights, a LoRA adapter, or a soft prompt."
    )
    lora_rank: Annotated[int, TRAINING] = Field(default=16, gt=0, description="Rank of the LoRA adapter at each linear layer.")
    prompt_length: Annotated[int, TRAINING] = Field(
        default=20, gt=0, description="Number of virtual tokens of a soft prompt. The gain beyond 20 is small."
    )
    loss_average: Annotated[LossAverage, TRAINING] = Field(
        default="tokens",
        description="What has equal weight in a step's loss: target tokens, or examples of any length. sqrt: between the two.",
    )
    kl_weight: Annotated[float, TRAINING] = Field(
        default=0.0,
        ge=0,
        description="Weight of a penalty for predicting prompts differently from the untuned model. It lessens what tuning"
        " loses on other tasks. 1 to 5 is usual. A step takes 1.4 times as long.",
    )
    optimizer: Annotated[Literal["adamw", "adafactor"], TRAINING] = Field(
        default="adamw", description="AdamW, or Adafactor (the paper's), which needs less memory."
    )
    learning_rate: Annotated[float, TRAINING] = Field(gt=0, description="Highest learning rate, reached after warm-up.")
    schedule: Annotated[Literal["constant", "linear", "cosine"], TRAINING] = Field(
        default="linear", description="Shape of the decay after warm-up."
    )
    warmup_steps: Annotated[int, TRAINING] = Field(
        default=0, ge=0, description="Steps over which the learning rate rises to its highest value."
    )
    weight_decay: Annotated[float, TRAINING] = Field(default=0.0, ge=0, description="Decoupled weight decay of the optimizer.")
    gradient_clip: Annotated[float, TRAINING] = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    gradient_checkpointing: Annotated[bool, TRAINING] = Field(
        default=False,
        description="Compute each layer's forward pass again in the backward pass. Less memory, a third more time.",
    )
    compute_dtype: Annotated[Literal["auto", "float32", "bfloat16"], TRAINING] = Field(
        default="auto",
        description="Number type of a step's computation. Weights, gradients and optimizer are float32. auto: bfloat16 if a"
        " measurement on this machine finds it faster.",
    )
    train_embeddings: Annotated[Literal["auto"] | bool, TRAINING] = Field(
        default="auto",
        description="Train the input embedding and the output layer too. auto: unless they hold most of the parameters.",
    )
    compile: Annotated[bool, TRAINING] = Field(
        default=False, description="Compile the model's layers. Slow to start, then faster on a GPU."
    )
    workers: Annotated[int | None, NOTHING] = Field(
        default=None,
        ge=0,
        description="Number of processes that render examples ahead. Default: none on a CPU, up to 8 on a GPU.",
    )
    checkpoint_minutes: Annotated[float, NOTHING] = Field(default=10.0, gt=0, description="Time between checkpoints.")
    parallel: Annotated[Literal["ddp", "fsdp"], NOTHING] = Field(
        default="ddp", description="For several processes: each keeps the whole model (ddp) or a shard of it (fsdp)."
    )
    dev_every: Annotated[int | None, NOTHING] = Field(
        default=None,
        gt=0,
        description="Steps between measurements of the loss on the training tasks' dev rows. Not measured by default.",
    )
    dev_examples: Annotated[int, NOTHING] = Field(default=32, gt=0, description="Number of dev examples of each cluster.")
    keep_steps: Annotated[list[Annotated[int, Field(gt=0)]], NOTHING] = Field(
        [],
        description="Also keep the model as it is after each of these steps, in `models/step-N`. `flan run` scores these models"
        " too, which gives a learning curve.",
    )
    track: Annotated[Tracking | None, NOTHING] = Field(
        default=None, description="Also show the log in tensorboard, trackio or wandb."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.parallel == "fsdp" and self.optimizer == "adafactor":
            raise ValueError("adafactor needs whole weights, which no process has under fsdp: use adamw, or parallel: ddp")
        if self.parallel == "fsdp" and self.method == "prompt":
            raise ValueError("a soft prompt cannot be divided among processes: use parallel: ddp")
        if self.kl_weight and (self.parallel == "fsdp" or self.method == "prompt"):
            raise ValueError("kl_weight needs the whole untuned model: use method: full or lora, and parallel: ddp")
        if self.keep_steps and max(self.keep_steps) >= self.steps:
            raise ValueError(f"keep_steps: the last of the {self.steps} steps is kept anyway, and there is none after it")
        if self.train_embeddings is True and self.method != "full":
            raise ValueError(f"method: {self.method} does not train embeddings: use method: full, or train_embeddings: auto")
        return self

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step (from 0): linear warm-up, then the schedule, which reaches zero after the last step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        shape = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[self.schedule]
        return self.learning_rate * shape
