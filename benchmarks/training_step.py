"""A training step on the CPU, in several ways: what bfloat16, kept memory and frozen embeddings save.

Each way runs in a process of its own, in turn; after a first step to warm up, the best of the following ones counts. Processor
time feels other work on the machine less than the clock does; page faults and peak memory do not feel it at all.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

import torch

from flanlab.data.mixture import EncodedExample
from flanlab.data.rendering import Example
from flanlab.models.built_in import SMOLLM2
from flanlab.models.loading import load_model
from flanlab.training.loss import PackedObjective
from flanlab.training.memory import kept_memory
from flanlab.training.methods import make_optimizer, prepare_for_training
from flanlab.training.settings import TrainingSettings
from flanlab.training.trainer import share_out, train_step

WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    "float32": ({"compute_dtype": "float32", "train_embeddings": True}, False),
    "float32, memory kept": ({"compute_dtype": "float32", "train_embeddings": True}, True),
    "bfloat16": ({"compute_dtype": "bfloat16", "train_embeddings": True}, False),
    "bfloat16, memory kept": ({"compute_dtype": "bfloat16", "train_embeddings": True}, True),
    "bfloat16, memory kept, embeddings frozen": ({"compute_dtype": "bfloat16", "train_embeddings": False}, True),
}
"""Name to settings, and whether freed memory is kept; `flan train` always keeps it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2, help="folder, Hub id or name of the model")
    parser.add_argument("--examples", type=int, default=10, help="examples of a step")
    parser.add_argument("--steps", type=int, default=2, help="steps measured of each way, after one to warm up")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ways to measure; the first is compared with"
    )
    parser.add_argument("--layers", type=int, help="layers of the model to keep; all, if not given")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.model, arguments.way, arguments.examples, arguments.steps, arguments.layers)))
        return
    print(f"{'':42}{'tokens/s':>9}{'ratio':>7}{'cpu s':>7}{'ratio':>7}{'faults':>10}{'peak MB':>9}{'loss':>9}")
    first: dict[str, Any] = {}
    for way in arguments.ways:
        command = [sys.executable, __file__, "--way", way, "--model", arguments.model]
        command += ["--examples", str(arguments.examples), "--steps", str(arguments.steps)]
        command += ["--layers", str(arguments.layers)] if arguments.layers else []
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        first = first or found
        clock, processor = first["seconds"] / found["seconds"], first["processor"] / found["processor"]
        print(
            f"{way:42}{found['tokens'] / found['seconds']:9.0f}{clock:7.2f}{found['processor']:7.2f}{processor:7.2f}"
            f"{found['faults']:10}{found['peak'] / 1e6:9.0f}{found['loss']:9.4f}",
            flush=True,
        )


def measure(name: str, way: str, count: int, steps: int, layers: int | None) -> dict[str, Any]:
    changes, keeps = WAYS[way]
    settings = TrainingSettings(steps=steps + 1, learning_rate=1e-5, micro_batch_tokens=512, **changes)
    loaded = load_model(name, device="cpu")
    if layers is not None:
        del loaded.model.model.layers[layers:]
    model = prepare_for_training(loaded, settings).train()
    optimizer, objective = make_optimizer(model, settings), PackedObjective()
    draw = random.Random(0)
    examples = [make_example(draw) for _ in range(count)]
    shares = share_out(objective, examples, settings)
    found: list[dict[str, Any]] = []
    losses = []
    with kept_memory(torch.device("cpu"), large=settings.train_embeddings is True) if keeps else nullcontext():
        for _ in range(steps + 1):
            started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            losses.append(train_step(model, optimizer, objective, shares, settings, 1e-5)[0])
            after = resource.getrusage(resource.RUSAGE_SELF)
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            faults = after.ru_minflt - before.ru_minflt
            found.append({"seconds": time.perf_counter() - started, "processor": processor, "faults": faults})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    best = {kind: min(step[kind] for step in found[1:]) for kind in ("seconds", "processor", "faults")}
    return {**best, "tokens": sum(one.length for one in examples), "peak": peak, "loss": losses[-1]}


def make_example(draw: random.Random) -> EncodedExample:
    prompt, target = ([draw.randrange(5, 40_000) for _ in range(draw.randint(*span))] for span in ((60, 220), (2, 30)))
    return EncodedExample(Example("", "", 1, 0, "", ""), prompt, target, False)


if __name__ == "__main__":
    main()
