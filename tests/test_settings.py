"""Each setting says what it affects, and every key and every check follows from that."""

from __future__ import annotations

from typing import Any

import pytest

import flanlab.experiments.recipe
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.stamp import training_key
from flanlab.settings import PREDICTIONS, PROMPT, QUESTIONS, TRAINING, Settings, affecting, affects, fields_affecting


def settings_classes() -> list[type[Settings]]:
    assert flanlab.experiments.recipe, "imported, and with it all sections of a recipe"
    return [kind for kind in Settings.__subclasses__() if kind.__module__.startswith("flanlab.")]


def test_every_field_of_every_settings_class_is_marked() -> None:
    classes = settings_classes()
    assert {kind.__name__ for kind in classes} == {
        "EvaluationSettings", "HoldOut", "MixtureSettings", "Recipe", "TaskSelection", "TrainingSettings",
    }  # fmt: skip
    for kind in classes:
        for name, field in kind.model_fields.items():
            section = isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
            assert section != bool(affects(kind, name)), f"{kind.__name__}.{name}"


def recipe(**changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "one",
        "model": "some/model",
        "hold_out": {"clusters": ["sentiment"]},
        "training": {"steps": 1, "learning_rate": 0.1},
    }
    for name, value in changes.items():
        content[name] = {**content.get(name, {}), **value} if isinstance(value, dict) else value
    return Recipe.model_validate(content)


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"training": {"learning_rate": 0.2}}, True),
        ({"mixture": {"inverted": False}}, True),
        ({"seed": 1}, True),
        ({"hold_out": {"overlap": "remove"}}, True),
        ({"training": {"workers": 3, "checkpoint_minutes": 1.0, "track": "wandb"}}, False),
        ({"evaluation": {"rows": 3, "shots": 2}}, False),
        ({"name": "other", "description": "other", "tasks": {"collections": ["elsewhere"]}}, False),
    ],
)
def test_a_model_is_trained_again_for_what_shapes_it_alone(changes: dict[str, Any], differs: bool) -> None:
    stamp = {"flanlab": "1", "base_identity": "of weights", "tasks": {}}
    keys = {training_key({**stamp, "recipe": one.model_dump(mode="json")}) for one in (recipe(), recipe(**changes))}
    assert (len(keys) == 2) == differs


def test_what_shapes_predictions_and_what_must_agree() -> None:
    settings = EvaluationSettings(shots=4)
    shaping = affecting(settings, *PREDICTIONS)
    assert shaping["shots"] == 4
    assert not {"choose_template", "token_budget", "dtype"} & set(shaping)
    agreed = fields_affecting(EvaluationSettings, QUESTIONS)
    assert set(agreed) == {"split", "options", "instructions", "end_token", "prompt_tokens", "truncate", "new_tokens"}
    assert set(fields_affecting(EvaluationSettings, PROMPT)) == {"shots", "shot_tokens", "chat_template_args"}
    assert affecting(settings, TRAINING) == {}
