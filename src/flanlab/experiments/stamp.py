"""The stamp (`flanlab.json`): what a tuned model was trained on and what was held out, written beside its weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from flanlab import __version__
from flanlab.experiments.recipe import Plan, Recipe
from flanlab.models.loading import LoadedModel
from flanlab.settings import TRAINING, affecting


def make_stamp(plan: Plan, loaded: LoadedModel) -> dict[str, Any]:
    """Everything the evaluator needs to know to tell seen from unseen, and a reader to make the model again."""
    ancestors = plan.split.lineage
    adapter = plan.recipe.training.method != "full"
    earlier: Mapping[str, Any] = loaded.stamp["tasks"] if loaded.stamp else {}
    tasks = {
        task.name: {
            "clusters": [cluster.value for cluster in task.clusters],
            "lineage": sorted(ancestors[task.name]),
            "subtasks": list(task.subtasks),
            "hash": task.hash,
            "templates": [template.hash for template in task.templates],
            "rows": plan.train_rows[task.name].source_hash,
            "licence": task.licence,
        }
        for task in plan.split.train
    }
    return {
        "flanlab": __version__,
        # An adapter needs its base from any working folder.
        "base_model": os.path.abspath(loaded.name) if adapter and os.path.exists(loaded.name) else loaded.name,
        "base_identity": loaded.identity,
        "hold_out": {
            "clusters": [cluster.value for cluster in plan.split.hold_out.clusters],
            "overlap": plan.split.hold_out.overlap,
        },
        "left_out": dict(plan.split.left_out),
        "allowed_overlaps": dict(plan.split.allowed),
        "clusters": sorted({cluster for facts in {**earlier, **tasks}.values() for cluster in facts["clusters"]}),
        "tasks": {**earlier, **tasks},
        "lineage": {task.name: sorted(ancestors[task.name]) for task in plan.split.test},
        "recipe": plan.recipe.model_dump(mode="json"),
        # Of a model that is kept on the way (`training.keep_steps`), fewer than the recipe's.
        "steps": plan.recipe.training.steps,
    }


def training_facts(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that shapes training, by content: not where the model, tasks and rows were found, but their hashes."""
    return {
        "flanlab": stamp["flanlab"],
        "model": stamp["base_identity"],
        "tasks": {name: {"file": facts["hash"], "rows": facts["rows"]} for name, facts in stamp["tasks"].items()},
        "recipe": affecting(Recipe.model_validate(stamp["recipe"]), TRAINING),
    }


def training_key(stamp: Mapping[str, Any]) -> str:
    """Hash of everything that shapes training."""
    return hashlib.blake2b(json.dumps(training_facts(stamp), sort_keys=True).encode(), digest_size=16).hexdigest()
