"""The schema and the reference page of recipes: current, complete, and true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flanlab.experiments.recipe import HABITS, Recipe
from flanlab.experiments.recipe_reference import recipe_page, recipe_schema
from flanlab.settings import Settings
from flanlab.yaml_files import did_you_mean

DOCS = Path(__file__).parents[2] / "docs"


def test_published_schema_and_page_are_current() -> None:
    published = json.loads((DOCS / "recipe.schema.json").read_text(encoding="utf-8"))
    assert published == recipe_schema(), "update it with: flan recipe schema > docs/recipe.schema.json"
    page = (DOCS / "reference" / "recipe.md").read_text(encoding="utf-8")
    assert page == recipe_page(), "update it with: flan recipe schema --markdown > docs/reference/recipe.md"


def fields(kind: type[Settings] = Recipe, before: str = "") -> dict[str, str | None]:
    """Place of each field to its description."""
    found: dict[str, str | None] = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found |= fields(field.annotation, f"{name}.")
        else:
            found[before + name] = field.description
    return found


def test_every_field_is_described_in_the_page() -> None:
    page = recipe_page()
    for place, description in fields().items():
        assert description, place
        assert f"| `{place.rpartition('.')[2]}` |" in page
    assert "| `steps` | whole number above 0 | required | training | Optimizer steps. |" in page
    assert "| `overlap` | `error`, `remove`, `allow` | `error` | training |" in page
    assert "| `shots` | whole number, 0 to 16 or list of: whole number, 0 to 16 | `0` | prompt |" in page


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("training.lr", "learning_rate"),
        ("lr", "training.learning_rate"),
        ("hold_out.tasks", "clusters"),
        ("training.step", "steps"),
        ("steps", "training.steps"),
        ("training.rows", "evaluation.rows"),
        ("training.options", "mixture.options` or `evaluation.options"),
        ("evaluation.shot_tokns", "shot_tokens"),
        ("training.dtype", "compute_dtype"),
        ("optimiser", "training.optimizer"),
        ("include", "tasks.include"),
    ],
)
def test_a_misspelt_field_gets_the_right_suggestion(typed: str, meant: str) -> None:
    assert did_you_mean(tuple(typed.split(".")), Recipe, HABITS) == f" Did you mean `{meant}`?"


def test_what_is_like_no_field_gets_no_suggestion() -> None:
    assert did_you_mean(("training", "zzz"), Recipe, HABITS) == ""


def test_habits_name_fields_and_are_no_fields() -> None:
    known = fields()
    assert set(HABITS.values()) <= set(known)
    assert not set(HABITS) & (set(known) | set(Recipe.model_fields))
