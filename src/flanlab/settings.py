"""Each setting says what it affects, where it is defined. Cache keys and comparability checks derive from that.

A field of a settings class is marked like this: `rows: Annotated[int, SAMPLE] = 200`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict


class Affects(Enum):
    """What a setting affects."""

    TRAINING = "the trained model"
    QUESTIONS = "the questions, or which answer counts as right: scores that differ in it are not comparable"
    PROMPT = "the form of a question, which is varied on purpose, like the prompt style"
    SAMPLE = "which rows and templates are asked: comparisons use those that both sides were asked"
    METRICS = "which metrics there are: metrics that both sides have are the same"
    RESULTS = "what is computed from the predictions, not the predictions"
    ROUNDING = "numbers, within rounding"
    PLACE = "where something is found; its hash says what it is"
    NOTHING = "no result"

    def __repr__(self) -> str:
        return self.name  # short, because `help` shows it in the signature of every settings class


TRAINING, QUESTIONS, PROMPT, SAMPLE, METRICS, RESULTS, ROUNDING, PLACE, NOTHING = Affects

PREDICTIONS = (QUESTIONS, PROMPT, SAMPLE, METRICS)
"""What shapes a prediction."""


def without_example(schema: dict[str, Any]) -> None:
    """Leave the errors and examples of docstrings out of a JSON Schema, which editors show."""
    schema["description"] = schema.get("description", "").partition("\n\nRaises:")[0]


class Settings(BaseModel):
    """A section of a recipe. Each field is marked with what it affects, or is a section itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=without_example)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What is not the default."""
        for name, field in type(self).model_fields.items():
            if (value := getattr(self, name)) != field.get_default(call_default_factory=True):
                yield name, value


def affects(kind: type[Settings], name: str) -> tuple[Affects, ...]:
    """What a field affects. Empty for a section."""
    return tuple(mark for mark in kind.model_fields[name].metadata if isinstance(mark, Affects))


def fields_affecting(kind: type[Settings], *what: Affects) -> list[str]:
    """Names of the fields that affect any of these."""
    return [name for name in kind.model_fields if set(affects(kind, name)) & set(what)]


def affecting(settings: Settings, *what: Affects) -> dict[str, Any]:
    """The settings that affect any of these, as JSON values. Sections without such a field are left out."""
    found: dict[str, Any] = {}
    content = settings.model_dump(mode="json")
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            if inner := affecting(value, *what):
                found[name] = inner
        elif set(affects(type(settings), name)) & set(what):
            found[name] = content[name]
    return found


class Change(NamedTuple):
    """A field that has two values, as JSON values, and what it affects."""

    old: Any
    new: Any
    affects: tuple[Affects, ...]

    def __str__(self) -> str:
        return f"{self.old} -> {self.new}"


def changed_fields(old: Settings, new: Settings) -> dict[str, Change]:
    """The fields that differ between two settings of the same class, with dotted names (`training.steps`)."""
    found: dict[str, Change] = {}
    contents = [one.model_dump(mode="json") for one in (old, new)]
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Settings):
            found |= {f"{name}.{inner}": change for inner, change in changed_fields(before, after).items()}
        elif contents[0][name] != contents[1][name]:
            found[name] = Change(contents[0][name], contents[1][name], affects(type(old), name))
    return found


def flattened(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in flattened(value).items()}
        else:
            found[name] = value
    return found
