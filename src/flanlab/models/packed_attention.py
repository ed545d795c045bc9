"""Attention for packed sequences: many independent examples in one row of tokens, which do not see each other.

A *segment* is one example: a prompt followed by one or more *branches* (a training target, or the options of a question).
Prompt and branches follow each other in a single row without padding:

    tokens     p p p p a a b b b | p p p a | ...
    positions  0 1 2 3 4 5 4 5 6 | 0 1 2 3 | ...
    segment    0 0 0 0 0 0 0 0 0 | 1 1 1 1 | ...

A token sees only the earlier tokens of its own segment's prompt and of its own branch. With one branch that is plain causal
attention. So training (one target per prompt) and rank classification (k options per prompt, the prompt computed once) are the
same forward pass.

For scoring, common prefixes are computed once. Branches with the same beginning share it. A prompt that begins like the one
before it in the row (a question with the same template, or about the same passage) sees the other's first tokens instead of
repeating them. They are the same tokens at the same positions, and see the same:

    tokens     h h h p p a b | p p p a b     <- the second segment also sees h h h: its `context`
    positions  0 1 2 3 4 5 5 | 3 4 5 6 6

In a layer with a sliding window of w tokens, each token sees the last w of these tokens, including itself. The window is
measured by positions, not by places in the row: a token at position p sees positions above p - w, of the tokens named above.

The function is registered with transformers under the name in `ATTENTION_NAME`. The model passes the `layout` keyword of its
forward call to it. A model that cannot isolate segments is refused by `check_isolation`, never trained with leaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, DynamicCache

from flanlab.errors import FlanlabError

ATTENTION_NAME = "flanlab_packed"
_SHORT = ContextVar("short", default=256)
"""Most queries of a text over which attention is computed in float32 while a CPU trains."""
_LEARNED_POSITIONS = frozenset({"biogpt", "codegen", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "opt"})
"""Model types that look up positions in a table, whose size limits the length."""
LEAST_SHARED = 8
"""Number of common first tokens from which a prompt sees those of the one before it. Fewer are not worth the mask."""

Spans = tuple[tuple[int, int], ...]
"""Spans of a row, each (start, length)."""


@dataclass(frozen=True)
class PackedBatch:
    """One row of packed segments, ready for a model.

    input_ids and position_ids have shape [tokens]. `segments` has (start, length, mask) per segment. The mask is None for plain
    causal attention, else a bool tensor [length, context + length], True where a query may see a key.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: list[tuple[int, int, Tensor | None]]
    boundaries: Tensor = field(repr=False)
    """Cumulative segment ends with a leading 0, int32 [segments + 1], as variable-length kernels want them."""
    contexts: Sequence[Spans] = ()
    """Per segment, the earlier segments' tokens that precede its own and that it may see. Empty if nothing is shared."""
    longest: int = field(init=False)
    """Tokens of the longest segment."""
    causal: bool = field(init=False)
    """Whether no segment has a mask, so that each has plain causal attention."""
    _windowed: dict[int, list[Tensor | None]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # Computed here and not in attention, where a compiler would recompile for each segment.
        object.__setattr__(self, "longest", max((length for _, length, _ in self.segments), default=0))
        object.__setattr__(self, "causal", all(mask is None for _, _, mask in self.segments))

    def masks(self, window: int | None) -> list[Tensor | None]:
        """The masks of the segments in a layer with or without a sliding window."""
        return [mask for _, _, mask in self.segments] if window is None else self._masks_within(window)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _masks_within(self, window: int) -> list[Tensor | None]:
        # Made once per window, because many layers have the same.
        if window not in self._windowed:
            self._windowed[window] = [self._narrowed(number, window) for number in range(len(self.segments))]
        return self._windowed[window]

    def _narrowed(self, number: int, window: int) -> Tensor | None:
        """The mask of a segment in which the window hides tokens that are too far back."""
        start, length, mask = self.segments[number]
        if mask is None:
            if length <= window:
                return None
            whole = torch.ones(length, length, dtype=torch.bool, device=self.position_ids.device)
            return whole.tril_().triu_(1 - window)
        keys = _stretches(self.position_ids[:, None], self.spans(number))
        queries = self.position_ids[start : start + length, None]
        return mask & (queries - keys.T < window)

    def spans(self, number: int) -> Spans:
        """The spans with the keys of a segment: its context, then its own tokens."""
        start, length, _ = self.segments[number]
        return (*(self.contexts[number] if self.contexts else ()), (start, length))

    def to(self, device: torch.device) -> PackedBatch:
        """The batch on another device."""
        return PackedBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            [(start, length, None if mask is None else mask.to(device)) for start, length, mask in self.segments],
            self.boundaries.to(device),
            self.contexts,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tokens of one segment are in the row."""

    prompt: Spans
    """The spans of the prompt, in order. All before the last one belong to earlier segments."""
    branches: list[list[int]]
    """Per branch, the place of each of its tokens. Branches with the same beginning share these places."""


def pack_segments(segments: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> PackedBatch:
    """Put (prompt, branches) token lists into one row. Branches may be empty. Each continues the prompt's positions."""
    return pack_sharing(segments, share=False)[0]


def pack_sharing(
    segments: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], *, share: bool = True
) -> tuple[PackedBatch, list[Place]]:
    """Like `pack_segments`, but common beginnings of prompts and branches are stored once.

    A prompt shares only with the one before it, so they should be sorted by their tokens. Its last token is never shared.
    """
    ids: list[int] = []
    positions: list[int] = []
    layout: list[tuple[int, int, Tensor | None]] = []
    contexts: list[Spans] = []
    places: list[Place] = []
    boundaries = [0]
    before: Sequence[int] = ()
    before_spans: Spans = ()
    for prompt, branches in segments:
        shared = shared_tokens(before, prompt) if share else 0
        context = _first_tokens(before_spans, shared)
        start, own = len(ids), len(prompt) - shared
        ids.extend(prompt[shared:])
        positions.extend(range(shared, len(prompt)))
        parents = list(range(-1, own - 1))
        found: list[list[int]] = []
        known: dict[tuple[int, int], int] = {}
        for number, branch in enumerate(branches):
            node, depth = own - 1, len(prompt)
            steps = []
            for token in branch:
                # Nodes differ by the node before and the token; without sharing, also by the branch.
                key = (node, token) if share else (node, -1 - number)
                if key not in known:
                    known[key] = len(parents)
                    parents.append(node)
                    ids.append(token)
                    positions.append(depth)
                node, depth = known[key], depth + 1
                steps.append(start + node)
            found.append(steps)
        length = len(parents)
        layout.append((start, length, _mask(parents, shared)))
        contexts.append(context)
        boundaries.append(len(ids))
        before, before_spans = prompt, (*context, (start, own))
        places.append(Place(before_spans, found))
    packed = PackedBatch(
        torch.tensor(ids),
        torch.tensor(positions),
        layout,
        torch.tensor(boundaries, dtype=torch.int32),
        contexts if any(contexts) else (),
    )
    return packed, places


