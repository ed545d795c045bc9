"""The interface between evaluation and a model, wherever it runs: answer questions."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flanlab.data.encoding import Encoder
from flanlab.errors import FlanlabError

Scoring = Literal["log-probabilities", "generation"]
"""Options are ranked by their log-probabilities, or the model generates, and its text is compared with the options."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question to the model: options to score, tokens to generate, or both."""

    prompt: list[int]
    options: list[list[int]]
    """Token ids of each option, with the end token last. May be empty."""
    max_new_tokens: int = 0
    """Largest number of generated tokens, with the end token. 0 generates nothing."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens that end a generated answer. They are not part of it."""
    line_breaks: frozenset[int] = frozenset()
    """Tokens that are skipped before an answer and end it after its beginning: the answer is the first line with text."""

    @property
    def key(self) -> Hashable:
        """A key that is the same for questions with the same answer."""
        return tuple(self.prompt), tuple(map(tuple, self.options)), self.max_new_tokens, self.stop_tokens, self.line_breaks

    @property
    def length(self) -> int:
        """Number of computed tokens if nothing is shared: the prompt, and each option without its last token."""
        return len(self.prompt) + sum(len(option) - 1 for option in self.options)

    @property
    def logit_rows(self) -> int:
        """Number of positions whose logits are needed: the prompt's last, and each option's tokens except the last."""
        return 1 + sum(len(option) - 1 for option in self.options)

    @property
    def reach(self) -> int:
        """Number of tokens of the prompt with the longest possible answer."""
        return len(self.prompt) + max([self.max_new_tokens, *map(len, self.options)])


@dataclass(frozen=True, slots=True)
class Answer:
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


def no_number(model: str, question: str, more: str = "") -> FlanlabError:
    """The error for an answer that has failed: the likeliest of options without a number would be an arbitrary one.

    Args:
        model: what the error calls the model, and where it was asked.
        question: what it calls the question.
        more: what else to do about it.
    """
    return FlanlabError(
        f"{model} computes no number (NaN or infinity) for {question}.",
        hint=f"It is a fault of the model: check its weights, or load it in float32 or bfloat16 if it overflows.{more}",
    )


def refuse_unwrapped(model: object) -> None:
    """Refuse an object that cannot be asked, such as a transformers model without its tokenizer.

    Raises:
        FlanlabError: says how to wrap it.
    """
    if not hasattr(model, "encoder"):
        raise FlanlabError(
            f"This is no model that can be asked: {type(model).__name__}.",
            hint="Wrap a transformers model together with its tokenizer: fl.load_model(model, tokenizer).",
        )


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

    def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Answer]]:
        """Answer questions, in any order. Yields (position, answer). `token_budget` limits the tokens computed at once."""
