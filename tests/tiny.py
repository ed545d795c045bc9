"""Tiny models with random weights, and tiny tasks: enough to test mechanics in seconds, with nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from flanlab.experiments.recipe import Recipe, read_recipe
from flanlab.models.loading import LoadedModel, load_model
from flanlab.tasks.loading import load_task
from flanlab.tasks.schema import Task

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TRAINING_TEXT = [
    "Is this comment about a film positive or negative?\n\nOPTIONS:\n- positive\n- negative\n\npositive",
    "Which number comes after seven?\n\neight",
    "What is the capital of the country? Answer with one word.\n\nyes no maybe true false",
    "The quick brown fox jumps over the lazy dog, 0 1 2 3 4 5 6 7 8 9 times.",
] * 4

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    # Wide, so that the random model has opinions and a leak cannot hide below a tolerance.
    "initializer_range": 0.3,
    "max_position_embeddings": 512,
}
WINDOWED: dict[str, dict[str, Any]] = {
    "gemma2": {"attn_logit_softcapping": 2.0},
    "gemma3": {"num_hidden_layers": 4, "layer_types": [*["sliding_attention"] * 3, "full_attention"]},
    "gpt_oss": {},
    "mistral": {},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 1},
}
"""Architectures with sliding windows, and the settings with which a tiny model has all kinds of their layers."""
WINDOW = 8
"""Tokens that one token sees in a sliding layer of a windowed tiny model."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 340 tokens with an end token and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_config(kind: str, vocabulary: int, **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny model of some architecture."""
    grouped: dict[str, Any] = {**SIZES, "vocab_size": vocabulary, "num_key_value_heads": 2, "eos_token_id": 0}
    plain = {name: value for name, value in grouped.items() if name != "num_key_value_heads"}
    if kind == "llama":
        return LlamaConfig(**{**grouped, "bos_token_id": None, "tie_word_embeddings": True, **changes})
    if kind == "qwen2":
        return Qwen2Config(**{**grouped, "bos_token_id": None, **changes})
    if kind == "gpt_neox":
        return GPTNeoXConfig(**{**plain, "bos_token_id": None, **changes})
    if kind == "mistral":
        return MistralConfig(**{**grouped, "bos_token_id": None, "head_dim": 8, **changes})
    if kind == "gemma2":
        return Gemma2Config(**{**grouped, "bos_token_id": None, "head_dim": 8, "query_pre_attn_scalar": 8, **changes})
    if kind == "gemma3":
        return Gemma3TextConfig(**{**grouped, "bos_token_id": None, "head_dim": 8, "query_pre_attn_scalar": 8, **changes})
    if kind == "qwen3":
        return Qwen3Config(**{**grouped, "bos_token_id": None, "head_dim": 8, **changes})
    if kind == "gpt_oss":
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
        return GptOssConfig(**{**grouped, "bos_token_id": None, "head_dim": 8, **experts, **changes})
    if kind == "gpt2":
        sizes = {"n_embd": SIZES["hidden_size"], "n_layer": SIZES["num_hidden_layers"], "n_head": 4}
        return GPT2Config(vocab_size=vocabulary, **{"bos_token_id": None, "eos_token_id": 0, **sizes, **changes})
    raise AssertionError(kind)


def make_model(kind: str, vocabulary: int, **changes: Any) -> PreTrainedModel:
    """A tiny model with the same random weights every time."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(make_config(kind, vocabulary, **changes), dtype=torch.float32)
    assert isinstance(model, PreTrainedModel)
    return model


def save_tiny(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """Write a tiny model with its tokenizer as a Hugging Face folder."""
    tokenizer = make_tokenizer()
    model = make_model(kind, len(tokenizer), **changes)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models by architecture; not to be written to."""
    root = tmp_path_factory.mktemp("tiny-models")
    return {kind: save_tiny(root / kind, kind) for kind in ("llama", "qwen2", "gpt_neox")}


@pytest.fixture(scope="session")
def windowed_folders(tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path]) -> dict[str, Path]:
    """As `tiny_folders`, and with them models with sliding windows."""
    root = tmp_path_factory.mktemp("windowed-models")
    windowed = {kind: save_tiny(root / kind, kind, sliding_window=WINDOW, **changes) for kind, changes in WINDOWED.items()}
    return {**tiny_folders, **windowed}


