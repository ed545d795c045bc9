"""Soft prompts (prompt tuning, Lester et al. 2021): learned embeddings before each prompt.

peft puts them before each row of a batch and ignores the given positions, so examples could not be packed with its wrapper.
Here they are tokens with ids from the end of the vocabulary, which the embedding layer looks up in another table. So they may
begin each segment of a packed row, and scoring and generation need no changes:

    ids        v0 v1 p p p t t | v0 v1 p p t       v0 = vocabulary size, v1 = that + 1
    positions  0  1  2 3 4 5 6 | 0  1  2 3 4

They are saved in peft's format, and peft computes the same from the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flanlab.errors import FlanlabError

_WEIGHTS_FILE = "adapter_model.safetensors"
_WEIGHTS_NAME = "prompt_embeddings"


class SoftPromptEmbedding(nn.Module):
    """An embedding layer with a soft prompt after its vocabulary."""

    def __init__(self, words: nn.Module, vocabulary: int, prompt: Tensor) -> None:
        super().__init__()
        self.words = words
        self.vocabulary = vocabulary
        self.prompt = nn.Parameter(prompt.float())
        """float32 [virtual tokens, width], for any number type of the model."""

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings [..., width] of ids [...]."""
        virtual = ids >= self.vocabulary
        embedded: Tensor = self.words(ids.masked_fill(virtual, 0))
        rows = self.prompt.to(embedded.dtype)[(ids - self.vocabulary).clamp(min=0)]
        return torch.where(virtual[..., None], rows, embedded)


def add_soft_prompt(model: Any, prompt: Tensor) -> None:
    """Add a soft prompt, [virtual tokens, width], after a model's vocabulary, in place."""
    words = model.get_input_embeddings()
    vocabulary, width = words.weight.shape
    if prompt.shape[1] != width:
        raise FlanlabError(
            f"The soft prompt has width {prompt.shape[1]}, but the model's embeddings have width {width}.",
            hint="Use it with the model that it was tuned for.",
        )
    model.set_input_embeddings(SoftPromptEmbedding(words, vocabulary, prompt.to(words.weight.device)))


def first_soft_prompt(model: Any, length: int, seed: int = 0) -> Tensor:
    """Start of the tuning: the embeddings of `length` tokens of the vocabulary, chosen by the seed.

    Far better than random numbers (Lester et al. 2021, section 3.2).
    """
    words = model.get_input_embeddings().weight.detach()
    chosen = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed))[:length]
    start: Tensor = words[chosen.to(words.device)].float().clone()
    return start


def soft_prompt_of(model: Any) -> SoftPromptEmbedding | None:
    """The embedding layer with a model's soft prompt; None if it has none."""
    words = model.get_input_embeddings()
    return words if isinstance(words, SoftPromptEmbedding) else None


def virtual_tokens(model: Any) -> list[int]:
    """Ids of a model's virtual tokens, which come before each prompt; empty if it has none."""
    found = soft_prompt_of(model)
    return [] if found is None else list(range(found.vocabulary, found.vocabulary + len(found.prompt)))


def save_soft_prompt(model: Any, folder: Path) -> None:
    """Write a model's soft prompt as a peft adapter."""
    from peft import PromptTuningConfig

    found = soft_prompt_of(model)
    assert found is not None
    length, width = found.prompt.shape
    PromptTuningConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path,
        num_virtual_tokens=length,
        token_dim=width,
        num_transformer_submodules=1,
        num_layers=model.config.num_hidden_layers,
        num_attention_heads=model.config.num_attention_heads,
        inference_mode=True,
    ).save_pretrained(str(folder))
    save_file({_WEIGHTS_NAME: found.prompt.detach().cpu().contiguous()}, folder / _WEIGHTS_FILE)


def read_soft_prompt(folder: Path) -> Tensor:
    """The soft prompt of a peft adapter, [virtual tokens, width].

    Raises:
        FlanlabError: the adapter has none.
    """
    tensors = load_file(folder / _WEIGHTS_FILE)
    if _WEIGHTS_NAME not in tensors:
        raise FlanlabError(f"{folder / _WEIGHTS_FILE}: has no {_WEIGHTS_NAME}.", hint="Restore the folder as peft wrote it.")
    return tensors[_WEIGHTS_NAME]
