"""Peak memory of training on a CPU: what `flan train --plan` says beforehand, and what a process really took.

Each variant trains for two steps of two micro-batches full of the longest examples, in a process of its own.

    python benchmarks/memory.py --model smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "AdamW, gradient checkpointing": {"gradient_checkpointing": True},
    "Adafactor": {"optimizer": "adafactor"},
    "LoRA": {"method": "lora"},
    "soft prompt": {"method": "prompt"},
}
STEPS = 2
PROMPT, TARGET = 819, 205


def measure(model: str, changes: dict[str, Any]) -> None:
    """Train a little, and print the process's largest resident set and the seconds of the last step."""
    from flanlab.data.mixture import EncodedExample
    from flanlab.data.rendering import Example
    from flanlab.models.loading import load_model
    from flanlab.training.loss import objective_for
    from flanlab.training.methods import make_optimizer, prepare_for_training
    from flanlab.training.settings import TrainingSettings
    from flanlab.training.trainer import share_out, train_step

    settings = TrainingSettings(steps=STEPS, learning_rate=1e-4, compute_dtype="float32", **changes)
    length = settings.micro_batch_tokens - (settings.prompt_length if settings.method == "prompt" else 0)
    loaded = load_model(model, device="cpu")
    trained = prepare_for_training(loaded, settings).train()
    optimizer, objective = make_optimizer(trained, settings), objective_for(trained, loaded.encoder)
    draw = random.Random(0)
    seconds = []
    for _ in range(STEPS):
        tokens = [[draw.randrange(5, 30_000) for _ in range(length)] for _ in range(2)]
        example = Example("", "", 1, 0, "", "")
        examples = [EncodedExample(example, one[:-TARGET], one[-TARGET:], False) for one in tokens]
        started = time.perf_counter()
        train_step(trained, optimizer, objective, share_out(objective, examples, settings), settings, 1e-4)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "seconds": seconds[-1]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--variant", help="only measure this one, in this process")
    arguments = parser.parse_args()
    if arguments.variant:
        measure(arguments.model, VARIANTS[arguments.variant])
        return
    from flanlab.data.mixture import MixtureSettings
    from flanlab.training.estimate import estimate_training
    from flanlab.training.settings import TrainingSettings

    print(f"{'':32}{'planned':>12}{'measured':>12}{'s/step':>9}")
    for name, changes in VARIANTS.items():
        settings = TrainingSettings(steps=STEPS, learning_rate=1e-4, compute_dtype="float32", **changes)
        estimate = estimate_training(arguments.model, settings, MixtureSettings(), on_gpu=False)
        memory = estimate.checkpointed if settings.gradient_checkpointing else estimate.plain
        command = [sys.executable, __file__, "--model", arguments.model, "--variant", name]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{name:32}{memory.total / 2**20:8.0f} MiB{found['peak'] / 2**20:8.0f} MiB{found['seconds']:9.1f}", flush=True)


if __name__ == "__main__":
    main()
