"""The card of an exported model: what it was trained on, what was held out, how it scored, and what it is not for.

Its text is model_card.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCardData
from jinja2 import Environment, StrictUndefined

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
    base, training = stamp["base_model"], stamp["recipe"]["training"]
    adapter = kind in ("lora", "prompt")
    head = ModelCardData(
        # Only ids of the Hub may stand there. The licence is left to the person who publishes the model.
        base_model=base if _HUB_ID.fullmatch(base) and not Path(base).exists() else None,
        library_name="peft" if adapter else "transformers",
        tags=["instruction-tuning", "flan", "flanlab"],
    )
    done = stamp.get("steps", training["steps"])
    licences: dict[str, list[str]] = {}
    for name, task in stamp["tasks"].items():
        licences.setdefault(task.get("licence") or "not known", []).append(name)
    template = (resources.files("flanlab.experiments") / "model_card.md").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    return environment.from_string(template).render(
        stamp=stamp,
        recipe={"description": "", **stamp["recipe"]},
        training=training,
        steps=f"{done:,} steps" if done == training["steps"] else f"{done:,} of {training['steps']:,} steps",
        head=head.to_yaml(),
        what=_WHAT[kind],
        adapter=adapter,
        automatic="AutoModelForSeq2SeqLM" if has_encoder else "AutoModelForCausalLM",
        has_encoder=has_encoder,
        mixture=mixture,
        trained=_trained(stamp, mixture),
        left_out={name: reason for name, reason in stamp["left_out"].items() if reason != "held out"},
        licences=[(licence, ", ".join(names)) for licence, names in sorted(licences.items())],
        labels=lambda clusters: ", ".join(Cluster(name).label for name in clusters),
        table=_table,
        **_results(results),
    )


def _trained(stamp: Mapping[str, Any], mixture: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    if mixture is None:
        return [(name, Cluster(task["clusters"][0]).label) for name, task in stamp["tasks"].items()]
    rows = []
    for name, one in mixture["tasks"].items():
        counts = (f"{one[count]:,}" for count in ("examples", "tokens", "target_tokens"))
        rows.append((name, Cluster(one["cluster"]).label, f"{one['rows']:,}", f"{one['rate']:.1%}", *counts))
    return rows


def _results(results: Results | None) -> dict[str, Any]:
    if results is None:
        return {"results": None}
    shots = EvaluationSettings.model_validate(next(iter(results.variants.values())).settings).shot_count
    scores = [
        (
            f"{name} ({task.mark})" if task.mark else name,
            task.metrics[task.main_metric].title,
            *(_score(results.main_scores(name)[variant]) for variant in results.variants),
        )
        for name, task in results.tasks.items()
    ]
    titles = [variant.title for variant in results.variants.values()]
    asked = f"{shots}-shot" if shots else "Without exemplars" if results.in_domain else "Zero-shot"
    return {"results": results, "shots": asked, "titles": titles, "scores": scores}


def _score(score: Score) -> str:
    low, high = score.interval
    return f"{score.mean:.3f} [{low:.3f}, {high:.3f}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks in cells are taken care of."""
    body = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(header), ["---"] * len(header), *body])
