"""Run folders made up for the report: predictions by hand, results.json by the code that writes the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.scores import build_results, score_task
from flanlab.files import read_json, write_json, write_text
from flanlab.results.files import PREDICTION_SCHEMA, write_results
from flanlab.results.schema import Hashes, Variant
from flanlab.tasks.holdout import ON_ITS_ROWS
from flanlab.tasks.loading import load_collections, select_tasks

HOSTILE = '<script>alert("x")</script><img src="https://evil.example/x.png"> $x$ & \u202e {{ 7 * 7 }}'
VARIANTS = {
    "untuned_instruction": "untuned, instruction prompt",
    "untuned_chat": "untuned, chat prompt",
    "tuned": "tuned",
}
ROWS, TEMPLATES = 40, (1, 2, 4, 5)
LUCK = {1: 1, 2: -1}
"""Tenths by which a template does better or worse; they cancel out."""
Right = Mapping[str, int]
"""Of every ten rows, how many a variant answers right."""


def prediction(task: str, template: int, row: int, right: bool, generation: bool, prompt: str) -> dict[str, Any]:
    """One prediction; the right option is every other row's first."""
    answer = row % 2
    options = ["negative", "positive"]
    chosen = answer if right else 1 - answer
    scores = [-1.0 if position == chosen else -3.0 for position in range(2)]
    reference = f"voici la phrase numéro {row}, la bonne" if generation else options[answer]
    return {
        "task": task,
        "template": template,
        "row": row,
        "group": None,
        "prompt": f"{prompt} Question {row}, template {template}",
        "options": [] if generation else options,
        "own_options": [] if generation else options,
        "option_scores": [] if generation else scores,
        # Without end tokens everything is the other way round, so that a mix-up shows.
        "option_scores_without_end": [] if generation else scores[::-1],
        "option_scores_alone": [] if generation else [-2.0, -2.0],
        "option_scores_alone_without_end": [] if generation else [-1.0, -1.0],
        "option_tokens": [] if generation else [2, 2],
        "answer": None if generation else answer,
        "references": [reference],
        "gold_value": None,
        "generated": reference if right else ("other words" if generation else options[chosen]),
        "shortened": False,
    }


def make_run(
    folder: Path,
    right: Right,
    *,
    tasks: Sequence[str] = ("product_reviews", "visitor_comments"),
    prompt: str = "Is it good?",
    trained: bool = True,
    in_domain: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """Write a run folder; `right` names its variants, `changes` are facts of its results."""
    settings = EvaluationSettings()
    scored = []
    before = [variant for variant in right if variant != "tuned"]
    for task in select_tasks(load_collections(["sampler"]), tasks):
        predictions = {}
        for variant, tenths in right.items():
            predictions[variant] = [
                prediction(
                    task.name,
                    template,
                    row,
                    (row * 7 + template) % 10 < tenths + LUCK.get(template, 0),
                    not task.is_classification,
                    prompt,
                )
                for row in range(ROWS)
                for template in TEMPLATES
            ]
            place = folder / "predictions" / variant / task.name
            place.mkdir(parents=True)
            for number in range(2):
                part = pa.Table.from_pylist(predictions[variant][number::2], schema=PREDICTION_SCHEMA)
                pq.write_table(part, place / f"shard-{number:05d}.parquet")
        hashes = Hashes(task=task.hash, rows="hash of the rows")
        scored.append(
            score_task(
                task, predictions, hashes=hashes, **({"in_domain": True, "seen": ON_ITS_ROWS} if task.name in in_domain else {})
            )
        )
    trained_on = {"short_facts": "closed_book_qa", "everyday_goals": "commonsense"}
    variants = {
        variant: Variant(
            title=VARIANTS.get(variant, f"{variant} prompt"),
            model="some/model, tuned" if variant == "tuned" else "some/model",
            parameters=134_515_008,
            stamped=variant == "tuned",
            trained_on=trained_on if variant == "tuned" else None,
            settings=settings.model_dump(mode="json"),
        )
        for variant in right
    }
    results = build_results(
        scored,
        variants,
        before=before if trained else (),
        after="tuned",
        **{
            "name": "synthetic",
            "description": "A run made up for a test.",
            "hold_out": ["sentiment"],
            "left_out": {"far_away": "held out"} if trained else {},
            "notes": ["A note to the reader."],
            "seconds": 3725.0,
            **changes,
        },
    )
    write_results(results, folder)
    if trained:
        _write_training(folder)
    return folder


def change(folder: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    """Change a folder's results.json by hand; `scores.parquet` stays as it is, since nothing here reads it."""
    content = read_json(folder / "results.json")
    how(content)
    write_json(folder / "results.json", content)


def rows_of(content: Mapping[str, Any], table: str = "scores", **equal: Any) -> list[dict[str, Any]]:
    """Rows of a table of results.json in which these fields have these values; a mean over templates, where not said."""
    wanted = ({"template": "mean"} if table == "scores" else {}) | equal
    return [row for row in content[table] if all(row.get(name) == value for name, value in wanted.items())]


def _write_training(folder: Path) -> None:
    counts = {"rows": 60, "epochs": 0.477, "examples": 30, "tokens": 2100, "target_tokens": 300, "shortened": 2}
    write_json(
        folder / "mixture.json",
        {
            "planned_examples": 440,
            "measured_examples": 60,
            "cycle_length": 60,
            "tasks": {
                "short_facts": {"cluster": "closed_book_qa", **counts, "dropped": {"target too long": 3}},
                "everyday_goals": {"cluster": "commonsense", **counts, "dropped": {}},
            },
        },
    )
    write_json(
        folder / "run.json",
        {"flanlab": "0.1.0", "packages": {"torch": "2.9.0"}, "tasks": {"short_facts": {"task": "abc", "rows": "def"}}},
    )
    write_text(folder / "recipe.yaml", "name: synthetic\nevaluation:\n  end_token: true\n")
    steps = [
        {"step": step, "loss": 3 / step, "examples": 11, "tokens": 800, "target_tokens": 100, "seconds": 2.5}
        for step in range(1, 41)
    ]
    write_text(folder / "training" / "log.jsonl", "".join(json.dumps(step) + "\n" for step in steps))


def mark_seen(folder: Path, task: str, variant: str) -> None:
    """Have a variant's model say that it was trained on a task."""

    def mark(content: dict[str, Any]) -> None:
        content["tasks"][task]["seen"] = "the model was trained on its train rows"
        content["variants"][variant]["stamped"] = True
        cluster = content["tasks"][task]["clusters"][0]
        for row in content["scores"]:
            about = row["level"] in ("tasks", "clusters") or row.get("task") == task
            if row["variant"] == variant and (about or (row["level"] == "cluster" and row["cluster"] == cluster)):
                row["seen"] = True

    change(folder, mark)
