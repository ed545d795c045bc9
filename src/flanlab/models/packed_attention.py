"""Attention for packed sequences: many independent examples in one row of tokens, none seeing another.

A *segment* is one example: a prompt followed by one or more *branches* (a training target, or the options of a question).
Prompt and branches lie flat, one after the other, in a single row with no padding at all:

    tokens     p p p p a a b b b | p p p a | ...
    positions  0 1 2 3 4 5 4 5 6 | 0 1 2 3 | ...
    segment    0 0 0 0 0 0 0 0 0 | 1 1 1 1 | ...

A token sees the earlier tokens of its own segment's prompt and of its own branch: nothing else. With one branch that is
plain causal attention, so training (one target per prompt) and rank classification (k options per prompt, the prompt
computed once) are the same forward pass.

For scoring, what texts have in common is computed once: branches that begin alike share that beginning, and a prompt that
begins as the one before it in the row does (another question through the same template, or about the same passage) sees
the other's first tokens instead of having them again. They are the tokens it would have had itself, at the same positions
and seeing the same:

    tokens     h h h p p a b | p p p a b     <- the second segment sees h h h, too: its `context`
    positions  0 1 2 3 4 5 5 | 3 4 5 6 6

In a layer with a sliding window of w tokens, each token sees the last w tokens of what it sees otherwise, itself included.
Positions decide, not places in the row: a token at position p sees positions above p - w, of the tokens named above.

The function is registered with transformers under the name in `ATTENTION_NAME`; the model hands the `layout` keyword of its
forward call through to it. A model that cannot isolate segments is refused by `check_isolation`, never trained with leaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

from flanlab.errors import FlanlabError

ATTENTION_NAME = "flanlab_packed"
_LEARNED_POSITIONS = frozenset({"biogpt", "codegen", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "opt"})
"""Types of model that look positions up in a table, and have no more than it holds."""
LEAST_SHARED = 8
"""Tokens two prompts must have in common at their beginning for one to see the other's: fewer are not worth the mask."""

Spans = tuple[tuple[int, int], ...]
"""Stretches of a row, (start, length) each."""


@dataclass(frozen=True)
class PackedBatch:
    """One row of packed segments, ready for a model.

    input_ids and position_ids have shape [tokens]; `segments` holds (start, length, mask) per segment, where mask is None for
    plain causal attention, else a bool tensor [length, context + length], True where a query may look at a key.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: list[tuple[int, int, Tensor | None]]
    boundaries: Tensor = field(repr=False)
    """Cumulative segment ends with a leading 0, int32 [segments + 1], as variable-length kernels want them."""
    contexts: Sequence[Spans] = ()
    """Per segment, tokens of earlier segments that its own follow and may see; none at all where nothing is shared."""
    longest: int = field(init=False)
    """Tokens of the longest segment."""
    causal: bool = field(init=False)
    """Whether no segment has a mask of its own, so that plain causal attention within each is all there is."""
    _windowed: dict[int, list[Tensor | None]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # Worked out here and not in attention, where a compiler would make anew what depends on every segment.
        object.__setattr__(self, "longest", max((length for _, length, _ in self.segments), default=0))
        object.__setattr__(self, "causal", all(mask is None for _, _, mask in self.segments))

    def masks(self, window: int | None) -> list[Tensor | None]:
        """The masks of the segments in a layer with a sliding window, or without one."""
        return [mask for _, _, mask in self.segments] if window is None else self._masks_within(window)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _masks_within(self, window: int) -> list[Tensor | None]:
        # Made once per window, since many layers have the same.
        if window not in self._windowed:
            self._windowed[window] = [self._narrowed(number, window) for number in range(len(self.segments))]
        return self._windowed[window]

    def _narrowed(self, number: int, window: int) -> Tensor | None:
        """The mask of a segment in which the window hides what is too far back."""
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
        """The stretches that hold the keys of a segment: its context, then its own tokens."""
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
    """The prompt's, in order; those before the last span belong to earlier segments."""
    branches: list[list[int]]
    """Per branch, the place of each of its tokens; branches that begin alike have these places in common."""


def pack_segments(segments: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> PackedBatch:
    """Lay (prompt, branches) token lists out as one row; branches may be empty, positions restart after the prompt."""
    return _pack(segments, share=False)[0]


def pack_sharing(segments: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> tuple[PackedBatch, list[Place]]:
    """As `pack_segments`, but what prompts and branches have in common at their beginning is laid out once.

    A prompt shares with the one before it alone, so they should come sorted by their tokens. Its last token is always its own.
    """
    return _pack(segments, share=True)


def _pack(segments: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], share: bool) -> tuple[PackedBatch, list[Place]]:
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
                # What tells nodes apart is the node before and the token, and where nothing is shared also the branch.
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
    """How many tokens a prompt shares with the one before it when packed; never its last, which must be its own."""
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
    """What tokens see whose predecessors are `parents`: those before them, theirs, and the whole context.

    None where that is plain causal attention: each follows the one before it, and there is no context.
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

    With a `layout`, block-diagonal over its segments. Without one, the step of a batch that decodes with a cache: then the
    explicit 4-D mask says what each row may see. `softcap` bounds the scores (Gemma 2); `s_aux` has a sink's score per head
    (GPT-OSS).
    """
    if layout is None:
        if attention_mask is None:
            raise FlanlabError(
                "Packed attention was called without a layout or a mask, so segments could not be kept apart.",
                hint="Call the model through flanlab.models, or load it with another attention implementation.",
            )
        if sliding_window is not None:
            # Counted back from the newest, so that padding between prompt and answer takes no place in the window.
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
    # Contiguous, since some models view it in another shape; the kernel lays its output out this way.
    return torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1).contiguous(), None


