from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import (
    Choice,
    Dropped,
    EncodedExample,
    Mixture,
    MixtureSettings,
    encode_within,
    examples_per_cycle,
    option_order,
)
from flanlab.data.rendering import prepare_row
from tests.task_files import refusal, rows_in_memory, task_in_memory

SIZES = {"few": 3, "some": 8, "many": 25}


def mixture(seed: int = 0, sizes: dict[str, int] = SIZES, **settings: Any) -> Mixture:
    tasks = [task_in_memory(name=name) for name in sizes]
    rows = {
        name: rows_in_memory([{"text": f"{name} {row}", "label": row % 2} for row in range(size)])
        for name, size in sizes.items()
    }
    return Mixture(tasks, rows, MixtureSettings(**{"maximum": 10, **settings}), seed)


def stream(found: Mixture, encoder: TextEncoder, positions: list[int]) -> dict[int, EncodedExample | Dropped]:
    return {position: found.examples([position], encoder)[0] for position in positions}


def drawn(found: Mixture, cycles: int) -> dict[str, list[tuple[int, int]]]:
    """For each task the (epoch, row) pairs of the first cycles, in order."""
    pairs: dict[str, list[tuple[int, int]]] = {task.name: [] for task in found.tasks}
    for position in range(cycles * found.cycle_length):
        address = found.addresses([position])[0]
        pairs[found.tasks[address.task].name].append((address.epoch, address.row))
    return pairs


def test_the_stream_is_pinned(encoder: TextEncoder) -> None:
    # What models are trained on: if this changes, runs can no longer be repeated. Change it knowingly or not at all.
    found = mixture(seed=7)
    shown = []
    for position in (0, 1, 2, 20, 21, 5_000, 1_000_000):
        at = found.examples([position], encoder)[0]
        assert isinstance(at, EncodedExample)
        epoch = found.addresses([position])[0].epoch
        shown.append((at.example.task, at.example.row, epoch, at.example.template, at.example.prompt.splitlines()[-1]))
    assert shown == [
        ("many", 0, 0, 1, "- positive"),
        ("some", 4, 0, 3, "Write a negative review."),
        ("some", 1, 0, 1, "- negative"),
        ("many", 19, 0, 2, "- good"),
        ("many", 12, 0, 3, "Write a negative review."),
        ("some", 4, 238, 1, "- positive"),
        ("many", 24, 19047, 1, "- positive"),
    ]


def test_the_same_for_any_order_of_access(encoder: TextEncoder) -> None:
    positions = list(range(4 * mixture().cycle_length))
    sequential = stream(mixture(), encoder, positions)
    assert stream(mixture(), encoder, positions[::-1]) == sequential
    shuffled = random.Random(3).sample(positions, len(positions))
    assert stream(mixture(), encoder, shuffled) == sequential
    assert all(mixture().examples([position], encoder)[0] == sequential[position] for position in shuffled[:10])


def test_workers_that_share_the_stream_see_what_one_would(encoder: TextEncoder) -> None:
    positions = list(range(60))
    workers = [stream(mixture(), encoder, positions[worker::3]) for worker in range(3)]
    assert {**workers[0], **workers[1], **workers[2]} == stream(mixture(), encoder, positions)


def test_another_seed_gives_another_stream(encoder: TextEncoder) -> None:
    positions = list(range(21))
    streams = [stream(mixture(seed), encoder, positions) for seed in (0, 1, 0)]
    assert streams[0] == streams[2]
    assert sum(streams[0][position] != streams[1][position] for position in positions) > 10
    orders = [[mixture(seed).addresses([position])[0].task for position in positions] for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_each_cycle_has_its_own_order() -> None:
    found = mixture()
    cycles = [
        [found.addresses([cycle * found.cycle_length + slot])[0].task for slot in range(found.cycle_length)]
        for cycle in range(3)
    ]
    assert cycles[0] != cycles[1] != cycles[2]
    assert sorted(cycles[0]) == sorted(cycles[1]) == sorted(cycles[2])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 30), st.integers(0, 3))
def test_a_cycle_holds_exactly_min_of_rows_and_maximum(sizes: list[int], maximum: int, cycle: int) -> None:
    found = mixture(sizes={f"task{number}": size for number, size in enumerate(sizes)}, maximum=maximum)
    start = cycle * found.cycle_length
    counts = Counter(found.addresses([start + slot])[0].task for slot in range(found.cycle_length))
    assert [counts[number] for number in range(len(sizes))] == [min(size, maximum) for size in sizes]
    assert found.cycle_counts == [min(size, maximum) for size in sizes]