def shared_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens a prompt shares with the one before it when packed. Its last token is never shared."""
    limit = min(len(first), len(second) - 1)
    count = next((place for place in range(limit) if first[place] != second[place]), limit)
    return count if count >= LEAST_SHARED else 0


def _first_tokens(spans: Spans, count: int) -> Spans:
    """The spans' first `count` tokens."""
    taken: list[tuple[int, int]] = []
    for start, length in spans:
        if count <= 0:
            break
        taken.append((start, min(length, count)))
        count -= length
    return tuple(taken)


def _mask(parents: Sequence[int], context: int) -> Tensor | None:
    """The mask of tokens with the predecessors `parents`: each sees its predecessors and the whole context.

    None if that is plain causal attention: each token follows the one before it, and there is no context.
    """
    length = len(parents)
    if not context and all(parent == token - 1 for token, parent in enumerate(parents)):
        return None
    mask = np.zeros((length, context + length), dtype=bool)
    mask[:, :context] = True
    for token, parent in enumerate(parents):
        if parent >= 0:
            mask[token] = mask[parent]
        mask[token, context + token] = True
    return torch.from_numpy(mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: PackedBatch | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, heads, tokens, width] in, [1, tokens, heads, width] out.

    With a `layout`, it is block-diagonal over the segments. Without one, it is a step of a batch that decodes with a cache, and
    the explicit 4-D mask says what each row may see. `softcap` limits the scores (Gemma 2). `s_aux` has a sink's score per head
    (GPT-OSS).
    """
    if layout is None:
        if attention_mask is None:
            raise FlanlabError(
                "Packed attention was called without a layout or a mask, so it cannot separate segments.",
                hint="Call the model through flanlab.models, or load it with another attention implementation.",
            )
        if sliding_window is not None:
            # Counted back from the newest token, so that padding between prompt and answer does not use up the window.
            newest_first = attention_mask.flip(-1).cumsum(-1).flip(-1)
            attention_mask = attention_mask & (newest_first <= sliding_window)
        output = _attend(query, key, value, attention_mask, scaling, dropout, softcap, s_aux)
        return output.transpose(1, 2).contiguous(), None
    # Under autocast the rotary embedding turns queries and keys, but not values, back into float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    plain = softcap is None and s_aux is None and not dropout
    if plain and query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and layout.causal:
        return _varlen_attention(query, key, value, layout, scaling, sliding_window)[None], None
    pieces = []
    for number, mask in enumerate(layout.masks(sliding_window)):
        start, length = layout.segments[number][:2]
        spans = layout.spans(number)
        piece = query[:, :, start : start + length]
        keys, values = _stretches(key, spans), _stretches(value, spans)
        pieces.append(_attend(piece, keys, values, mask, scaling, dropout, softcap, s_aux))
    # Contiguous, because some models view it in another shape.
    return torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1).contiguous(), None


def _stretches(states: Tensor, spans: Spans) -> Tensor:
    """The tokens of the spans, one after the other; `states` [..., tokens, width]."""
    if len(spans) == 1:
        [(start, length)] = spans
        return states[..., start : start + length, :]
    return torch.cat([states[..., start : start + length, :] for start, length in spans], dim=-2)


@contextmanager
def attention_of_a_gpu() -> Iterator[None]:
    """A CPU computes attention over short texts in the number type of its input, too, so that it can count what a GPU keeps."""
    before = _SHORT.set(0)
    try:
        yield
    finally:
        _SHORT.reset(before)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention [batch, heads, queries, width], causal if there is no mask.

    With a cap of the scores or with sinks (a sink has a score, but no value) it is written out, because no kernel has these.
    The softmax is then computed in at least float32.
    """
    if softcap is None and sinks is None:
        # Over short texts, the gradients of bfloat16 attention take a CPU up to 2.7 times as long as those of float32.
        number_type = value.dtype
        short = query.device.type == "cpu" and query.requires_grad and query.shape[-2] <= _SHORT.get()
        exact = short and number_type == torch.bfloat16
        if exact:
            query, key, value = query.float(), key.float(), value.float()
        with torch.autocast("cpu", enabled=False) if exact else nullcontext():
            attended = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask.float() if exact and mask is not None and mask.is_floating_point() else mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        return attended.to(number_type)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril_()
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        column = sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = scores.softmax(dim=-1)[..., : key.shape[-2]]
    return functional.dropout(weights, dropout).to(value.dtype) @ value


