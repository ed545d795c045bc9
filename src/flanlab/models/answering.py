"""What the evaluation asks of a model, wherever it runs: answer questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flanlab.data.encoding import Encoder
from flanlab.models.scoring import Question

Scoring = Literal["log-probabilities", "generation"]
"""Options are ranked by their log-probabilities, or the model generates, and its text is compared with the options."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer to a question, as text and numbers."""

    scores: list[float]
    """Log-probability of each option with its end token, summed over its tokens; without it where the model's end token is
    not known; empty where the model gives no log-probabilities."""
    scores_without_end: list[float]
    """The same without the end token."""
    option_tokens: list[int]
    """Tokens of each option, the end token counted."""
    text: str
    """The generated answer; empty where none was asked for."""
    failed: bool = False
    """Whether the model computed something that is no number (NaN, infinity), so that the answer means nothing."""


class Model(Protocol):
    """A model that can be evaluated."""

    @property
    def name(self) -> str:
        """As the user named it."""

    @property
    def identity(self) -> str:
        """Hash of everything that shapes its replies."""

    @property
    def stamp(self) -> Mapping[str, Any] | None:
        """What it was trained on here; None where nothing is known."""

    @property
    def parameters(self) -> int | None:
        """Number of parameters; None where it is not known."""

    @property
    def dtype(self) -> str | None:
        """Type of the numbers that it computes with, such as `float32`; None where it is not known."""

    @property
    def scoring(self) -> Scoring:
        """How options are chosen between."""

    @property
    def encoder(self) -> Encoder:
        """Encodes the questions it is asked."""

    def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Reply]]:
        """Reply to questions, in any order; yields (position, reply). `token_budget` bounds what is computed at once."""
