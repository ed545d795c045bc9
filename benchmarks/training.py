"""Supervised tuning side by side: TRL's SFTTrainer (padded, and packed) and flanlab on the same examples, one run.

Every turn is a process of its own, so that its peak memory is its own; the turns alternate, so that whatever else the machine
does strikes all. Measured are the optimizer steps alone, in tokens of the examples (no padding) per second.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from flanlab.data.encoding import ANSWER_SEPARATOR, TextEncoder
from flanlab.data.mirror import mirror_from_environment
from flanlab.data.mixture import EncodedExample, Mixture, MixtureSettings
from flanlab.data.rendering import Example
from flanlab.data.sources import load_rows
from flanlab.models.built_in import SMOLLM2
from flanlab.models.loading import load_model
from flanlab.models.sources import base_source
from flanlab.progress import say
from flanlab.tasks.loading import load_collection, select_tasks
from flanlab.training.log import operations_per_token
from flanlab.training.loss import PackedObjective
from flanlab.training.memory import kept_memory
from flanlab.training.methods import make_optimizer, prepare_for_training
from flanlab.training.precision import computing, vocabulary_weights
from flanlab.training.settings import TrainingSettings
from flanlab.training.trainer import share_out, train_step

SEED = 0
LEARNING_RATE = 1e-5
EXAMPLES_PER_STEP = 8
ROW_TOKENS = 1024
"""flanlab's micro-batch, and the length of TRL's packed rows."""
LIBRARY_TASKS = (
    "ag_news",
    "arc.easy",
    "boolq",
    "common_gen",
    "cosmos_qa",
    "hellaswag",
    "mrpc",
    "rte",
    "sst2",
    "trec",
    "winogrande",
    "wmt16_de_en",
)
"""One of each cluster."""
KINDS = ("flanlab", "trl_padded", "trl_packed")
REFERENCE = "unpacked"
"""One example at a time through the model as transformers loads it: what flanlab's losses are held against."""


