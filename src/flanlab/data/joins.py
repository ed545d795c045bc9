"""Whether a text that ends in a line break can be tokenized separately from what follows it.

For texts A and B, where A ends in a line break that does not follow white space, and B begins with no white space, the tokens
of A + B are those of A followed by those of B if

1. nothing is matched across the join: no added token contains a line break or includes the white space next to it, and
   normalization changes neither the line break nor anything because of it; and either
2. the text is always split between the line break and B, as by the patterns in `_SPLITTING`: none of their alternatives
   matches a line break and a following character that is not white space, and `\\s+(?!\\S)`, the one that looks ahead, only
   checks whether white space continues. The next step then sees each piece alone; or
3. merges alone make the tokens (byte-pair encoding as SentencePiece does it, split at spaces or nowhere), and no token of the
   vocabulary contains a line break followed by something that is not white space. Then nothing merges across the join, and
   merges on one side do not depend on the other.

Other tokenizers may behave in the same way. For these it is known.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# `ByteLevel` has the same built in.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPLITTING = frozenset(
    {
        _GPT2,
        # Llama 3 and Qwen 2.
        _WORDS.format(r"\p{N}{1,3}"),
        _WORDS.format(r"\p{N}"),
    }
)
_JOIN_WITHIN_A_TOKEN = re.compile(r"\n\S|<0x0A>.|.<0x0A>", re.DOTALL)


def cuts_after_line_breaks(tokenizer_json: str) -> bool:
    """Whether the text above holds of a tokenizer, given as its tokenizer.json."""
    tokenizer: dict[str, Any] = json.loads(tokenizer_json)
    model = tokenizer["model"]
    if model.get("dropout") or not all(map(_keeps_to_itself, tokenizer["added_tokens"])):
        return False
    normalizers = list(_steps(tokenizer["normalizer"], "normalizers"))
    splitters = list(_steps(tokenizer["pre_tokenizer"], "pretokenizers"))
    if any(map(_splits, splitters)):
        return all(step["type"] == "NFC" for step in normalizers) and all(map(_splits_or_is_local, splitters))
    return all(map(_replaces_spaces, normalizers)) and all(map(_splits_at_spaces, splitters)) and _merges_apart(model)


def _steps(step: dict[str, Any] | None, parts: str) -> Iterator[dict[str, Any]]:
    """The steps that a normalizer or pre-tokenizer consists of."""
    if step is not None and step["type"] == "Sequence":
        yield from itertools.chain.from_iterable(_steps(part, parts) for part in step[parts])
    elif step is not None:
        yield step


def _keeps_to_itself(token: dict[str, Any]) -> bool:
    return not (token["lstrip"] or token["rstrip"] or token["single_word"] or "\n" in token["content"])


def _splits(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return bool(step["use_regex"]) and not step["add_prefix_space"]
    return step["type"] == "Split" and step["behavior"] == "Isolated" and step["pattern"].get("Regex") in _SPLITTING


def _splits_or_is_local(step: dict[str, Any]) -> bool:
    return _splits(step) or step["type"] == "Digits" or (step["type"] == "ByteLevel" and not step["add_prefix_space"])


def _replaces_spaces(step: dict[str, Any]) -> bool:
    if step["type"] == "Prepend":
        return "\n" not in step["prepend"]
    return step["type"] == "Replace" and step["pattern"] == {"String": " "} and "\n" not in step["content"]


def _splits_at_spaces(step: dict[str, Any]) -> bool:
    return bool(step["type"] == "Metaspace" or (step["type"] == "Split" and step["pattern"] == {"String": " "}))


def _merges_apart(model: dict[str, Any]) -> bool:
    plain = not (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("ignore_merges"))
    if model["type"] != "BPE" or not plain:
        return False
    # An unknown line break could become one with an unknown character after it.
    known = "\n" in model["vocab"] or (model["byte_fallback"] and "<0x0A>" in model["vocab"])
    return known and not any(map(_JOIN_WITHIN_A_TOKEN.search, model["vocab"]))
