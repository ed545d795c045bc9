"""The card of an exported model: what it was trained on, what was held out, how it scored, and what it is not for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCardData

from flanlab.evaluation.planning import EvaluationSettings
from flanlab.results.schema import Results, Score
from flanlab.tasks.clusters import Cluster

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")

Kind = Literal["whole", "merged", "lora", "prompt"]
"""A model that was tuned whole, a LoRA adapter merged into its base, a LoRA adapter, or a soft prompt."""

_WHAT = {
    "whole": "all weights were trained",
    "merged": "a LoRA adapter was trained, and is merged into the weights",
    "lora": "this is a LoRA adapter",
    "prompt": "this is a soft prompt (prompt tuning)",
}


def model_card(
    stamp: Mapping[str, Any],
    kind: Kind,
    mixture: Mapping[str, Any] | None,
    results: Results | None,
    *,
    has_encoder: bool = False,
) -> str:
    """The card as Markdown.

    Args:
        stamp: the model's flanlab.json.
        kind: what the folder holds.
        mixture: the run's mixture.json, where there is one.
        results: of the run, where it has got that far.
        has_encoder: whether it is an encoder-decoder model.
    """
    parts = [
        _head(stamp, kind),
        _introduction(stamp, kind),
        _how_to_load(stamp, kind, has_encoder),
        _training_data(stamp, mixture),
        _hold_out(stamp),
        _results(results),
        _licences(stamp),
        _limits(stamp),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(stamp: Mapping[str, Any], kind: Kind) -> str:
    """What the Hub reads: YAML between dashes. The licence is left to the person who publishes the model."""
    base = stamp["base_model"]
    facts = ModelCardData(
        # Only ids of the Hub may stand there.
        base_model=base if _HUB_ID.fullmatch(base) and not Path(base).exists() else None,
        library_name="peft" if kind in ("lora", "prompt") else "transformers",
        tags=["instruction-tuning", "flan", "flanlab"],
    )
    return f"---\n{facts.to_yaml()}\n---"


def _introduction(stamp: Mapping[str, Any], kind: Kind) -> str:
    recipe = stamp["recipe"]
    training = recipe["training"]
    lines = [
        f"# {recipe['name']}",
        "",
        f"{stamp['base_model']}, instruction-tuned on {len(stamp['tasks'])} tasks with flanlab {stamp['flanlab']}, after FLAN"
        f" (Wei et al., ICLR 2022): {_WHAT[kind]}.",
    ]
    if recipe.get("description"):
        lines += ["", recipe["description"].strip()]
    lines += [
        "",
        f"{training['steps']:,} steps of {training['tokens_per_step']:,} tokens on average, {training['optimizer']}, learning"
        f" rate {training['learning_rate']:g} ({training['schedule']}). The whole recipe is in `flanlab.json`.",
    ]
    return "\n".join(lines)


def _how_to_load(stamp: Mapping[str, Any], kind: Kind, has_encoder: bool) -> str:
    base = stamp["base_model"]
    automatic = "AutoModelForSeq2SeqLM" if has_encoder else "AutoModelForCausalLM"
    if kind in ("whole", "merged"):
        code = [
            f"from transformers import {automatic}, AutoTokenizer",
            "",
            f'model = {automatic}.from_pretrained("PATH")',
        ]
    else:
        code = [
            "from peft import PeftModel",
            f"from transformers import {automatic}, AutoTokenizer",
            "",
            f'model = PeftModel.from_pretrained({automatic}.from_pretrained("{base}"), "PATH")',
        ]
    code.append('tokenizer = AutoTokenizer.from_pretrained("PATH")')
    asked = "A prompt is a plain instruction; the answer follows after one line break, and ends with the end token."
    if has_encoder:
        asked = "A prompt is a plain instruction, read by the encoder; the decoder writes the answer."
    return "\n".join(["## How to load", "", "```python", *code, "```", "", asked])


def _training_data(stamp: Mapping[str, Any], mixture: Mapping[str, Any] | None) -> str:
    clusters = ", ".join(Cluster(name).label for name in stamp["clusters"])
    lines = ["## What it was trained on", "", f"Clusters: {clusters}."]
    if mixture is None:
        lines += ["", *_table(("task", "cluster"), ((name, _first_cluster(task)) for name, task in stamp["tasks"].items()))]
        return "\n".join(lines)
    measured = mixture["measured_examples"]
    if measured != mixture["planned_examples"]:
        lines += ["", f"{mixture['planned_examples']:,} examples; counted here are the first {measured:,}."]
    rows = (
        (
            name,
            Cluster(entry["cluster"]).label,
            f"{entry['rows']:,}",
            f"{entry['rate']:.1%}",
            f"{entry['examples']:,}",
            f"{entry['tokens']:,}",
            f"{entry['target_tokens']:,}",
        )
        for name, entry in mixture["tasks"].items()
    )
    header = ("task", "cluster", "rows", "share", "examples", "tokens", "target tokens")
    return "\n".join([*lines, "", *_table(header, rows)])


def _hold_out(stamp: Mapping[str, Any]) -> str:
    clusters = ", ".join(Cluster(name).label for name in stamp["hold_out"]["clusters"])
    lines = ["## What was held out", "", f"Clusters: {clusters}. Tasks: {', '.join(sorted(stamp['lineage']))}."]
    left_out = {name: reason for name, reason in stamp["left_out"].items() if reason != "held out"}
    if left_out:
        lines += ["", "Left out of training beside them:", "", *(f"- {name}: {reason}" for name, reason in left_out.items())]
    if stamp["allowed_overlaps"]:
        allowed = (f"- {name}, although it {reason}" for name, reason in stamp["allowed_overlaps"].items())
        lines += ["", "Trained on all the same:", "", *allowed]
    return "\n".join(lines)


def _results(results: Results | None) -> str:
    if results is None:
        return ""
    variants = results.variants
    shots = EvaluationSettings.model_validate(next(iter(variants.values())).settings).shot_count
    lines = [
        "## Results",
        "",
        f"{f'{shots}-shot' if shots else 'Zero-shot'} on held-out tasks, main metric: mean over templates, with 95 % intervals"
        " over rows and templates.",
        "",
    ]
    rows = [
        (
            f"{name} (seen)" if task.seen else name,
            task.metrics[task.main_metric].title,
            *(_score(results.main_scores(name)[variant]) for variant in variants),
        )
        for name, task in results.tasks.items()
    ]
    lines += _table(("task", "metric", *(variant.title for variant in variants.values())), rows)
    notes = [f"- {note}" for note in results.notes]
    return "\n".join([*lines, "", *notes] if notes else lines)


def _score(score: Score) -> str:
    low, high = score.interval
    return f"{score.mean:.3f} [{low:.3f}, {high:.3f}]"


def _licences(stamp: Mapping[str, Any]) -> str:
    by_licence: dict[str, list[str]] = {}
    for name, task in stamp["tasks"].items():
        by_licence.setdefault(task.get("licence") or "not known", []).append(name)
    rows = ((licence, ", ".join(names)) for licence, names in sorted(by_licence.items()))
    return "\n".join(
        [
            "## Licences",
            "",
            f"The base model's own licence ({stamp['base_model']}) holds for this model too. The data that it was trained on:",
            "",
            *_table(("licence", "tasks"), rows),
        ]
    )


def _limits(stamp: Mapping[str, Any]) -> str:
    held_out = ", ".join(Cluster(name).label for name in stamp["hold_out"]["clusters"])
    return "\n".join(
        [
            "## What it must not be used for",
            "",
            "- Decisions about people (health, law, work, credit, exams) or anything else where a wrong answer does harm:"
            " nothing here was measured for that. It states falsehoods as fluently as facts.",
            "- Commercial use, where a licence above is for research alone.",
            "- Zero-shot figures for tasks that it was trained on, or that share sources with them: held out was"
            f" {held_out} alone, and `flanlab.json` says what was seen, task by task.",
            "- Talking with people unattended: it was tuned on tasks, not on dialogue, and for no safety. It repeats the biases"
            " of its base model and its data.",
        ]
    )


def _first_cluster(task: Mapping[str, Any]) -> str:
    return Cluster(task["clusters"][0]).label


def _table(header: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; bars and line breaks in cells are taken care of."""
    body = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [list(header), ["---"] * len(header), *body]]
