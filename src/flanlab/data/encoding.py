"""From text to tokens: the one place where prompt and answer meet.

Training, scoring and generation all encode here, so the boundary a model is scored at is the boundary it was trained at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from flanlab.errors import FlanlabError

PromptStyle = Literal["instruction", "chat"]
ANSWER_SEPARATOR = "\n"
"""Stands between an instruction and its answer.

One line break, not two: GPT-2's way of splitting text makes one token of "\\n\\n" at the end of a prompt and two before a
word, so with a blank line the separator itself would become part of every answer.
"""


@dataclass(frozen=True, slots=True)
class EncodedQuestion:
    """A prompt and its possible answers as token ids; each answer ends with the end token."""

    prompt: list[int]
    answers: list[list[int]]


class TextEncoder:
    """Encodes prompts with their answers for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise FlanlabError(
                "The tokenizer has no end-of-sequence token, so an answer could not be ended.",
                mend="Use a model whose tokenizer defines eos_token.",
            )
        self.tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id
        starts = tokenizer("a")["input_ids"][:1]
        self._start = starts if starts == [tokenizer.bos_token_id] else []

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer says how a dialogue is written."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def hash(self) -> str:
        """Identity of the tokenizer: vocabulary, merges, special tokens and chat template."""
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.blake2b(
            f"{content}{getattr(self.tokenizer, 'chat_template', '')}{self.end}".encode(), digest_size=16
        ).hexdigest()

    def encode(self, prompt: str, answers: Sequence[str], style: PromptStyle = "instruction") -> EncodedQuestion:
        """Encode a prompt with each of its answers.

        Prompt and answer are encoded together, as they are read; the prompt's share is the longest token prefix that the
        prompt alone and all the answers have in common. So a token that spans the join counts to the answer, and no answer
        is ever empty (it has its end token at least).
        """
        context = self._context(prompt, style)
        encoded = self._tokens([context, *(context + answer for answer in answers)])
        if style == "instruction":
            encoded = [self._start + ids for ids in encoded]
        boundary = _common_prefix_length(encoded)
        # The model needs one token at least to read before it answers.
        boundary = max(boundary, 1)
        return EncodedQuestion(encoded[0][:boundary], [[*ids[boundary:], self.end] for ids in encoded[1:]])

    def encode_pair(self, prompt: str, target: str) -> tuple[list[int], list[int]]:
        """Prompt and target of one training example; the target ends with the end token."""
        question = self.encode(prompt, [target])
        return question.prompt, question.answers[0]

    @cached_property
    def newline_tokens(self) -> frozenset[int]:
        """Tokens that contain a line break."""
        texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
        return frozenset(token for token, text in enumerate(texts) if "\n" in text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _context(self, prompt: str, style: PromptStyle) -> str:
        if style == "instruction":
            return prompt + ANSWER_SEPARATOR
        if not self.has_chat_template:
            raise FlanlabError(
                "The model's tokenizer has no chat template.", mend="Score it with the plain instruction instead."
            )
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return text

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return ids


def _common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    shortest = min(len(sequence) for sequence in sequences)
    first = sequences[0]
    for position in range(shortest):
        if any(sequence[position] != first[position] for sequence in sequences[1:]):
            return position
    return shortest
