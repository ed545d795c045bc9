"""From text to tokens: the one place where prompt and answer meet.

Training, scoring and generation all encode here, so the boundary a model is scored at is the boundary it was trained at.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from flanlab.data.joins import cuts_after_line_breaks
from flanlab.data.word_tokenizer import WordTokenizer
from flanlab.errors import FlanlabError

PromptStyle = Literal["instruction", "chat", "baseline"]
"""A plain instruction, the same through the model's chat template, or a prompt that the answer simply continues."""
ANSWER_SEPARATOR = "\n"
"""Stands between an instruction and its answer.

One line break, not two: GPT-2's way of splitting text makes one token of "\\n\\n" at the end of a prompt and two before a
word, so with a blank line the separator itself would become part of every answer.
"""
EXEMPLAR_SEPARATOR = "\n\n"
"""Stands between one exemplar and the next, and before the question itself."""


def after_exemplars(prompt: str, exemplars: Sequence[tuple[str, str]], *, before_answer: str = ANSWER_SEPARATOR) -> str:
    """The text of a prompt after exemplars, prompt and target each."""
    shown = (f"{example}{before_answer}{target}{EXEMPLAR_SEPARATOR}" for example, target in exemplars)
    return "".join(shown) + prompt


class EncodedQuestion(NamedTuple):
    """A prompt and its possible answers as token ids; each answer ends with the end token."""

    prompt: list[int]
    answers: list[list[int]]