def main() -> None:
    arguments = parse_arguments()
    if arguments.kind:
        print(json.dumps(run_turn(arguments.kind, arguments.model_folder, arguments.examples_file, arguments.dtype)))
        return
    mirror: Path | None = arguments.mirror or mirror_from_environment()
    folder = base_source(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "examples.json"
        path.write_text(json.dumps(make_examples(folder, mirror, arguments.examples)), encoding="utf-8")
        turns: dict[str, list[dict[str, Any]]] = {}
        for number in range(arguments.rounds):
            for kind in KINDS if number else (*KINDS, REFERENCE):
                turns.setdefault(kind, []).append(turn_in_own_process(kind, folder, path, arguments.dtype, arguments.core))
                result = turns[kind][-1]
                say(f"round {number + 1}, {kind}: {result['seconds']:.1f} s (processor {result['processor_seconds']:.1f} s)")
    summary = summarize(turns)
    if arguments.json:
        print(json.dumps(summary))
    else:
        print_table(summary)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="folder with Hub data sets (else FLANLAB_MIRROR, else the sampler)")
    parser.add_argument("--model", default=SMOLLM2, help="folder or Hub id of the model")
    parser.add_argument("--examples", type=int, default=24, help="how many examples are trained on")
    parser.add_argument("--rounds", type=int, default=2, help="how often the three take turns")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="numbers that all compute in")
    parser.add_argument("--core", type=int, help="the one core that every turn runs on (Linux)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--kind", choices=(*KINDS, REFERENCE), help=argparse.SUPPRESS)
    parser.add_argument("--model-folder", help=argparse.SUPPRESS)
    parser.add_argument("--examples-file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_examples(folder: str, mirror: Path | None, count: int) -> list[dict[str, Any]]:
    """The head of the training stream over one task of each cluster (or over the sampler), as text and tokens."""
    encoder = TextEncoder(AutoTokenizer.from_pretrained(folder))
    tasks = select_tasks(load_collection("library"), LIBRARY_TASKS) if mirror else load_collection("sampler")
    rows = {task.name: load_rows(task, "train", mirror) for task in tasks}
    settings = MixtureSettings(maximum=100, prompt_tokens=ROW_TOKENS - 128, target_tokens=128)
    mixture = Mixture(tasks, rows, settings, SEED)
    examples: list[dict[str, Any]] = []
    position = 0
    while len(examples) < count:
        found = mixture.examples([position], encoder)[0]
        position += 1
        if isinstance(found, EncodedExample):
            texts = {"prompt_text": found.example.prompt, "target_text": found.example.target}
            examples.append({**texts, "prompt": found.prompt, "target": found.target})
    return examples


def turn_in_own_process(kind: str, folder: str, examples: Path, dtype: str, core: int | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--kind", kind, "--model-folder", folder, "--examples-file", str(examples)]
    command += ["--dtype", dtype]
    pin = None if core is None else lambda: os.sched_setaffinity(0, {core})
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=pin).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def run_turn(kind: str, folder: str, path: Path, dtype: Any) -> dict[str, Any]:
    examples = json.loads(path.read_text(encoding="utf-8"))
    if kind == "flanlab":
        result = train_with_flanlab(folder, examples, dtype)
    elif kind == REFERENCE:
        result = train_unpacked(folder, examples, dtype)
    else:
        result = train_with_trl(folder, examples, dtype, packed=kind == "trl_packed")
    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {**result, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def train_with_flanlab(folder: str, examples: Sequence[dict[str, Any]], dtype: Any) -> dict[str, Any]:
    loaded = load_model(folder, device="cpu")
    encoded = [
        EncodedExample(Example("", "", 1, 0, one["prompt_text"], one["target_text"]), one["prompt"], one["target"], False)
        for one in examples
    ]
    steps = [encoded[start : start + EXAMPLES_PER_STEP] for start in range(0, len(encoded), EXAMPLES_PER_STEP)]
    settings = settings_for(len(steps), dtype)
    model = prepare_for_training(loaded, settings).train()
    optimizer = make_optimizer(model, settings)
    product = product_rate(settings.compute_dtype)
    started, processor_started = time.perf_counter(), time.process_time()
    losses = []
    with kept_memory(torch.device("cpu"), large=settings.train_embeddings is True):
        for step in steps:
            shares = share_out(PackedObjective(), step, settings)
            losses.append(train_step(model, optimizer, PackedObjective(), shares, settings, LEARNING_RATE)[0])
    processor_seconds = time.process_time() - processor_started
    product = (product + product_rate(settings.compute_dtype)) / 2
    tokens = sum(one.length for one in encoded)
    # The output layer computes target positions only, and the input embedding no product.
    vocabulary = 6 * sum(weight.numel() for weight in vocabulary_weights(model))
    targets = sum(len(one.target) for one in encoded)
    operations = tokens * (operations_per_token(model) - vocabulary) + targets * vocabulary
    return {
        "share_of_product": operations / processor_seconds / product,
        "seconds": time.perf_counter() - started,
        "processor_seconds": processor_seconds,
        "tokens": tokens,
        "steps": len(steps),
        "losses": losses,
    }


def product_rate(dtype: str) -> float:
    """Operations of a matrix product in a second of processor time."""
    side, times = 1024, 10
    first, second = torch.ones(2, side, side, dtype=getattr(torch, dtype))
    first @ second  # the first one takes longer
    started = time.process_time()
    for _ in range(times):
        first @ second
    return 2 * side**3 * times / (time.process_time() - started)


def train_unpacked(folder: str, examples: Sequence[dict[str, Any]], dtype: Any) -> dict[str, Any]:
    """The same steps, written as plainly as can be: nothing packed, nothing batched, transformers' own attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    steps = [examples[start : start + EXAMPLES_PER_STEP] for start in range(0, len(examples), EXAMPLES_PER_STEP)]
    settings = settings_for(len(steps), dtype)
    optimizer = make_optimizer(model, settings)
    losses = []
    started, processor_started = time.perf_counter(), time.process_time()
    for step in steps:
        optimizer.zero_grad()
        target_tokens = sum(len(one["target"]) for one in step)
        losses.append(0.0)
        for one in step:
            with computing(settings, torch.device("cpu")):
                logits = model(input_ids=torch.tensor([one["prompt"] + one["target"]])).logits[0, len(one["prompt"]) - 1 : -1]
            logits = logits.float()
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(one["target"]), reduction="sum") / target_tokens
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor_started,
        "losses": losses,
    }


def settings_for(steps: int, dtype: Literal["float32", "bfloat16"]) -> TrainingSettings:
    return TrainingSettings(
        steps=steps,
        micro_batch_tokens=ROW_TOKENS,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        compute_dtype=dtype,
        train_embeddings=True,  # as TRL does
    )


def train_with_trl(folder: str, examples: Sequence[dict[str, Any]], dtype: str, packed: bool) -> dict[str, Any]:
    """SFTTrainer over prompts with completions. Of its defaults only what must be is changed: see README.md."""
    from datasets import Dataset, disable_progress_bars
    from transformers.utils.logging import disable_progress_bar
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    clock = _StepClock()
    with tempfile.TemporaryDirectory() as output:
        config = SFTConfig(
            output_dir=output,
            use_cpu=True,
            bf16=dtype == "bfloat16",
            gradient_checkpointing=False,
            # A packed row holds about as many examples as a padded batch, so both make as many updates.
            per_device_train_batch_size=1 if packed else EXAMPLES_PER_STEP,
            packing=packed,
            max_length=ROW_TOKENS,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(
                [{"prompt": one["prompt_text"], "completion": ANSWER_SEPARATOR + one["target_text"]} for one in examples]
            ),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
        expected = sum(len(one["prompt"]) + len(one["target"]) for one in examples)
        if tokens != expected:
            raise SystemExit(f"TRL made {tokens} tokens of the examples, flanlab {expected}; use another model.")
        trainer.train()
    result = {
        "seconds": clock.seconds,
        "processor_seconds": clock.processor_seconds,
        "tokens": tokens,
        "steps": clock.steps,
        "attention": model.config._attn_implementation,
    }
    return {**result, "packed_examples_leak": leaks(trainer)} if packed else result


class _StepClock(TrainerCallback):
    """Time from the first step's begin to the last step's end."""

    started = processor_started = seconds = processor_seconds = 0.0
    steps = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.steps:
            self.started, self.processor_started = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.started
        self.processor_seconds = time.process_time() - self.processor_started
        self.steps += 1


@torch.inference_mode()
def leaks(trainer: Any) -> bool:
    """Whether a change in a packed row's first example changes what the model makes of the others."""
    batch = next(iter(trainer.get_train_dataloader()))
    batch = {name: value for name, value in batch.items() if name != "labels"}
    second = int((batch["position_ids"][0] == 0).nonzero()[1])
    model = trainer.model.eval()
    before = model(**batch).logits[0, second:]
    batch["input_ids"][0, :second] = batch["input_ids"][0, :second].flip(0)
    after = model(**batch).logits[0, second:]
    return not torch.allclose(before, after, rtol=0, atol=1e-3)


def summarize(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def rate(kind: str, seconds: str = "seconds") -> float:
        return float(sum(turn["tokens"] for turn in turns[kind]) / sum(turn[seconds] for turn in turns[kind]))

    differences = zip(turns["flanlab"][0]["losses"], turns[REFERENCE][0]["losses"], strict=True)

    def peak(kind: str) -> float:
        return float(max(turn["peak_bytes"] for turn in turns[kind]))

    return {
        "trl": version("trl"),
        "threads": torch.get_num_threads(),
        "tokens": turns["flanlab"][0]["tokens"],
        "steps": {kind: turns[kind][0]["steps"] for kind in KINDS},
        "seconds": {kind: [round(turn["seconds"], 2) for turn in turns[kind]] for kind in KINDS},
        "tokens_per_second": {kind: rate(kind) for kind in KINDS},
        "share_of_product": max(turn["share_of_product"] for turn in turns["flanlab"]),
        "peak_gigabytes": {kind: peak(kind) / 1e9 for kind in KINDS},
        "vs_trl_padded": rate("flanlab") / rate("trl_padded"),
        "vs_trl_packed": rate("flanlab") / rate("trl_packed"),
        "processor_vs": {kind: rate("flanlab", "processor_seconds") / rate(kind, "processor_seconds") for kind in KINDS},
        "memory_vs_trl_padded": peak("flanlab") / peak("trl_padded"),
        "memory_vs_trl_packed": peak("flanlab") / peak("trl_packed"),
        "largest_loss_difference_to_unpacked": max(abs(ours - plain) for ours, plain in differences),
        "trl_packed_examples_leak": turns["trl_packed"][0]["packed_examples_leak"],
        "trl_attention": turns["trl_packed"][0]["attention"],
    }


def print_table(summary: dict[str, Any]) -> None:
    print(
        f"{summary['tokens']} tokens, {summary['threads']} threads, TRL {summary['trl']} with {summary['trl_attention']}"
        f" attention; its packed examples {'SEE' if summary['trl_packed_examples_leak'] else 'do not see'} each other"
    )
    print(f"{'':14}{'steps':>7}{'seconds of each turn':>26}{'tokens/s':>10}{'flanlab is':>12}{'cpu':>9}{'peak GB':>9}")
    own = summary["tokens_per_second"]["flanlab"]
    for kind in KINDS:
        seconds = ", ".join(f"{value:.1f}" for value in summary["seconds"][kind])
        rate = summary["tokens_per_second"][kind]
        print(
            f"{kind:14}{summary['steps'][kind]:>7}{seconds:>26}{rate:>10.0f}{own / rate:>11.2f}x"
            f"{summary['processor_vs'][kind]:>8.2f}x"
            f"{summary['peak_gigabytes'][kind]:>9.2f}"
        )
    print(f"flanlab's share of the speed of a matrix product: {summary['share_of_product']:.2f}")
    difference = summary["largest_loss_difference_to_unpacked"]
    print(f"loss per token of a step: at most {difference:.1e} from that of unpacked training")


if __name__ == "__main__":
    main()
