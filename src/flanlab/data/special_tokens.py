"""Separate real special tokens from the same characters in the text of a row.

Tokenizers turn `<|im_end|>` or `</s>` into a control token anywhere in a text. In a row (a page of HTML, a chat log) it is
text. As a control token it would end an answer too early, and decoding would drop it. So a real special token, as in a chat
template, is written under another name, which no text contains. All others are read as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flanlab.errors import FlanlabError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Unicode reserves these characters for internal use: they are never part of a text.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_NO_TEXT = re.compile(f"[{_OPEN}{_CLOSE}\ud800-\udfff]")
_NAME = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_HIDDEN = re.compile(f"{_CLOSE}([0-9]+){_OPEN}")


def as_text(text: str) -> str:
    """The text without the two characters that mark names of special tokens, and without halves of characters (surrogates)."""
    return _NO_TEXT.sub("\ufffd", text)


class SpecialTokens:
    """The special tokens of a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._texts = {number: str(token) for number, token in added.items() if token.special and str(token)}
        self._ids = {text: number for number, text in self._texts.items()}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @property
    def ids(self) -> frozenset[int]:
        """Their token ids."""
        return frozenset(self._texts)

    def named(self, text: str) -> str:
        """The text with each special token under its name, as a real special token."""
        return self._pattern.sub(lambda found: f"{_OPEN}{self._ids[found[0]]}{_CLOSE}", text)

    def unnamed(self, text: str) -> str:
        """The text with the characters of special tokens in place of their names, for a tokenizer."""
        return _NAME.sub(lambda found: self._texts[int(found[1])], text) if _OPEN in text else text

    def hidden(self, text: str) -> str:
        """A row's text in which nothing is read as a special token, until it is `shown`."""
        return self._pattern.sub(lambda found: f"{_CLOSE}{self._ids[found[0]]}{_OPEN}", as_text(text))

    def shown(self, text: str) -> str:
        """The original characters of a text from `hidden`."""
        return _HIDDEN.sub(lambda found: self._texts[int(found[1])], text)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, in which only the names of special tokens become such; no others are added.

        Raises:
            FlanlabError: the tokenizer always reads the characters of a special token as the token.
        """
        # Rare, and slow: texts that hold the characters of a special token, as text.
        found = self._tokens([self.unnamed(text) for text in texts])
        held = map(self._pattern.search, texts)
        return [self._tokens_as_text(text) if has else ids for text, has, ids in zip(texts, held, found, strict=True)]

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts in which every special token is meant as such."""
        if not texts:
            return []
        if not self._tokenizer.is_fast:
            return list(self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"])
        # An ordinary call sets truncation, padding and the like to their defaults.
        self._tokenizer("", add_special_tokens=False)
        # Straight from the backend, as transformers would ask it, but without the offsets that nobody reads here.
        backend: Any = self._tokenizer.backend_tokenizer
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _tokens_as_text(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are meant only where they are named."""
        is_fast = self._tokenizer.is_fast
        return self._renamed.encode(text, add_special_tokens=False).ids if is_fast else self._slow_tokens(text)

    @cached_property
    def _renamed(self) -> Tokenizer:
        """The same tokenizer, which knows special tokens by their names. Made only if needed, because it takes seconds."""
        from tokenizers import Tokenizer

        backend: Any = self._tokenizer.backend_tokenizer
        content: dict[str, Any] = json.loads(backend.to_str())
        names = {text: self.named(text) for text in self._ids}
        for token in content["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        # Also in the vocabulary, where Unigram would find the token by its characters.
        model = content["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(token, token): number for token, number in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        # It only adds special tokens, and knows them by their characters.
        content["post_processor"] = content["truncation"] = content["padding"] = None
        return Tokenizer.from_str(json.dumps(content, ensure_ascii=False))

    def _slow_tokens(self, text: str) -> list[int]:
        ids: list[int] = []
        # Every second piece is the number of a special token.
        for place, piece in enumerate(_NAME.split(text)):
            if place % 2:
                ids.append(int(piece))
                continue
            found = list(self._tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"])
            for special in self._pattern.findall(piece):
                if self._ids[special] in found:
                    raise FlanlabError(
                        f"The text {piece[:60]!r} contains {special}, which the tokenizer can only read as a control token.",
                        hint="Replace it in the rows, or use a model that has a tokenizer.json.",
                    )
            ids.extend(found)
        return ids