def _varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedBatch, scaling: float | None, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    result = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        layout.boundaries,
        layout.boundaries,
        layout.longest,
        layout.longest,
        scale=scaling,
        # Tokens before the query's own that it sees; -1 is all of them.
        window_size=(-1 if window is None else window - 1, 0),
    )
    assert isinstance(result, Tensor)
    return result


AttentionInterface.register(ATTENTION_NAME, packed_attention)


def packed_logits(model: nn.Module, batch: PackedBatch, positions: Tensor | None = None) -> Tensor:
    """Logits [positions, vocabulary] at the given token positions (None: all).

    Only these rows go through the output layer: there is never a [tokens, vocabulary] tensor for all tokens.
    """
    return packed_forward(model, batch, positions, use_cache=False)[0]


def packed_forward(model: nn.Module, batch: PackedBatch, positions: Tensor | None, *, use_cache: bool) -> tuple[Tensor, Any]:
    """Like `packed_logits`. With `use_cache`, also returns the keys and values of each token in transformers' cache."""
    # With a sliding window, a cache made by the model itself would keep only the last tokens of the row.
    cache = DynamicCache() if use_cache else None
    output = model(
        input_ids=batch.input_ids[None],
        position_ids=batch.position_ids[None],
        layout=batch,
        past_key_values=cache,
        use_cache=use_cache,
        logits_to_keep=0 if positions is None else positions,
    )
    # Not logits[0], whose gradient would be another tensor of this size.
    return output.logits.squeeze(0), cache


def check_reach(config: Any, longest: int) -> None:
    """Refuse texts that are longer than a model with this configuration reads: one with a table of learned positions (GPT-2,
    BART). Rotary and relative positions have no end. An encoder-decoder model reads prompt and answer apart.

    Raises:
        FlanlabError: the text is too long. The model would end with an index error, on a GPU with an unclear one.
    """
    apart = getattr(config, "is_encoder_decoder", False)
    limited = apart or getattr(config, "model_type", None) in _LEARNED_POSITIONS
    reach = getattr(config, "max_position_embeddings", None)
    if not limited or reach is None or longest <= reach:
        return
    text, both = ("", "prompts and answers") if apart else (", its answer included,", "prompt and answer together")
    raise FlanlabError(
        f"A text of {longest} tokens{text} is longer than the {reach} that the model can read.",
        hint=f"Keep {both} within {reach} tokens: with --prompt-tokens of `flan eval`, or with mixture.prompt_tokens,"
        " mixture.target_tokens, evaluation.prompt_tokens and evaluation.new_tokens in a recipe.",
    )
