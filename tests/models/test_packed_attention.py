"""Packed segments and branches: the same numbers as one by one with transformers' own attention, and no leaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama import modeling_llama

from flanlab.data.mixture import EncodedExample
from flanlab.data.rendering import Example
from flanlab.errors import FlanlabError
from flanlab.models.attention_features import check_isolation
from flanlab.models.packed_attention import (
    ATTENTION_NAME,
    _attend,
    pack_segments,
    pack_sharing,
    packed_attention,
    packed_logits,
)
from flanlab.training.loss import PackedObjective
from flanlab.training.settings import TrainingSettings
from flanlab.training.trainer import share_out, train_step
from tests.tiny import WINDOW, WINDOWED, stock_model

KINDS = ["llama", "qwen2", "gpt_neox"]
ALL_KINDS = [*KINDS, *WINDOWED]


def example(prompt: list[int], target: list[int]) -> EncodedExample:
    return EncodedExample(Example("tiny", "misc", 1, 0, "", ""), prompt, target, False)


EXAMPLES = [
    example([5, 9, 30, 41, 7], [12, 0]),
    example([8], [0]),
    example([40, 41, 42], [43, 44, 45, 46, 0]),
    example([5, 9, 30, 41, 7], [77, 78, 0]),
    example(list(range(100, 125)), [3, 0]),
]


def packed_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=ATTENTION_NAME)
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def plain_loss(model: PreTrainedModel, one: EncodedExample) -> Tensor:
    """Cross-entropy of one example's target, computed alone with transformers' own loss over labels."""
    ids = torch.tensor([one.prompt + one.target])
    labels = torch.tensor([[-100] * len(one.prompt) + one.target])
    logits = model(input_ids=ids).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def test_layout_of_a_packed_row() -> None:
    packed = pack_segments([([5, 6, 7], [[8, 9], [10]]), ([11], [[12]]), ([13, 14], [])])
    assert packed.input_ids.tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 0, 1, 0, 1]
    assert [(start, length) for start, length, _ in packed.segments] == [(0, 6), (6, 2), (8, 2)]
    assert packed.boundaries.tolist() == [0, 6, 8, 10]
    mask = packed.segments[0][2]
    assert mask is not None
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]
    assert packed.segments[1][2] is None, "one branch is plain causal attention"


def test_layout_of_a_row_that_shares() -> None:
    head = list(range(100, 110))
    segments = [([*head, 5, 6], [[7, 8], [7, 9]]), ([*head, 5, 6, 3], [[4]]), ([*head, 2], []), ([1, 2], [])]
    packed, places = pack_sharing(segments)
    assert packed.input_ids.tolist() == [*head, 5, 6, 7, 8, 9, 3, 4, 2, 1, 2]
    assert packed.position_ids.tolist() == [*range(12), 12, 13, 13, 12, 13, 10, 0, 1]
    assert packed.contexts == [(), ((0, 12),), ((0, 10),), ()]
    assert [place.prompt for place in places] == [((0, 12),), ((0, 12), (15, 1)), ((0, 10), (17, 1)), ((18, 2),)]
    assert [place.branches for place in places] == [[[12, 13], [12, 14]], [[16]], [], []]
    (_, _, branched), (_, _, continued), (_, _, single), (_, _, alone) = packed.segments
    assert branched is not None
    assert branched[12:, 11:].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert continued is not None
    assert continued.int().tolist() == [[1] * 13 + [0], [1] * 14]
    assert single is not None
    assert single.int().tolist() == [[1] * 11]
    assert alone is None


def test_training_rows_share_nothing() -> None:
    """Each example is a segment of its own there, whatever it has in common with another."""
    prompt = list(range(100, 120))
    packed = pack_segments([(prompt, [[5, 6]]), (prompt, [[5, 7]])])
    assert packed.input_ids.tolist() == [*prompt, 5, 6, *prompt, 5, 7]
    assert packed.contexts == ()
    assert packed.causal


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        *((kind, torch.float64, 1e-5) for kind in KINDS),
        # Parts of these models compute in float32 whatever they are loaded in.
        *((kind, torch.float32, 1e-4) for kind in WINDOWED),
    ],
)
def test_packed_loss_and_gradients_are_those_of_separate_examples(
    kind: str, dtype: torch.dtype, tolerance: float, windowed_folders: dict[str, Path]
) -> None:
    reference = stock_model(windowed_folders[kind], dtype)
    expected = torch.stack([plain_loss(reference, one) for one in EXAMPLES]).sum()
    expected.backward()
    packed = packed_model(windowed_folders[kind], dtype)
    # The loss itself is computed in float32, whatever the model's precision.
    loss = PackedObjective().loss(packed, EXAMPLES)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = dict(packed.named_parameters())
    assert gradients
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=tolerance, atol=tolerance, msg=name)


def test_loss_leaves_prompt_tokens_out(tiny_folder: Path) -> None:
    """The sum over all tokens would be another number; so would one position off."""
    model = packed_model(tiny_folder)
    one = EXAMPLES[2]
    logits = stock_model(tiny_folder)(input_ids=torch.tensor([one.prompt + one.target])).logits[0].log_softmax(-1)
    rows = torch.arange(len(one.prompt) - 1, len(one.prompt) + len(one.target) - 1)
    by_hand = -logits[rows, torch.tensor(one.target)].sum()
    assert PackedObjective().loss(model, [one]).item() == pytest.approx(by_hand.item(), abs=1e-4)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_logits_of_a_packed_row_are_those_of_each_segment_alone(kind: str, windowed_folders: dict[str, Path]) -> None:
    reference, model = stock_model(windowed_folders[kind]), packed_model(windowed_folders[kind])
    segments = [one.prompt + one.target for one in EXAMPLES]
    with torch.inference_mode():
        together = packed_logits(model, pack_segments([(ids, []) for ids in segments]))
        alone = torch.cat([reference(input_ids=torch.tensor([ids])).logits[0] for ids in segments])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_logits_at_chosen_positions_are_the_same_rows(tiny_folder: Path) -> None:
    model = packed_model(tiny_folder)
    batch = pack_segments([(one.prompt, [one.target]) for one in EXAMPLES])
    positions = torch.tensor([0, 6, 7, 12])
    with torch.inference_mode():
        torch.testing.assert_close(packed_logits(model, batch, positions), packed_logits(model, batch)[positions])


@pytest.mark.parametrize("method", ["adamw", "adafactor"])
def test_update_is_the_same_whatever_the_micro_batches(method: str, tiny_folder: Path) -> None:
    from flanlab.training.methods import make_optimizer

    updated = []
    for micro_batch_tokens in (27, 30, 64, 10_000):
        model = packed_model(tiny_folder, torch.float64).requires_grad_(True)
        settings = TrainingSettings(
            steps=10,
            learning_rate=1e-2,
            micro_batch_tokens=micro_batch_tokens,
            optimizer=method,
            gradient_clip=0.5,
            compute_dtype="float32",
        )
        optimizer = make_optimizer(model, settings)
        shares = share_out(PackedObjective(), EXAMPLES, settings)
        losses = [train_step(model, optimizer, PackedObjective(), shares, settings, 1e-2)[0] for _ in range(2)]
        updated.append((losses, {name: value.detach() for name, value in model.named_parameters()}))
    assert updated[0][0][1] < updated[0][0][0], "two steps on the same examples must lower the loss"
    for losses, parameters in updated[1:]:
        assert losses == pytest.approx(updated[0][0], rel=1e-5)
        for name, value in parameters.items():
            torch.testing.assert_close(value, updated[0][1][name], rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_changing_one_part_changes_no_other(kind: str, tiny_folders: dict[str, Path]) -> None:
    """Every token is changed in turn: exactly the tokens that may see it change their logits."""
    model = packed_model(tiny_folders[kind])
    parts = [([5, 6, 7], ([20, 21], [22, 23, 24])), ([30, 31], ([32],)), ([40, 41, 42], ())]
    batch = pack_segments(parts)
    segment_of, branch_of = [], []
    for number, (prompt, branches) in enumerate(parts):
        segment_of += [number] * (len(prompt) + sum(map(len, branches)))
        branch_of += [0] * len(prompt) + [b for b, branch in enumerate(branches, 1) for _ in branch]
    with torch.inference_mode():
        base = packed_logits(model, batch)
        for changed in range(len(batch.input_ids)):
            ids = batch.input_ids.clone()
            ids[changed] = 99
            other = packed_logits(model, type(batch)(ids, batch.position_ids, batch.segments, batch.boundaries))
            moved = ((other - base).abs().amax(dim=-1) > 1e-4).tolist()
            sees = [
                reader >= changed and segment_of[reader] == segment_of[changed] and branch_of[changed] in (0, branch_of[reader])
                for reader in range(len(ids))
            ]
            assert moved == sees, f"token {changed}"


def _ignores_layout(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    """Attention that is causal over the whole row, as if the row were one text."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2), None


