"""From text to tokens: the one place where prompt and answer are joined.

Training, scoring and generation all encode here. So the boundary between prompt and answer is the same everywhere.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from flanlab.data.special_tokens import SpecialTokens, as_text
from flanlab.errors import FlanlabError, explained, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptStyle = Literal["instruction", "chat", "baseline"]
"""A plain instruction, an instruction in the model's chat template, or a prompt that the answer simply continues."""
ANSWER_SEPARATOR = "\n"
"""Separates an instruction from its answer.

One line break, not two. GPT-2's tokenizer makes one token of "\\n\\n" at the end of a prompt, and two tokens before a word. So
with a blank line the separator itself would become part of every answer.
"""
EXEMPLAR_SEPARATOR = "\n\n"
"""Separates exemplars from each other and from the question."""
CHAT_DATE = datetime(2024, 7, 26)
"""What a chat template gets when it asks for today's date. With the true date, a question would change each day. This is the
date that Llama 3's templates use if there is no clock."""
_PROBE = "Zebra"


def after_exemplars(prompt: str, exemplars: Sequence[tuple[str, str]], *, before_answer: str = ANSWER_SEPARATOR) -> str:
    """The text of a prompt after exemplars, each with prompt and target."""
    shown = (f"{example}{before_answer}{target}{EXEMPLAR_SEPARATOR}" for example, target in exemplars)
    return "".join(shown) + prompt


class EncodedQuestion(NamedTuple):
    """A prompt and its possible answers as token ids. Each answer ends with the end token of the prompt style."""

    prompt: list[int]
    answers: list[list[int]]