@given(st.lists(st.integers(1, 25), min_size=1, max_size=4), st.integers(1, 30), st.integers(0, 9))
def test_every_row_is_shown_once_in_each_epoch(sizes: list[int], maximum: int, seed: int) -> None:
    found = mixture(seed, {f"task{number}": size for number, size in enumerate(sizes)}, maximum=maximum)
    for name, pairs in drawn(found, 6).items():
        size = sizes[int(name.removeprefix("task"))]
        epochs = Counter(epoch for epoch, _ in pairs)
        assert len(set(pairs)) == len(pairs)
        assert list(range(len(epochs))) == sorted(epochs)
        for epoch in range(len(epochs) - 1):
            assert epochs[epoch] == size
            assert {row for at, row in pairs if at == epoch} == set(range(size))
        if maximum <= size:
            # The draws of one cycle are an epoch's next rows: none is skipped when a cycle ends within an epoch.
            assert len(pairs) == 6 * maximum


def test_epochs_come_in_order_and_each_in_its_own_order_of_rows() -> None:
    pairs = drawn(mixture(), 6)["some"]
    assert len({epoch for epoch, _ in pairs}) == 6
    orders = [[row for at, row in sorted(pairs, key=lambda pair: pair[0]) if at == epoch] for epoch in range(6)]
    assert len({tuple(order) for order in orders}) == 6


def test_consecutive_epochs_show_a_row_through_other_templates(encoder: TextEncoder) -> None:
    found = mixture(sizes={"few": 4, "some": 6})
    seen: dict[tuple[str, int], dict[int, int]] = {}
    for position in range(9 * found.cycle_length):
        at = found.examples([position], encoder)[0]
        assert isinstance(at, EncodedExample)
        seen.setdefault((at.example.task, at.example.row), {})[found.addresses([position])[0].epoch] = at.example.template
    assert len(seen) == 10
    for templates in seen.values():
        for first in (0, 3, 6):
            assert {templates[epoch] for epoch in range(first, first + 3)} == {1, 2, 3}
    # Rows do not go through the templates in step.
    assert len({tuple(templates[epoch] for epoch in range(9)) for templates in seen.values()}) > 5


def test_without_inverted_templates_only_forward_ones_are_shown(encoder: TextEncoder) -> None:
    found = mixture(inverted=False)
    templates = {
        at.example.template
        for position in range(60)
        if isinstance(at := found.examples([position], encoder)[0], EncodedExample)
    }
    assert templates == {1, 2}


@pytest.mark.parametrize("count", [1, 2, 50])
def test_templates_per_task_counts_forward_ones_and_leaves_inverted_ones_alone(count: int, encoder: TextEncoder) -> None:
    shown: dict[int | None, set[int]] = {}
    [task] = mixture(sizes={"one": 20}).tasks
    forward = set(task.forward_templates())
    for limit in (count, count + 1, None):
        found = mixture(sizes={"one": 20}, templates_per_task=limit)
        examples = stream(found, encoder, list(range(10 * found.cycle_length))).values()
        shown[limit] = {example.example.template for example in examples if isinstance(example, EncodedExample)}
    assert shown[None] == set(range(1, len(task.templates) + 1))
    assert len(shown[count] & forward) == min(count, len(forward))
    assert shown[count] <= shown[count + 1]
    assert shown[count] - forward == shown[None] - forward != set()


def test_instructions_leave_the_stream_but_for_the_templates(encoder: TextEncoder) -> None:
    full, bare = mixture(), mixture(instructions="none", options="none")
    for position in range(full.cycle_length):
        ours, theirs = full.examples([position], encoder)[0], bare.examples([position], encoder)[0]
        assert isinstance(ours, EncodedExample)
        assert isinstance(theirs, EncodedExample)
        assert full.addresses([position])[0] == bare.addresses([position])[0]
        assert theirs.example.prompt == f"{theirs.example.task} {theirs.example.row}"


def test_the_train_cap_chooses_rows_once_and_for_all() -> None:
    found = mixture(train_cap=5, maximum=100)
    assert found.row_counts == [3, 5, 5]
    pairs = drawn(found, 4)["many"]
    rows = {row for _, row in pairs}
    assert len(rows) == 5
    assert rows != set(range(5))
    assert all({row for epoch, row in pairs if epoch == at} == rows for at in range(4))
    assert {row for _, row in drawn(mixture(1, train_cap=5, maximum=100), 4)["many"]} != rows


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.integers(1, 10**5))
def test_at_temperature_one_rates_are_exact(counts: list[int], maximum: int) -> None:
    assert examples_per_cycle(counts, maximum, 1.0) == [min(count, maximum) for count in counts]


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=20), st.integers(1, 10**5), st.floats(1, 50))
def test_temperature_keeps_order_and_total_and_lifts_the_small(counts: list[int], maximum: int, temperature: float) -> None:
    plain, warm = examples_per_cycle(counts, maximum, 1.0), examples_per_cycle(counts, maximum, temperature)
    assert all(count >= 1 for count in warm)
    assert abs(sum(warm) - sum(plain)) <= len(counts)
    order = sorted(range(len(counts)), key=plain.__getitem__)
    assert all(warm[small] <= warm[big] for small, big in itertools.pairwise(order))
    assert warm[order[0]] >= plain[order[0]] - 1


