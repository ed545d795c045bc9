"""Find out which attention a model uses, and refuse what packed attention does not compute, and models that leak.

transformers' models say what a token may see in two ways: in a mask, and in the arguments of their attention function
(`sliding_window`, `softcap`, ...). Packed attention makes its own masks from the arguments. So each model is first tried on a
few tokens: each layer's mask must be the one that follows from its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from flanlab.errors import FlanlabError
from flanlab.models.packed_attention import pack_segments, packed_logits

_PROBE = "flanlab_probe"
_FAR = 1_000_003
"""Position of the token whose mask is checked: beyond any window, and not a multiple of a chunk's length."""
_LATER = -1
NOT_THROUGH_THE_INTERFACE = "attention that does not use transformers' attention interface"
_KINDS_OF_LAYERS = frozenset({"full_attention", "sliding_attention"})
_COMPUTED = frozenset({"s_aux", "position_ids"})
"""Tensors that attention may get: sinks, and positions, which the layout has too."""


class _UnknownFeatureError(Exception):
    """Attention of a kind that packed attention does not compute."""


@torch.inference_mode()
def check_features(model: PreTrainedModel) -> None:
    """Refuse a model whose attention packed attention would compute wrongly.

    Raises:
        FlanlabError: names the feature, such as chunked attention.
    """
    before = model.config._attn_implementation
    ids = torch.arange(5, 9, device=model.device)[None]
    called: list[str] = []
    AttentionInterface.register(_PROBE, partial(_look, called))
    model.set_attn_implementation(_PROBE)
    try:
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _KINDS_OF_LAYERS
        if kinds:
            raise _UnknownFeatureError(f"layers of the kind {', '.join(sorted(kinds))}")
        model(input_ids=ids, position_ids=torch.arange(ids.shape[1], device=model.device)[None], use_cache=False)
        if not called:
            raise _UnknownFeatureError(NOT_THROUGH_THE_INTERFACE)
    except _UnknownFeatureError as error:
        raise unsupported_attention(type(model).__name__, str(error)) from None
    finally:
        model.set_attn_implementation(before)


def unsupported_attention(model: str, feature: str) -> FlanlabError:
    """The error for a model that uses a feature."""
    return FlanlabError(
        f"{model} uses {feature}, which flanlab does not compute.",
        hint="Use a model with causal attention, full or with sliding windows, such as Llama, Qwen, Mistral or Gemma.",
    )


def _visible(mask_function: Callable[..., Tensor], device: torch.device, **_: object) -> Tensor:
    """Instead of a mask, how many tokens the token at `_FAR` sees; `_LATER` if it sees later tokens."""
    first = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
    keys = torch.arange(_FAR + 64, device=device)[None, None, None, :]
    seen = mask_function(first, first, first + _FAR, keys).expand(keys.shape)[0, 0, 0]
    count = seen[: _FAR + 1].sum()
    return torch.where(seen[_FAR + 1 :].any(), _LATER, count)[None, None, None, None]


def _look(
    called: list[str],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **handed: object,
) -> tuple[Tensor, None]:
    """An attention function that computes nothing, but checks its arguments and records that it was called."""
    called.append(type(module).__name__)
    for name, given in handed.items():
        if isinstance(given, Tensor) and name not in _COMPUTED:
            raise _UnknownFeatureError(f"attention that depends on `{name}`")
    visible = None if attention_mask is None else int(attention_mask.flatten()[0])
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal or visible == _LATER:
        raise _UnknownFeatureError("attention to later tokens (bidirectional attention)")
    expected = _FAR + 1 if sliding_window is None else min(sliding_window, _FAR + 1)
    if visible is not None and visible != expected:
        raise _UnknownFeatureError(
            "chunked attention, or a sliding window that its attention function does not get as an argument"
            if sliding_window is None
            else f"a mask that differs from its sliding window of {sliding_window} tokens"
        )
    return value.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


AttentionMaskInterface.register(_PROBE, _visible)


@torch.inference_mode()
def check_isolation(model: PreTrainedModel) -> None:
    """Refuse a model in which one packed segment or branch sees another.

    Changes the tokens of segments and branches and compares the logits of the others. Logits of tokens that may not see a
    change must stay the same, and logits of tokens that may see it must change. Tried with and without branches, which may
    use different kernels.

    Raises:
        FlanlabError: the architecture does not pass the layout to attention, or mixes tokens elsewhere.
    """
    was_training = model.training
    model.eval()
    first, second, third = list(range(5, 11)), list(range(12, 17)), list(range(25, 30))
    branches = ([20, 21], [22, 23, 24])
    plain = _logits(model, [(first, []), (second, [])])
    other_plain = _logits(model, [(first[::-1], []), (second, [])])
    # Changed: the first segment, a branch of the second, and the prompt of the third.
    base = _logits(model, [(first, []), (second, branches), (third, branches)])
    other = _logits(model, [(first[::-1], []), (second, ([21, 20], branches[1])), (third[::-1], branches)])
    model.train(was_training)
    refuse_no_numbers(model, plain)
    # Tokens: 6 of the first segment, 5 + 2 + 3 of the second, 5 + 2 + 3 of the third.
    unchanged = torch.cat([plain[6:] - other_plain[6:], base[6:11] - other[6:11], base[13:16] - other[13:16]])
    isolated, reads_prompt = unchanged.abs().max() <= 1e-4, (base[-3:] - other[-3:]).abs().max() > 1e-6
    if not (isolated and reads_prompt):
        raise FlanlabError(
            f"{_named(model)} cannot separate packed sequences: a change in one changes the other.",
            hint="Use a model whose attention uses transformers' attention interface (Llama, Qwen, Mistral, ...).",
        )


def _named(model: nn.Module) -> str:
    """The architecture, and where the model was loaded from, if it was."""
    place = getattr(model, "name_or_path", "")
    return f"{type(model).__name__} ({place})" if place else type(model).__name__


def refuse_no_numbers(model: nn.Module, logits: Tensor) -> None:
    """Refuse a model that computes NaN or infinity for plain tokens.

    Raises:
        FlanlabError: its weights are damaged, or overflow.
    """
    if not logits.isfinite().all():
        raise FlanlabError(
            f"{_named(model)} computes NaN or infinity: its weights are damaged, or training diverged.",
            hint="Download the model again, or use an earlier checkpoint.",
        )


def _logits(model: PreTrainedModel, segments: Sequence[tuple[list[int], Sequence[list[int]]]]) -> Tensor:
    return packed_logits(model, pack_segments(segments).to(model.device)).float()