class Encoder(ABC):
    """Encodes prompts with their answers. Subclasses define what a token is."""

    end: int
    """The token that ends an answer, except in a dialogue."""
    chat_template_args: Mapping[str, Any] = {}
    """Arguments of the chat template, such as enable_thinking."""
    _start: list[int]
    """Tokens before every text that is not a dialogue."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """Hash of the encoding: with the same hash, texts become the same tokens."""

    @property
    def turn_end(self) -> int:
        """The token that ends an answer in a dialogue."""
        return self.end

    @property
    def ends(self) -> frozenset[int]:
        """All tokens that may end an answer of the model."""
        return frozenset({self.end, self.turn_end})

    @property
    @abstractmethod
    def newline_tokens(self) -> frozenset[int]:
        """Tokens that contain a line break."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without special tokens."""

    def encode(
        self, prompt: str, answers: Sequence[str], style: PromptStyle = "instruction", exemplars: Sequence[tuple[str, str]] = ()
    ) -> EncodedQuestion:
        """Encode a prompt with each of its answers, after exemplars (each with prompt and target) in the given order.

        Prompt and answer are encoded together as one text. The prompt's tokens are the longest token prefix that the prompt
        alone and all answers have in common. So a token that spans the boundary belongs to the answer. No answer is empty: it
        has at least its end token.
        """
        return self._encode([(self._context(prompt, style, exemplars), answers)], style)[0]

    def encode_batch(self, questions: Sequence[tuple[str, Sequence[str]]]) -> list[EncodedQuestion]:
        """Encode many instructions, each with its answers. The same as `encode` one by one, but several times as fast."""
        style: PromptStyle = "instruction"
        return self._encode([(self._context(prompt, style, ()), answers) for prompt, answers in questions], style)

    def _encode(self, questions: Sequence[tuple[str, Sequence[str]]], style: PromptStyle) -> list[EncodedQuestion]:
        # The space belongs to the answer, because most tokenizers make one token of a space and a word.
        glue = " " if style == "baseline" else ""
        texts = [[context, *(context + glue + as_text(answer) for answer in answers)] for context, answers in questions]
        start, end = ([], self.turn_end) if style == "chat" else (self._start, self.end)
        encoded = []
        for tokens in self._tokens_of_each(texts):
            context_ids, *answer_ids = (start + ids for ids in tokens)
            # The model needs at least one token before the answer.
            boundary = max(_common_prefix_length([context_ids, *answer_ids]), 1)
            encoded.append(EncodedQuestion(context_ids[:boundary], [[*ids[boundary:], end] for ids in answer_ids]))
        return encoded

    def _tokens_of_each(self, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Tokens of the texts of each question. A text that occurs again, as options do, is encoded once."""
        places: dict[str, int] = {}
        at = [[places.setdefault(text, len(places)) for text in own] for own in texts]
        tokens = self._tokens(list(places))
        return [[tokens[place] for place in own] for own in at]

    def encode_pair(self, prompt: str, target: str) -> tuple[list[int], list[int]]:
        """Prompt and target of one training example. The target ends with the end token."""
        question = self.encode(prompt, [target])
        return question.prompt, question.answers[0]

    def _context(self, prompt: str, style: PromptStyle, exemplars: Sequence[tuple[str, str]]) -> str:
        if style == "chat":
            return self._dialogue(prompt, exemplars)
        if style == "baseline":
            return as_text(after_exemplars(prompt, exemplars, before_answer=" "))
        return as_text(after_exemplars(prompt, exemplars)) + ANSWER_SEPARATOR

    @abstractmethod
    def _dialogue(self, prompt: str, exemplars: Sequence[tuple[str, str]]) -> str:
        """A prompt as a dialogue in which it is the model's turn, with exemplars as earlier turns."""

    @abstractmethod
    def _tokens(self, texts: list[str]) -> list[list[int]]:
        """Tokens of each text, without added special tokens."""


class TextEncoder(Encoder):
    """Encodes prompts with their answers for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int] = frozenset()) -> None:
        """`ends` are further tokens that end generated text, from the model's configuration.

        Raises:
            FlanlabError: the tokenizer has no end token, or cannot encode.
        """
        if tokenizer.eos_token_id is None:
            raise FlanlabError(
                "The tokenizer has no end-of-sequence token, so answers could not end.",
                hint="Use a model whose tokenizer defines eos_token.",
            )
        self.tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.end: int = tokenizer.eos_token_id
        try:
            starts = tokenizer("a")["input_ids"][:1]
        except (TypeError, ValueError, OverflowError) as error:
            raise FlanlabError(
                f"{tokenizer.name_or_path}: the tokenizer cannot encode a text: {one_line(error)}",
                hint="Check tokenizer_config.json and tokenizer.json, or download the model again.",
            ) from error
        self._start = starts if starts == [tokenizer.bos_token_id] else []
        self._ends = ends
        self._special = SpecialTokens(tokenizer)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def takes_dialogues(self) -> bool:
        """Whether a question can be asked in a dialogue: there is a chat template, and it accepts a single question."""
        try:
            return bool(self._dialogue(_PROBE, ()))
        except FlanlabError:
            return False

    @cached_property
    def turn_end(self) -> int:
        """The token that the chat template writes after an answer, or the plain end token if it writes none."""
        if not self.has_chat_template:
            return self.end
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        try:
            after = self._render(turns, answer_follows=False).rpartition(_PROBE)[2]
        except FlanlabError:
            return self.end  # asking in a dialogue raises the error later
        [ids] = self._tokens([self._special.named(after.lstrip())])
        return ids[0] if ids and ids[0] in self._ends | self._special.ids else self.end

    @property
    def ends(self) -> frozenset[int]:
        """All tokens that may end an answer: those that stop transformers' generation, and the end of the turn."""
        return super().ends | self._ends

    @property
    def hash(self) -> str:
        """Hash of the tokenizer: vocabulary, merges, special tokens and chat template."""
        backend = self._backend
        content = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.blake2b(
            f"{content}{getattr(self.tokenizer, 'chat_template', '')}{self.end}{self._start}{sorted(self._ends)}".encode(),
            digest_size=16,
        ).hexdigest()

    @cached_property
    def newline_tokens(self) -> frozenset[int]:
        """Tokens that contain a line break."""
        tokens = [[token] for token in range(len(self.tokenizer))]
        # Without transformers' wrapper, which takes most of the time and does not change line breaks.
        by_backend = self._backend is not None
        texts = self._backend.decode_batch(tokens, False) if by_backend else self.tokenizer.batch_decode(tokens)
        return frozenset(token for token, text in enumerate(texts) if "\n" in text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _dialogue(self, prompt: str, exemplars: Sequence[tuple[str, str]]) -> str:
        if not self.has_chat_template:
            raise FlanlabError(
                "The model's tokenizer has no chat template.", hint="Score it with the plain instruction instead."
            )
        turns = [turn for example, target in exemplars for turn in (("user", example), ("assistant", target))]
        # Special tokens in rows are hidden from the template, so all that it writes are its own.
        texts = [{"role": role, "content": self._special.hidden(content)} for role, content in (*turns, ("user", prompt))]
        return self._special.shown(self._special.named(self._render(texts, answer_follows=True)))

    def _render(self, messages: Sequence[Mapping[str, str]], *, answer_follows: bool) -> str:
        """A dialogue as transformers writes it with the chat template, but always with the same date.

        `apply_chat_template` cannot be given a clock: it makes a text of any argument.
        """
        from transformers.utils.chat_template_utils import _compile_jinja_template

        given = {"messages": list(messages), "add_generation_prompt": answer_follows, "strftime_now": CHAT_DATE.strftime}
        usual = {**self.tokenizer.special_tokens_map, "tools": None, "documents": None}
        hint = "Ask with the plain instruction instead, without --chat."
        with explained("The model's chat template refuses the dialogue", hint):  # it is a program and may fail in any way
            template = _compile_jinja_template(self.tokenizer.get_chat_template())
            return str(template.render(**given, **{**usual, **self.chat_template_args}))

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return self._special.tokens(texts)


class SeparateTextEncoder(TextEncoder):
    """Encodes prompts separately from their answers, for encoder-decoder models: the encoder reads one, the decoder the other.

    There is no boundary, so there is no separator and no space, and an answer's tokens do not depend on its prompt. In each
    prompt style the prompt is encoded as a text with the tokenizer's special tokens (`</s>` at the end for T5). The answer is
    encoded as another text, with the end token. That is how such models are trained (Raffel
    et al. 2020; Sanh et al. 2022; Chung et al. 2022).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, decoder_start: int, ends: frozenset[int] = frozenset()) -> None:
        super().__init__(tokenizer, ends)
        plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        before = next((place for place in range(len(whole)) if whole[place : place + len(plain)] == plain), 0)
        self._around = whole[:before], whole[before + len(plain) :]
        self.answer_start = [decoder_start, *(whole[:before] if whole[:before] != [decoder_start] else [])]
        """What the decoder reads before an answer: the model's start token, and what the tokenizer puts before a text."""

    @property
    def has_chat_template(self) -> bool:
        """Never: such a model does not continue a dialogue."""
        return False

    @property
    def hash(self) -> str:
        """Hash of the tokenizer and of what it puts around prompt and answer."""
        return hashlib.blake2b(f"{super().hash}{self._around}{self.answer_start}".encode(), digest_size=16).hexdigest()

    def _context(self, prompt: str, style: PromptStyle, exemplars: Sequence[tuple[str, str]]) -> str:
        context = super()._context(prompt, style, exemplars)
        return context.removesuffix(ANSWER_SEPARATOR) if style == "instruction" else context

    def _dialogue(self, prompt: str, exemplars: Sequence[tuple[str, str]]) -> str:
        raise FlanlabError(
            "An encoder-decoder model has no chat template.", hint="Score it with the plain instruction instead."
        )

    def _encode(self, questions: Sequence[tuple[str, Sequence[str]]], style: PromptStyle) -> list[EncodedQuestion]:
        texts = [[context, *map(as_text, answers)] for context, answers in questions]
        before, after = self._around
        # The encoder needs at least one token.
        return [
            EncodedQuestion([*before, *prompt, *after] or [self.end], [[*ids, self.end] for ids in answers])
            for prompt, *answers in self._tokens_of_each(texts)
        ]


class CharacterEncoder(Encoder):
    """For a model whose tokenizer is unknown: each character is a token, and its code point is the token id.

    Prompt and answer are split at the character where they are joined. The end token has no text.
    """

    end = -1
    hash = "characters"
    newline_tokens = frozenset({ord("\n")})
    _start: list[int] = []  # noqa: RUF012

    def decode(self, ids: Sequence[int]) -> str:
        """The characters as text, without the end token."""
        return "".join(chr(character) for character in ids if character != self.end)

    def _dialogue(self, prompt: str, exemplars: Sequence[tuple[str, str]]) -> str:
        raise FlanlabError(
            "The model's tokenizer is unknown, and so is its chat template.",
            hint="Name the tokenizer with --tokenizer, or ask with the plain instruction.",
        )

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]


def _common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    beside = enumerate(zip(*sequences, strict=False))
    return next((place for place, tokens in beside if tokens.count(tokens[0]) < len(tokens)), min(map(len, sequences)))
