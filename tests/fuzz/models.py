"""Targets that need torch: checkpoints, whole models, adapters, and GGUF files, each with a damaged file."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from pathlib import Path
from random import Random

import torch
from torch import nn

from flanlab.models.loading import load_model
from flanlab.training.checkpoints import load_latest, save_checkpoint
from tests.fuzz.mutate import mutated_bytes, mutated_tree
from tests.fuzz.oracle import Case
from tests.tiny import save_tiny


def checkpoint(random: Random, folder: Path) -> Case:
    """Two checkpoints, of which one file is damaged, missing or another's."""
    model, optimizer = _trained()
    place = folder / "checkpoints"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_checkpoints(), place)
    for path in random.sample(sorted(path for path in place.rglob("*") if path.is_file()), random.choice((1, 1, 2, 4))):
        _damage(random, path)
    return Case(lambda: load_latest(place, model, optimizer, "key"), ("step-", "checkpoints"), inside=folder)


def whole_model(random: Random, folder: Path) -> Case:
    """A folder of a model."""
    place = folder / "model"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_model(), place)
    files = ["model.safetensors", "model.safetensors", "config.json", "config.json", "tokenizer.json", "tokenizer_config.json"]
    _damage(random, place / random.choice(files))
    return Case(lambda: load_model(str(place)), (str(place), "tokenizer", "model"), inside=folder)


def adapter(random: Random, folder: Path) -> Case:
    """A LoRA adapter of a model."""
    place = folder / "adapter"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_adapter(), place)
    _damage(random, place / random.choice(("adapter_model.safetensors", "adapter_config.json", "adapter_config.json")))
    return Case(lambda: load_model(str(place)), (str(place), "adapter"), inside=folder)


def gguf(random: Random, folder: Path) -> Case:
    """A GGUF file: mostly its header."""
    path = folder / "model.gguf"
    content = _gguf()
    head = mutated_bytes(random, content[:2000])
    path.write_bytes(head + content[2000:] if random.random() < 0.7 else mutated_bytes(random, content))
    os.environ["FLANLAB_CACHE"] = str(folder / "cache")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return Case(lambda: load_model(str(path)), (str(path), "tokenizer"), inside=folder)


def _damage(random: Random, path: Path) -> None:
    content = path.read_bytes()
    if path.suffix == ".json" and random.random() < 0.6:
        path.write_text(json.dumps(mutated_tree(random, json.loads(content))), encoding="utf-8", errors="replace")
    elif path.suffix == ".safetensors" and random.random() < 0.6:
        size = int.from_bytes(content[:8], "little")
        path.write_bytes(content[:8] + mutated_bytes(random, content[8 : 8 + size]) + content[8 + size :])
    elif random.random() < 0.1:
        path.unlink()
    else:
        path.write_bytes(mutated_bytes(random, content))


@functools.cache
def _place() -> Path:
    return Path(tempfile.mkdtemp(prefix="flanlab-fuzz-"))


def _trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


@functools.cache
def _checkpoints() -> Path:
    model, optimizer = _trained()
    for step in (1, 2):
        save_checkpoint(_place() / "checkpoints", model, optimizer, step, "key", {"tasks": {}})
    return _place() / "checkpoints"


@functools.cache
def _model() -> Path:
    return save_tiny(_place() / "model", "llama")


@functools.cache
def _adapter() -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(_model())
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(_place() / "adapter")
    return _place() / "adapter"


@functools.cache
def _gguf() -> bytes:
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(_place() / "model.gguf", "llama")
    for name, value in (("context_length", 64), ("embedding_length", 32), ("block_count", 1), ("feed_forward_length", 48)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{number}" for number in range(40)])
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(1)
    for name, shape in (("token_embd.weight", (40, 32)), ("output_norm.weight", (32,)), ("blk.0.attn_q.weight", (32, 32))):
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (_place() / "model.gguf").read_bytes()


TARGETS = {"checkpoint": checkpoint, "model": whole_model, "adapter": adapter, "gguf": gguf}