def test_temperature_is_a_power_of_the_rate() -> None:
    assert examples_per_cycle([100, 10_000, 40_000], 10_000, 2.0) == [957, 9571, 9571]
    found = mixture(temperature=1_000.0, maximum=30)
    assert found.cycle_counts == [12, 12, 12]
    assert all(len({row for _, row in pairs}) == SIZES[name] for name, pairs in drawn(found, 3).items())


def test_option_orders() -> None:
    assert option_order("none", 3, (0,)) is None
    assert option_order("fixed", 3, (0,)) == [0, 1, 2]
    orders = Counter(tuple(option_order("shuffled", 3, (0, row)) or ()) for row in range(600))
    assert len(orders) == 6
    assert all(60 < count < 140 for count in orders.values())


@pytest.mark.parametrize(
    ("mode", "blocks"), [("none", {0: 0}), ("fixed", {1: 1}), ("shuffled", {1: 2})]
)  # fmt: skip
def test_the_options_setting_reaches_the_prompt(mode: str, blocks: dict[int, int], encoder: TextEncoder) -> None:
    found = mixture(options=mode, inverted=False, sizes={"one": 20})
    endings = set()
    for position in range(100):
        at = found.examples([position], encoder)[0]
        assert isinstance(at, EncodedExample)
        assert at.example.prompt.count("OPTIONS:") == next(iter(blocks))
        if at.example.template == 1:
            endings.add(at.example.prompt.partition("OPTIONS:")[2])
    assert len(endings) == max(next(iter(blocks.values())), 1)


def test_the_tokens_are_those_of_the_encoder(encoder: TextEncoder) -> None:
    for position in range(20):
        at = mixture().examples([position], encoder)[0]
        assert isinstance(at, EncodedExample)
        assert (at.prompt, at.target) == encoder.encode_pair(at.example.prompt, at.example.target)
        assert at.length == len(at.prompt) + len(at.target)
        assert at.target[-1] == encoder.end
        assert not at.shortened


TASK = task_in_memory()


def within(text: str, encoder: TextEncoder, prompt_tokens: int, target_tokens: int = 50, template: int = 1) -> Any:
    choice = Choice(TASK, template, prepare_row(TASK, {"text": text, "label": 1}, 4), [1, 0])
    [found] = encode_within([choice], encoder, prompt_tokens, target_tokens)
    return found


@pytest.mark.parametrize("prompt_tokens", [100, 120, 200, 400])
def test_a_long_prompt_loses_the_end_of_its_field_and_nothing_else(prompt_tokens: int, encoder: TextEncoder) -> None:
    text = "The room was large and the bed was soft, though the lift was out of order. " * 12
    at = within(text, encoder, prompt_tokens)
    assert isinstance(at, EncodedExample)
    assert at.shortened
    assert len(at.prompt) <= prompt_tokens
    field, instruction = at.example.prompt.split("\nIs this positive or negative?")
    assert text.startswith(field)
    assert instruction == "\n\nOPTIONS:\n- positive\n- negative"
    assert at.example.target == "positive"


def test_a_prompt_that_cannot_be_shortened_is_dropped(encoder: TextEncoder) -> None:
    assert within("Short text.", encoder, 10) == Dropped("reviews", 4, 1, "prompt too long")


def test_a_long_target_is_dropped_and_never_cut(encoder: TextEncoder) -> None:
    text = "The room was large and the bed was soft. " * 20
    assert within(text, encoder, 100, 50, template=3) == Dropped("reviews", 4, 3, "target too long")
    whole = within(text, encoder, 100, 2_000, template=3)
    assert whole.example.target == text.strip()


def test_the_target_limit_is_exact(encoder: TextEncoder) -> None:
    length = len(encoder.encode_pair("a", "positive")[1])
    assert isinstance(within("Fine.", encoder, 500, length), EncodedExample)
    assert isinstance(within("Fine.", encoder, 500, length - 1), Dropped)


def test_mean_length(encoder: TextEncoder) -> None:
    found = mixture()
    lengths = [at.length for at in stream(found, encoder, list(range(21))).values() if isinstance(at, EncodedExample)]
    assert found.mean_length(encoder) == pytest.approx(sum(lengths) / 21)
    assert found.mean_length(encoder, sample=5) == pytest.approx(sum(lengths[:5]) / 5)
    assert "limits" in refusal(lambda: mixture(target_tokens=1).mean_length(encoder)).message


def test_no_task_is_refused() -> None:
    assert "No task" in refusal(lambda: Mixture([], {}, MixtureSettings(), 0)).message
