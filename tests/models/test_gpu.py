"""What only a GPU can show: the variable-length kernel, bfloat16 beside float32, and training under autocast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from flanlab.models.answering import Question
from flanlab.models.attention_features import check_isolation
from flanlab.models.loading import load_model
from flanlab.models.packed_attention import ATTENTION_NAME, pack_segments, packed_attention, packed_logits
from flanlab.models.scoring import answer_questions
from flanlab.training.loss import PackedObjective
from flanlab.training.methods import make_optimizer, prepare_for_training
from flanlab.training.trainer import share_out, train_step
from tests.models.test_packed_attention import example
from tests.training.stream import make_settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

EXAMPLES = [example(list(range(5, 5 + size)), [7, 9, 1][: 1 + size % 3]) for size in (3, 17, 40, 8, 25)]


def test_variable_length_kernel_equals_attention_one_segment_at_a_time() -> None:
    torch.manual_seed(0)
    layout = pack_segments([(list(range(size)), []) for size in (1, 33, 128, 7, 300)]).to(torch.device("cuda"))
    tokens = len(layout.input_ids)
    query = torch.randn(1, 8, tokens, 64, device="cuda")
    key, value = torch.randn(2, 1, 2, tokens, 64, device="cuda")
    exact, _ = packed_attention(torch.nn.Identity(), query, key, value, None, layout=layout)
    fast, _ = packed_attention(torch.nn.Identity(), query.bfloat16(), key.bfloat16(), value.bfloat16(), None, layout=layout)
    assert fast.dtype == torch.bfloat16
    assert (exact - fast.float()).norm() / exact.norm() < 1e-2


def test_check_passes_on_the_kernels_of_the_gpu(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder))
    assert loaded.model.device.type == "cuda"
    check_isolation(loaded.model)


def test_training_loss_and_update_are_near_those_of_the_cpu(tiny_folder: Path) -> None:
    losses, weights = {}, {}
    for device in ("cpu", "cuda"):
        loaded = load_model(str(tiny_folder), device=device)
        settings = make_settings()
        model = prepare_for_training(loaded, settings)
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        optimizer = make_optimizer(model, settings)
        shares = share_out(PackedObjective(), EXAMPLES, settings)
        losses[device] = [train_step(model, optimizer, PackedObjective(), shares, settings, 1e-3)[0] for _ in range(5)]
        weights[device] = torch.cat([parameter.detach().cpu().flatten() for parameter in model.parameters()])
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-2)
    assert losses["cuda"][-1] < losses["cuda"][0]
    assert (weights["cuda"] - weights["cpu"]).norm() / weights["cpu"].norm() < 2e-2


def test_packed_loss_is_the_sum_of_separate_losses(tiny_folder: Path) -> None:
    model = prepare_for_training(load_model(str(tiny_folder)), make_settings())
    together = PackedObjective().loss(model, EXAMPLES).item()
    assert together == pytest.approx(sum(PackedObjective().loss(model, [one]).item() for one in EXAMPLES), rel=5e-3)


def test_compiled_layers_give_the_same_loss(tiny_folder: Path) -> None:
    plain = prepare_for_training(load_model(str(tiny_folder)), make_settings())
    compiled = prepare_for_training(load_model(str(tiny_folder)), make_settings(compile=True))
    for examples in (EXAMPLES, EXAMPLES[:2], EXAMPLES[2:]):
        assert PackedObjective().loss(compiled, examples).item() == pytest.approx(
            PackedObjective().loss(plain, examples).item(), rel=5e-3
        )


def test_scores_do_not_depend_on_the_batch_and_are_near_float32(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder))
    questions = [Question(one.prompt, [[7, 1], [9, 12, 1]], 4, frozenset({1})) for one in EXAMPLES]
    exact = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation=ATTENTION_NAME).cuda().eval()
    together = dict(answer_questions(loaded.model, questions))
    alone = {number: next(answer_questions(loaded.model, [question]))[1] for number, question in enumerate(questions)}
    reference = dict(answer_questions(exact, questions))
    for number in range(len(questions)):
        assert together[number].scores == pytest.approx(alone[number].scores, abs=5e-2)
        assert together[number].scores == pytest.approx(reference[number].scores, rel=2e-2)


def test_logits_are_computed_in_bfloat16(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder))
    batch = pack_segments([([5, 6, 7], [])]).to(loaded.model.device)
    assert packed_logits(loaded.model, batch).dtype == torch.bfloat16