def test_check_refuses_attention_that_ignores_the_layout(tiny_folder: Path) -> None:
    AttentionInterface.register("ignores_layout_for_test", _ignores_layout)
    leaking = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="ignores_layout_for_test")
    with pytest.raises(FlanlabError, match="cannot separate packed sequences"):
        check_isolation(leaking)


def test_check_refuses_attention_of_transformers_itself(tiny_folder: Path) -> None:
    with pytest.raises(FlanlabError, match="cannot separate packed sequences"):
        check_isolation(stock_model(tiny_folder))


def test_check_refuses_a_model_that_does_not_read_the_prompt(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: object, **kwargs: object) -> object:
        return torch.zeros_like(query).transpose(1, 2), None

    AttentionInterface.register("deaf_for_test", deaf)
    with pytest.raises(FlanlabError, match="cannot separate packed sequences"):
        check_isolation(AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="deaf_for_test"))


def test_check_refuses_a_leak_between_branches_alone(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments apart, but the options of a question see each other."""

    def leaks(*args: object, **kwargs: object) -> object:
        layout = kwargs.get("layout")
        if layout is not None:
            layout = type(layout)(
                layout.input_ids,
                layout.position_ids,
                [(start, length, None) for start, length, _ in layout.segments],
                layout.boundaries,
            )
        return packed_attention(*args, **{**kwargs, "layout": layout})  # type: ignore[arg-type]

    AttentionInterface.register("branches_leak_for_test", leaks)
    with pytest.raises(FlanlabError, match="cannot separate packed sequences"):
        check_isolation(AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="branches_leak_for_test"))


def test_check_refuses_mixing_outside_of_attention(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that mixes neighbouring tokens, as convolutions and recurrent layers do."""
    forward = modeling_llama.LlamaMLP.forward
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", lambda self, x: forward(self, x + 0.5 * torch.roll(x, 1, dims=1)))
    with pytest.raises(FlanlabError, match="cannot separate packed sequences"):
        check_isolation(packed_model(tiny_folder))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_check_accepts_sound_models_and_leaves_their_mode_alone(kind: str, windowed_folders: dict[str, Path]) -> None:
    model = packed_model(windowed_folders[kind])
    for training in (True, False):
        model.train(training)
        check_isolation(model)
        assert model.training is training


def test_a_window_hides_what_is_too_far_back() -> None:
    """By positions, not by places in the row: a branch or a shared beginning may be far away there."""
    head = list(range(100, 108))
    packed, _ = pack_sharing([([*head, 1], [[7, 8], [9]]), ([*head, 2, 3], [[4]]), ([5, 6, 7, 8], []), ([5, 6], [])])
    first, second, third, fourth = packed.masks(3)
    assert first is not None
    assert first.int().tolist() == [
        *([0] * max(token - 2, 0) + [1] * min(token + 1, 3) + [0] * (11 - token) for token in range(9)),
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1],
    ]
    assert second is not None
    assert second.int().tolist() == [
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert third is not None
    assert third.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]]
    assert fourth is None, "a short segment needs no mask"
    assert packed.masks(3)[0] is first, "made once for all layers"
    assert packed.masks(None) == [mask for _, _, mask in packed.segments]


