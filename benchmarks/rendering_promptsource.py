"""promptsource's turn of rendering.py, for an interpreter that has promptsource: FOLDER, examples, examples to warm up."""

from __future__ import annotations

import json
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from promptsource.templates import Template
from transformers import AutoTokenizer

EXAMPLES_AT_ONCE = 1_000


def main() -> None:
    folder, examples, warm_up = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    rows = [row for task in tasks.values() for row in rows_with_templates(task)]
    generator = random.Random(0)
    generator.shuffle(rows)
    make(rows, generator, tokenizer, warm_up)
    started, processor_started = time.perf_counter(), time.process_time()
    characters, tokens = make(rows, generator, tokenizer, examples)
    result = {
        "version": version("promptsource"),
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor_started,
        "examples": examples,
        "tokens": tokens,
        "characters": characters,
    }
    print(json.dumps(result))


def rows_with_templates(task: dict[str, Any]) -> list[tuple[dict[str, Any], list[Template]]]:
    """Each row as promptsource gets it, a dict of columns, with the templates of its task."""
    options = task["options"]
    fixed = options and all(row == options[0] for row in options)
    choices = " ||| ".join(options[0]) if fixed else "{{ all_options | join(' ||| ') }}" if options else None
    templates = []
    for template in task["templates"]:
        block = '\n\nOPTIONS:\n- {{ answer_choices | join("\n- ") }}' if options and template["direction"] == "forward" else ""
        jinja = f"{template['prompt'].strip()}{block} ||| {template['target']}"
        templates.append(Template("", jinja, "", answer_choices=choices))
    rows = []
    for number, answer in enumerate(task["answers"]):
        row = {name: values[number] for name, values in task["columns"].items()} | {"answer": answer}
        rows.append((row | ({"all_options": options[number]} if options else {}), templates))
    return rows


def make(
    rows: list[tuple[dict[str, Any], list[Template]]], generator: random.Random, tokenizer: Any, count: int
) -> tuple[int, int]:
    """Characters and tokens of `count` examples, each row through a template drawn by lot."""
    characters = tokens = 0
    for start in range(0, count, EXAMPLES_AT_ONCE):
        prompts, targets = [], []
        for position in range(start, min(start + EXAMPLES_AT_ONCE, count)):
            row, templates = rows[position % len(rows)]
            prompt, target = generator.choice(templates).apply(row, truncate=False)
            prompts.append(prompt)
            targets.append(target)
        for texts in (prompts, targets):
            characters += sum(map(len, texts))
            tokens += sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    return characters, tokens


if __name__ == "__main__":
    main()
