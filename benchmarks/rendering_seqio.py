"""seqio's turn of rendering.py, for an interpreter that has seqio: FOLDER, examples, examples to warm up.

One seqio task for each data set with all its templates within, as FLAN was trained: rows are batched by as many as there are
templates, each row of a batch goes through another template, and the batch is taken apart again.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sentencepiece
import seqio
import tensorflow as tf

EXAMPLES_AT_ONCE = 1_000
LENGTHS = {"inputs": 1024, "targets": 256}


def main() -> None:
    folder, examples, warm_up = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    vocabulary = seqio.SentencePieceVocabulary(str(train_vocabulary(folder, tasks)))
    features = {name: seqio.Feature(vocabulary=vocabulary, add_eos=True) for name in LENGTHS}
    for name, task in tasks.items():
        add_task(name, task, features)
    seqio.MixtureRegistry.add(
        "mixture", list(tasks), default_rate=functools.partial(seqio.mixing_rate_num_examples, maximum=3_000)
    )
    # Whole batches come out of the graph, so that Python is not asked for each example.
    dataset = (
        seqio.get_mixture_or_task("mixture")
        .get_dataset(LENGTHS, split="train", shuffle=True, seed=0, num_epochs=None)
        .ragged_batch(EXAMPLES_AT_ONCE)
    )
    batches = iter(dataset)
    for _ in range(0, warm_up, EXAMPLES_AT_ONCE):
        next(batches)
    started, processor_started = time.perf_counter(), time.process_time()
    made = tokens = 0
    while made < examples:
        batch = next(batches)
        made += EXAMPLES_AT_ONCE
        tokens += sum(int(batch[name].flat_values.shape[0]) for name in LENGTHS)
    result = {
        "version": version("seqio"),
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor_started,
        "examples": made,
        "tokens": tokens,
        "characters": characters(dataset, vocabulary),
    }
    print(json.dumps(result))


def train_vocabulary(folder: Path, tasks: dict[str, Any]) -> Path:
    """A SentencePiece model of the usual kind and size, trained once on the rows' own texts."""
    path = folder / "vocabulary.model"
    if not path.exists():
        texts = [text for task in tasks.values() for column in task["columns"].values() for text in column]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=str(folder / "vocabulary"),
            vocab_size=32_000,
            hard_vocab_limit=False,
            byte_fallback=True,
            minloglevel=2,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
        )
    return path


def add_task(name: str, task: dict[str, Any], features: dict[str, seqio.Feature]) -> None:
    columns = {**task["columns"], "answer": task["answers"]}
    if task["options"]:
        columns["options"] = task["options"]
    patterns = []
    for template in task["templates"]:
        block = "\n\n{options_}" if task["options"] and template["direction"] == "forward" else ""
        patterns.append((pattern(template["prompt"]) + block, pattern(template["target"])))
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            dataset_fn=lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(columns),
            splits=["train"],
            num_input_examples={"train": len(task["answers"])},
        ),
        preprocessors=[
            *([list_options] if task["options"] else []),
            functools.partial(apply_templates, patterns=patterns),
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=features,
    )


def pattern(source: str) -> str:
    return re.sub(r"\{\{ *(\w+) *\}\}", r"{\1}", source.strip())


@seqio.map_over_dataset  # type: ignore[untyped-decorator]
def list_options(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    listed = tf.strings.reduce_join(example["options"], separator="\n- ")
    return {**example, "options_": tf.strings.join(["OPTIONS:\n- ", listed])}


def apply_templates(dataset: tf.data.Dataset, patterns: list[tuple[str, str]]) -> tf.data.Dataset:
    """Batches of as many rows as there are templates, every row through another one, and taken apart again."""

    def fill(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rows = [{name: values[number] for name, values in batch.items()} for number in range(len(patterns))]
        filled = [(fill_in(inputs, row), fill_in(targets, row)) for (inputs, targets), row in zip(patterns, rows, strict=True)]
        return {name: tf.stack(texts) for name, texts in zip(LENGTHS, zip(*filled, strict=True), strict=True)}

    batches = dataset.batch(len(patterns), drop_remainder=True)
    return batches.map(fill, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def fill_in(source: str, row: dict[str, tf.Tensor]) -> tf.Tensor:
    parts = [part for part in re.split(r"(\{\w+\})", source) if part]
    return tf.strings.join([row[part[1:-1]] if part.startswith("{") else part for part in parts])


def characters(dataset: tf.data.Dataset, vocabulary: seqio.Vocabulary) -> int:
    """Characters for each example, from the text of a batch's tokens, times the examples."""
    batch = next(iter(dataset))
    texts = [vocabulary.decode(ids.tolist()) for name in LENGTHS for ids in batch[name].numpy()]
    return sum(map(len, texts)) // EXAMPLES_AT_ONCE


if __name__ == "__main__":
    main()