@pytest.mark.parametrize("kind", WINDOWED)
def test_branches_and_shared_beginnings_with_windows(kind: str, windowed_folders: dict[str, Path]) -> None:
    """Token by token, as each prompt with each of its branches alone, all of them longer than the window."""
    reference, model = stock_model(windowed_folders[kind]), packed_model(windowed_folders[kind])
    head = list(range(100, 100 + 2 * WINDOW))
    branches = [list(range(200, 203)), list(range(220, 222 + WINDOW)), [200, 240]]
    segments = [([*head, *range(300, 300 + more)], branches) for more in (1, 5, 2 * WINDOW)]
    packed, places = pack_sharing(segments)
    assert all(packed.contexts[1:])
    with torch.inference_mode():
        logits = packed_logits(model, packed)
        for (prompt, _), place in zip(segments, places, strict=True):
            of_prompt = [token for start, length in place.prompt for token in range(start, start + length)]
            for branch, steps in zip(branches, place.branches, strict=True):
                alone = reference(input_ids=torch.tensor([prompt + branch])).logits[0]
                torch.testing.assert_close(logits[of_prompt + steps], alone, rtol=0, atol=1e-4)


def test_soft_capped_softmax_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    layout = pack_segments([(list(range(300)), [])])
    states = torch.randn(3, 1, 4, 300, 16).bfloat16()
    exact, _ = packed_attention(nn.Identity(), *states.double(), None, layout=layout, softcap=5.0)
    rounded, _ = packed_attention(nn.Identity(), *states, None, layout=layout, softcap=5.0)
    assert rounded.dtype == torch.bfloat16
    # Capped and weighted in bfloat16, it would be 0.0046.
    assert (rounded.double() - exact).norm() / exact.norm() < 0.0035


def test_attention_without_layout_or_mask_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(FlanlabError, match="without a layout or a mask"):
        packed_model(tiny_folder)(input_ids=torch.tensor([[5, 6, 7]]))


def test_short_texts_attend_in_float32_while_a_cpu_trains() -> None:
    states = [torch.randn(1, 2, 9, 4).bfloat16() for _ in range(3)]
    exact = functional.scaled_dot_product_attention(*(state.float() for state in states), is_causal=True).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = _attend(*(state.requires_grad_() for state in states), None, None, 0.0, None, None)
    assert torch.equal(trained, exact)
