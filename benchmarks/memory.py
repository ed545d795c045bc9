"""Peak memory of training on a CPU: what `flan train --plan` says beforehand, and what a process really took.

Each variant trains for two steps of two micro-batches full of the longest examples, in a process of its own. With a recipe, its
own mixture is trained on instead, and target tokens and peak of each step are printed (Linux).

    python benchmarks/memory.py --model smollm2-135m-instruct
    python benchmarks/memory.py --recipe recipes/effect-gemma.yaml --steps 11
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
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


def measure(model: str, dtype: str, changes: dict[str, Any]) -> None:
    """Train a little, and print the process's largest resident set and the seconds of the last step."""
    import torch

    from flanlab.data.mixture import EncodedExample
    from flanlab.data.rendering import Example
    from flanlab.models.loading import load_model
    from flanlab.training.loss import objective_for
    from flanlab.training.memory import kept_memory
    from flanlab.training.methods import make_optimizer, prepare_for_training
    from flanlab.training.precision import settle
    from flanlab.training.settings import TrainingSettings
    from flanlab.training.trainer import share_out, train_step

    settings = TrainingSettings(steps=STEPS, learning_rate=1e-4, compute_dtype=dtype, **changes)
    length = settings.micro_batch_tokens - (settings.prompt_length if settings.method == "prompt" else 0)
    loaded = load_model(model, device="cpu")
    settings = settle(settings, loaded.model)
    trained = prepare_for_training(loaded, settings).train()
    optimizer, objective = make_optimizer(trained, settings), objective_for(trained, loaded.encoder)
    draw = random.Random(0)
    seconds = []
    for _ in range(STEPS):
        tokens = [[draw.randrange(5, 30_000) for _ in range(length)] for _ in range(2)]
        example = Example("", "", 1, 0, "", "")
        examples = [EncodedExample(example, one[:-TARGET], one[-TARGET:], False) for one in tokens]
        started = time.perf_counter()
        with kept_memory(torch.device("cpu"), large=settings.train_embeddings is True):
            train_step(trained, optimizer, objective, share_out(objective, examples, settings), settings, 1e-4)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "seconds": seconds[-1]}))


def measure_recipe(path: Path, steps: int) -> None:
    """Train on a recipe's mixture, and print the peak of each step alone."""
    import torch

    from flanlab.experiments.recipe import make_mixture, make_plan, read_recipe
    from flanlab.models.loading import load_model
    from flanlab.training.loss import objective_for
    from flanlab.training.memory import kept_memory
    from flanlab.training.methods import make_optimizer, prepare_for_training
    from flanlab.training.precision import settle
    from flanlab.training.stream import steps_of_examples
    from flanlab.training.trainer import examples_per_step, share_out, train_step

    recipe = read_recipe(path)
    mixture = make_mixture(make_plan(recipe))
    loaded = load_model(recipe.model, device="cpu")
    settings = settle(recipe.training, loaded.model)
    model = prepare_for_training(loaded, settings).train()
    optimizer, objective = make_optimizer(model, settings), objective_for(model, loaded.encoder)
    per_step = examples_per_step(mixture, loaded.encoder, settings)
    with kept_memory(torch.device("cpu"), large=settings.train_embeddings is True):
        for step, examples in enumerate(steps_of_examples(mixture, loaded.encoder, per_step, 0, steps, 0), start=1):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted again
            started = time.process_time()
            shares = share_out(objective, examples, settings)
            loss, _ = train_step(model, optimizer, objective, shares, settings, settings.learning_rate)
            seconds = time.process_time() - started
            targets = [sum(len(one.target) for one in batch) for batch in shares[0]]
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            peak = int(status["VmHWM"].split()[0]) / 2**10
            print(
                f"step {step}: loss {loss:.4f}, target tokens {targets}, peak {peak:.0f} MiB, cpu {seconds:.1f} s", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--variant", help="only measure this one, in this process")
    parser.add_argument("--recipe", type=Path, help="train on this recipe's mixture instead")
    parser.add_argument("--steps", type=int, default=11, help="steps of the recipe")
    arguments = parser.parse_args()
    if arguments.recipe:
        measure_recipe(arguments.recipe, arguments.steps)
        return
    if arguments.variant:
        measure(arguments.model, arguments.dtype, VARIANTS[arguments.variant])
        return
    from flanlab.data.mixture import MixtureSettings
    from flanlab.training.estimate import estimate_training
    from flanlab.training.settings import TrainingSettings

    print(f"{'':32}{'planned':>12}{'measured':>12}{'s/step':>9}")
    for name, changes in VARIANTS.items():
        settings = TrainingSettings(steps=STEPS, learning_rate=1e-4, compute_dtype=arguments.dtype, **changes)
        estimate = estimate_training(arguments.model, settings, MixtureSettings(), on_gpu=False)
        memory = estimate.checkpointed if settings.gradient_checkpointing else estimate.plain
        command = [sys.executable, __file__, "--model", arguments.model, "--dtype", arguments.dtype, "--variant", name]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{name:32}{memory.total / 2**20:8.0f} MiB{found['peak'] / 2**20:8.0f} MiB{found['seconds']:9.1f}", flush=True)


if __name__ == "__main__":
    main()
