"""The interface between evaluation and a model, wherever it runs: answer questions."""

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
    """Log-probability of each option, summed over its tokens, with its end token (without it if the model's end token is
    unknown). Empty if the model gives no log-probabilities."""
    scores_without_end: list[float]
    """The same without the end token."""
    option_tokens: list[int]
    """Number of tokens of each option, with the end token."""
    text: str
    """The generated answer. Empty if none was asked for."""
    failed: bool = False
    """Whether the model computed NaN or infinity, so the answer is meaningless."""


class Model(Protocol):
    """A model that can be evaluated."""

    @property
    def name(self) -> str:
        """As the user named it."""

    @property
    def identity(self) -> str:
        """Hash of everything that shapes its answers."""

    @property
    def stamp(self) -> Mapping[str, Any] | None:
        """What flanlab trained it on; None if unknown."""

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
        """Encodes its questions."""

    def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Reply]]:
        """Answer questions, in any order. Yields (position, answer). `token_budget` limits the tokens computed at once."""
