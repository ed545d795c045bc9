"""Each setting says what it affects, where it is defined. Cache keys and comparability checks derive from that.

A field of a settings class is marked like this: `rows: Annotated[int, SAMPLE] = 200`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

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


TRAINING, QUESTIONS, PROMPT, SAMPLE, METRICS = (
    Affects.TRAINING,
    Affects.QUESTIONS,
    Affects.PROMPT,
    Affects.SAMPLE,
    Affects.METRICS,
)
RESULTS, ROUNDING, PLACE, NOTHING = Affects.RESULTS, Affects.ROUNDING, Affects.PLACE, Affects.NOTHING

PREDICTIONS = (QUESTIONS, PROMPT, SAMPLE, METRICS)
"""What shapes a prediction."""


class Settings(BaseModel):
    """A section of a recipe. Each field is marked with what it affects, or is a section itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