@pytest.fixture(scope="session")
def tiny_folder(tiny_folders: dict[str, Path]) -> Path:
    """Folder of the tiny Llama; not to be written to."""
    return tiny_folders["llama"]


@pytest.fixture
def tiny(tiny_folder: Path) -> LoadedModel:
    """The tiny Llama, loaded again, so that a test may train it."""
    return load_model(str(tiny_folder), device="cpu")


def stock_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The same weights with transformers' own attention: the reference."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    assert isinstance(model, PreTrainedModel)
    return model.eval()


SENTIMENT_ROWS = [
    {"text": f"The {thing} was {word}, and I would {'' if label else 'not '}go again.", "label": label}
    for thing in ("film", "soup", "hotel room", "long walk by the sea")
    for word, label in (("lovely", 1), ("dull", 0), ("bright and kind", 1), ("cold", 0), ("awful in every way", 0))
]
NUMBER_ROWS = [{"number": number, "next": str(number + 1)} for number in range(24)]

SENTIMENT_TASK: dict[str, Any] = {
    "name": "comments",
    "cluster": "sentiment",
    "source": {"files": "comments.jsonl", "splits": {"train": "all[:10]", "test": "all[10:]"}},
    "licence": "CC0-1.0",
    "fields": {"text": "{{ text }}"},
    "options": ["negative", "positive"],
    "answer": "{{ options[label] }}",
    "metrics": ["accuracy"],
    "templates": [
        {"prompt": "{{ text }}\nIs this comment positive or negative?"},
        {"prompt": "How does the writer feel? {{ text }}"},
        {"prompt": "{{ text }} Good or bad?", "options": ["bad", "good"]},
        {"direction": "inverted", "prompt": "Write a {{ answer }} comment.", "target": "{{ text }}"},
    ],
}
NUMBER_TASK: dict[str, Any] = {
    "name": "counting",
    "cluster": "miscellaneous",
    "source": {"files": "counting.jsonl", "splits": {"train": "all[:16]", "test": "all[16:]"}},
    "licence": "CC0-1.0",
    "fields": {"number": "{{ number }}", "next": "{{ next }}"},
    "answer": "{{ next }}",
    "metrics": ["exact_match", "f1"],
    "templates": [
        {"prompt": "Which number comes after {{ number }}?"},
        {"prompt": "{{ number }} and then?"},
        {"direction": "inverted", "prompt": "Which number comes before {{ answer }}?", "target": "{{ number }}"},
    ],
}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_tasks(folder: Path) -> Path:
    """A folder with two tasks of two clusters: `comments` (sentiment) and `counting` (miscellaneous)."""
    folder.mkdir(parents=True, exist_ok=True)
    for content, rows in ((SENTIMENT_TASK, SENTIMENT_ROWS), (NUMBER_TASK, NUMBER_ROWS)):
        name = content["name"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def tiny_tasks(folder: Path) -> tuple[Task, Task]:
    """Write the tiny tasks into `folder` and read them: comments, counting."""
    write_tasks(folder)
    return load_task(folder / "comments.yaml"), load_task(folder / "counting.yaml")


def recipe_content(model: Path, **training: Any) -> dict[str, Any]:
    """A recipe that trains on `counting` in four short steps, and holds `comments` out."""
    return {
        "name": "tiny",
        "description": "does a tiny model learn?",
        "model": str(model),
        "tasks": {"collections": ["tasks"]},
        "hold_out": {"clusters": ["sentiment"]},
        "training": {
            "steps": 4,
            "tokens_per_step": 160,
            "compute_dtype": "float32",
            "micro_batch_tokens": 128,
            "learning_rate": 5e-3,
            **training,
        },
        "evaluation": {"rows": 6, "templates_per_row": 2, "new_tokens": 4},
    }


def write_recipe(folder: Path, content: Mapping[str, Any]) -> Recipe:
    """Write a recipe as `recipe.yaml` into a folder, and read it; the tiny tasks are put beside it where there are none yet."""
    if not (folder / "tasks").exists():
        write_tasks(folder / "tasks")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(content)), encoding="utf-8")
    return read_recipe(path)