class Encoder(ABC):
    """Encodes prompts with their answers; what a token is, is the subclasses' business."""

    end: int
    """The token that ends an answer."""
    _start: list[int]
    """Tokens that stand before every text that is no dialogue."""

    @property
    @abstractmethod
    def has_chat_template(self) -> bool:
        """Whether it is known how a dialogue is written."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """Identity of the encoding: texts become the same tokens where it is the same."""

    @property
    @abstractmethod
    def newline_tokens(self) -> frozenset[int]:
        """Tokens that contain a line break."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special tokens left out."""

    def encode(
        self,
        prompt: str,
        answers: Sequence[str],
        style: PromptStyle = "instruction",
        exemplars: Sequence[tuple[str, str]] = (),
    ) -> EncodedQuestion:
        """Encode a prompt with each of its answers, after exemplars (prompt and target each) in that order.

        Prompt and answer are encoded as the one text they are read as; the prompt's share is the longest token prefix that
        the prompt alone and all the answers have in common. So a token that spans the join counts to the answer, and no
        answer is ever empty (it has its end token at least).
        """
        return self._encode([(self._context(prompt, style, exemplars), answers)], style)[0]

    def encode_batch(
        self, questions: Sequence[tuple[str, Sequence[str]]], style: PromptStyle = "instruction"
    ) -> list[EncodedQuestion]:
        """Encode many prompts, each with its answers; as `encode` does one by one, but several times as fast."""
        return self._encode([(self._context(prompt, style, ()), answers) for prompt, answers in questions], style)

    def _encode(self, questions: Sequence[tuple[str, Sequence[str]]], style: PromptStyle) -> list[EncodedQuestion]:
        # With the space on the answer's side, as most tokenizers make one token of a space and a word.
        glue = " " if style == "baseline" else ""
        places: dict[str, int] = {}  # a text that occurs again, as options do, is encoded once
        plans = []
        for context, answers in questions:
            apart = not glue and self._joins_cleanly(context, answers)
            before = "\n" if apart else context + glue
            texts = (context, *(before + answer for answer in answers))
            plans.append((apart, [places.setdefault(text, len(places)) for text in texts]))
        tokens = self._tokens(list(places))
        start = [] if style == "chat" else self._start
        encoded = []
        for apart, at in plans:
            context_ids, *answer_ids = (start + tokens[place] for place in at)
            if apart:
                boundary, answers_begin = len(context_ids), len(start) + len(self._line_break)
            else:
                # The model needs one token at least to read before it answers.
                boundary = answers_begin = max(_common_prefix_length([context_ids, *answer_ids]), 1)
            answers_ids = [[*ids[answers_begin:], self.end] for ids in answer_ids]
            encoded.append(EncodedQuestion(context_ids[:boundary], answers_ids))
        return encoded

    def encode_pair(self, prompt: str, target: str) -> tuple[list[int], list[int]]:
        """Prompt and target of one training example; the target ends with the end token."""
        question = self.encode(prompt, [target])
        return question.prompt, question.answers[0]

    def _context(self, prompt: str, style: PromptStyle, exemplars: Sequence[tuple[str, str]]) -> str:
        if style == "chat":
            return self._dialogue(prompt, exemplars)
        if style == "baseline":
            return after_exemplars(prompt, exemplars, before_answer=" ")
        return after_exemplars(prompt, exemplars) + ANSWER_SEPARATOR

    @abstractmethod
    def _dialogue(self, prompt: str, exemplars: Sequence[tuple[str, str]]) -> str:
        """A prompt as a dialogue in which it is the model's turn, exemplars as turns before it."""

    def _joins_cleanly(self, context: str, answers: Sequence[str]) -> bool:
        """Whether the answers can be encoded apart from the context, after a line break of their own."""
        after_line_break = context.endswith("\n") and not context[-2:-1].isspace()
        return after_line_break and bool(self._line_break) and not any(answer[:1].isspace() for answer in answers)

    @property
    @abstractmethod
    def _line_break(self) -> list[int]:
        """The tokens of a line break, where texts are always cut after one; else none."""

    @abstractmethod
    def _tokens(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each text, no special ones added."""


class TextEncoder(Encoder):
    """Encodes prompts with their answers for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise FlanlabError(
                "The tokenizer has no end-of-sequence token, so an answer could not be ended.",
                hint="Use a model whose tokenizer defines eos_token.",
            )
        self.tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id
        starts = tokenizer("a")["input_ids"][:1]
        self._start = starts if starts == [tokenizer.bos_token_id] else []
        self._words = WordTokenizer(tokenizer)

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

    @cached_property
    def newline_tokens(self) -> frozenset[int]:
        """Tokens that contain a line break."""
        tokens = [[token] for token in range(len(self.tokenizer))]
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        # Asked directly, since what transformers does to each text takes most of the time and touches no line break.
        texts = backend.decode_batch(tokens, False) if backend is not None else self.tokenizer.batch_decode(tokens)
        return frozenset(token for token, text in enumerate(texts) if "\n" in text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _dialogue(self, prompt: str, exemplars: Sequence[tuple[str, str]]) -> str:
        if not self.has_chat_template:
            raise FlanlabError(
                "The model's tokenizer has no chat template.", hint="Score it with the plain instruction instead."
            )
        turns = [turn for example, target in exemplars for turn in (("user", example), ("assistant", target))]
        messages = [{"role": role, "content": content} for role, content in (*turns, ("user", prompt))]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    @cached_property
    def _line_break(self) -> list[int]:
        """The tokens of a line break, where the tokenizer always cuts after one; else none."""
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        return self._tokens(["\n"])[0] if backend is not None and cuts_after_line_breaks(backend.to_str()) else []

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self._words.tokens(texts)


class SeparateTextEncoder(TextEncoder):
    """Encodes prompts apart from their answers, for an encoder-decoder model: the encoder reads one, the decoder the other.

    There is no join, so no separator and no space stand at it, and an answer's tokens do not depend on its prompt. In every
    prompt style the prompt is encoded as the tokenizer encodes a text, with the special tokens it puts around one (`</s>`
    at the end for T5), and the answer as a text of its own, with the end token. That is how such models are trained (Raffel
    et al. 2020; Sanh et al. 2022; Chung et al. 2022).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, decoder_start: int) -> None:
        super().__init__(tokenizer)
        plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        before = next((place for place in range(len(whole)) if whole[place : place + len(plain)] == plain), 0)
        self._around = whole[:before], whole[before + len(plain) :]
        self.answer_start = [decoder_start, *(whole[:before] if whole[:before] != [decoder_start] else [])]
        """What the decoder reads before an answer: the model's own start token, and what the tokenizer puts before a text."""

    @property
    def has_chat_template(self) -> bool:
        """Never: such a model does not carry a dialogue on."""
        return False

    @property
    def hash(self) -> str:
        """Identity of the tokenizer and of what stands around prompt and answer."""
        return hashlib.blake2b(f"{super().hash}{self._around}{self.answer_start}".encode(), digest_size=16).hexdigest()

    def _context(self, prompt: str, style: PromptStyle, exemplars: Sequence[tuple[str, str]]) -> str:
        context = super()._context(prompt, style, exemplars)
        return context.removesuffix(ANSWER_SEPARATOR) if style == "instruction" else context

    def _dialogue(self, prompt: str, exemplars: Sequence[tuple[str, str]]) -> str:
        raise FlanlabError(
            "An encoder-decoder model has no chat template.", hint="Score it with the plain instruction instead."
        )

    def _encode(self, questions: Sequence[tuple[str, Sequence[str]]], style: PromptStyle) -> list[EncodedQuestion]:
        places: dict[str, int] = {}  # a text that occurs again, as options do, is encoded once
        plans = [[places.setdefault(text, len(places)) for text in (context, *answers)] for context, answers in questions]
        tokens = self._tokens(list(places))
        before, after = self._around
        # The encoder needs one token at least to read.
        return [
            EncodedQuestion([*before, *tokens[prompt], *after] or [self.end], [[*tokens[place], self.end] for place in answers])
            for prompt, *answers in plans
        ]


class CharacterEncoder(Encoder):
    """For a model whose tokenizer is not known: every character counts as a token, its number being its code point.

    Prompt and answer then part at the character where they are joined. The end token stands for no text.
    """

    end = -1
    has_chat_template = False
    hash = "characters"
    newline_tokens = frozenset({ord("\n")})
    _start: list[int] = []  # noqa: RUF012
    _line_break: list[int] = []  # noqa: RUF012

    def decode(self, ids: Sequence[int]) -> str:
        """The characters as text, the end left out."""
        return "".join(chr(character) for character in ids if character != self.end)

    def _dialogue(self, prompt: str, exemplars: Sequence[tuple[str, str]]) -> str:
        raise FlanlabError(
            "The model's tokenizer is not known, and so neither is its chat template.",
            hint="Name the tokenizer with --tokenizer, or ask with the plain instruction.",
        )

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]


def _common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    shortest = min(sequences, key=len)
    for position, tokens in enumerate(zip(*sequences, strict=False)):
        if any(token != tokens[0] for token in tokens):
            return position
    return len(shortest)