def _stretches(states: Tensor, spans: Spans) -> Tensor:
    """The tokens of the spans, one after the other; `states` [..., tokens, width]."""
    if len(spans) == 1:
        [(start, length)] = spans
        return states[..., start : start + length, :]
    return torch.cat([states[..., start : start + length, :] for start, length in spans], dim=-2)


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
    """Attention [batch, heads, queries, width], causal where there is no mask."""
    if softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return _explicit_attention(query, key, value, mask, scaling, dropout, softcap, sinks)


def _explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """As `_attend`, written out: no kernel caps scores, or lets a query attend to a sink, which has a score but no value.

    The softmax is computed in float32 at least.
    """
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


@torch.inference_mode()
def check_isolation(model: PreTrainedModel) -> None:
    """Refuse a model in which one packed segment or branch sees another.

    Changes the tokens of one part and looks at the logits of the others: those that may not see it must stay as they
    were, those that may see it must not. Tried with branches and without, since the two may run on different kernels.

    Raises:
        FlanlabError: the architecture does not hand the layout through to attention, or mixes tokens elsewhere.
    """
    was_training = model.training
    model.eval()
    first, second = list(range(5, 11)), list(range(12, 17))
    branches = ([20, 21], [22, 23, 24])
    plain = _logits(model, [(first, []), (second, [])])
    other_plain = _logits(model, [(first[::-1], []), (second, [])])
    base = _logits(model, [(first, []), (second, branches)])
    other_segment = _logits(model, [(first[::-1], []), (second, branches)])
    other_branch = _logits(model, [(first, []), (second, ([21, 20], branches[1]))])
    other_prompt = _logits(model, [(first, []), (second[::-1], branches)])
    model.train(was_training)
    refuse_no_numbers(model, plain)
    in_second, in_last_branch = slice(len(first), None), slice(len(first) + len(second) + 2, None)
    isolated = all(
        torch.allclose(one[part], other[part], rtol=0, atol=1e-4)
        for one, other, part in (
            (plain, other_plain, in_second),
            (base, other_segment, in_second),
            (base, other_branch, in_last_branch),
        )
    )
    reads_prompt = not torch.allclose(base[in_last_branch], other_prompt[in_last_branch], rtol=0, atol=1e-6)
    if not (isolated and reads_prompt):
        raise FlanlabError(
            f"{type(model).__name__} cannot keep packed sequences apart: a change in one changes the other.",
            hint="Use a model whose attention goes through transformers' attention interface (Llama, Qwen, Mistral, ...).",
        )


def refuse_no_numbers(model: nn.Module, logits: Tensor) -> None:
    """Refuse a model that computes NaN or infinity for plain tokens.

    Raises:
        FlanlabError: its weights are damaged, or overflow.
    """
    if not logits.isfinite().all():
        raise FlanlabError(
            f"{type(model).__name__} computes no numbers (NaN or infinity): its weights are damaged, or training diverged.",
            hint="Fetch the model again, or use an earlier checkpoint.",
        )


def _logits(model: PreTrainedModel, segments: Sequence[tuple[list[int], Sequence[list[int]]]]) -> Tensor:
    return packed_logits(model, pack_segments(segments).to(model.device)).float()


def packed_logits(model: nn.Module, batch: PackedBatch, positions: Tensor | None = None) -> Tensor:
    """Logits [positions, vocabulary] at the given token positions (all of them, where None).

    Only these rows go through the output layer: there is never a [tokens, vocabulary] tensor for tokens nobody asks about.
    """
    return packed_forward(model, batch, positions, use_cache=False)[0]


def packed_forward(model: nn.Module, batch: PackedBatch, positions: Tensor | None, *, use_cache: bool) -> tuple[Tensor, Any]:
    """As `packed_logits`; with `use_cache`, also the keys and values of every token as transformers caches them."""
    # A cache made by the model itself would forget all but the last tokens of the row where its attention has a window.
    cache = DynamicCache() if use_cache else None
    output = model(
        input_ids=batch.input_ids[None],
        position_ids=batch.position_ids[None],
        layout=batch,
        past_key_values=cache,
        use_cache=use_cache,
        logits_to_keep=0 if positions is None else positions,
    )
    return output.logits[0], cache


def check_reach(model: nn.Module, longest: int) -> None:
    """Refuse texts longer than a model's table of learned positions; rotary models have none.

    Raises:
        FlanlabError: where GPT-2, say, would end in an index error, or on a GPU in one that tells nothing.
    """
    config: Any = getattr(getattr(model, "module", model), "config", None)
    if getattr(config, "model_type", None) not in _LEARNED_POSITIONS or longest <= config.max_position_embeddings:
        return
    reach = config.max_position_embeddings
    raise FlanlabError(
        f"A text of {longest} tokens, its answer included, is longer than the {reach} that the model can read.",
        hint=f"Keep prompt and answer together within {reach} tokens: with --prompt-tokens of `flan eval`, or in a recipe with"
        " prompt_tokens and target_tokens of mixture, and prompt_tokens and new_tokens of evaluation.",
    )
