"""The arms of a mixture: with or without OPTIONS, after any number of exemplars."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from flanlab.data import exemplars as exemplars_module
from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import EncodedExample, Mixture, MixtureSettings
from flanlab.data.mixture_card import describe_mixture, export_mixture
from flanlab.data.sources import Rows
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup
from flanlab.evaluation.questions import ask
from flanlab.progress import meter
from flanlab.tasks.schema import Task
from tests.task_files import generation_content, rows_in_memory, task_in_memory

SHOTS = {0: 0.5, 1: 0.3, 4: 0.2}


def mixture(rows: int = 40, seed: int = 0, **settings: Any) -> Mixture:
    tasks = [task_in_memory(), Task.model_validate(generation_content())]
    tables = {
        "reviews": rows_in_memory([{"text": f"Review number {row}.", "label": row % 2} for row in range(rows)]),
        "capitals": rows_in_memory([{"country": f"Land {row}", "names": [f"City {row}"]} for row in range(rows)]),
    }
    return Mixture(tasks, tables, MixtureSettings(**settings), seed)


def examples(found: Mixture, encoder: TextEncoder, count: int) -> list[EncodedExample]:
    return [one for one in found.examples(range(count), encoder) if isinstance(one, EncodedExample)]


def test_options_are_shown_in_their_share_of_the_examples(encoder: TextEncoder) -> None:
    found = [one for one in examples(mixture(500, options="mixed", options_share=0.3), encoder, 1000) if one.example.options]
    assert all(one.options_shown == ("OPTIONS:" in one.example.prompt) for one in found)
    share = sum(one.options_shown for one in found) / len(found)
    assert share == pytest.approx(0.3, abs=0.07)  # three standard deviations


def test_the_choice_is_drawn_again_in_each_epoch(encoder: TextEncoder) -> None:
    shown: dict[int, set[bool]] = {}
    for one in examples(mixture(8, options="mixed"), encoder, 8 * 2 * 12):
        if one.example.options:
            shown.setdefault(one.example.row, set()).add(one.options_shown)
    assert all(both == {True, False} for both in shown.values())


@pytest.mark.parametrize(("share", "alike"), [(1.0, "shuffled"), (0.0, "none")])
def test_mixed_at_its_ends_is_one_of_the_others(share: float, alike: str, encoder: TextEncoder) -> None:
    assert examples(mixture(options="mixed", options_share=share), encoder, 80) == examples(mixture(options=alike), encoder, 80)


def test_numbers_of_exemplars_have_their_shares(encoder: TextEncoder) -> None:
    found = examples(mixture(500, shots=SHOTS), encoder, 1000)
    counts = Counter(len(one.exemplars.rows) for one in found)
    for number, share in SHOTS.items():
        assert counts[number] / len(found) == pytest.approx(share, abs=0.05)
    assert set(counts) == set(SHOTS)


def test_arms_follow_from_the_position_alone(encoder: TextEncoder) -> None:
    found = mixture(shots=SHOTS, options="mixed")
    in_order = found.examples(range(60), encoder)
    backwards = [found.examples([position], encoder)[0] for position in reversed(range(60))]
    assert in_order == backwards[::-1]


def test_exemplars_are_other_rows_through_the_same_template(encoder: TextEncoder) -> None:
    found = mixture(12, shots={8: 1.0})
    inverted = 0
    for one in examples(found, encoder, 24 * 3):
        rows = found.rows[one.example.task]
        assert len(one.exemplars.rows) == len(set(one.exemplars.rows)) == 8
        assert one.example.row not in one.exemplars.rows
        for row, (prompt, target) in zip(one.exemplars.rows, one.exemplars.texts, strict=True):
            [name] = {"text", "country"} & set(rows[row])
            assert rows[row][name] in prompt + target
        is_inverted = one.example.template == 3
        inverted += is_inverted
        assert all(prompt.startswith("Write a ") == is_inverted for prompt, _ in one.exemplars.texts)
    assert inverted


def test_equal_rows_are_not_exemplars_of_each_other(encoder: TextEncoder) -> None:
    task = task_in_memory()
    rows = rows_in_memory([{"text": "Twice.", "label": 1}, {"text": "Twice.", "label": 1}, {"text": "Once.", "label": 0}])
    found = Mixture([task], {"reviews": rows}, MixtureSettings(shots={2: 1.0}), 0)
    assert {one.exemplars.rows for one in examples(found, encoder, 12) if one.example.row < 2} == {(2,)}


def test_only_rows_that_may_train_are_exemplars(encoder: TextEncoder) -> None:
    found = mixture(50, train_cap=6, shots={5: 1.0})
    trained: dict[str, set[int]] = {"reviews": set(), "capitals": set()}
    shown: dict[str, set[int]] = {"reviews": set(), "capitals": set()}
    for one in examples(found, encoder, 36):
        trained[one.example.task].add(one.example.row)
        shown[one.example.task].update(one.exemplars.rows)
    assert trained == shown
    assert all(len(rows) == 6 for rows in trained.values())


def test_exemplars_show_options_where_the_question_does(encoder: TextEncoder) -> None:
    for one in examples(mixture(options="mixed", shots={3: 1.0}), encoder, 80):
        assert all(("OPTIONS:" in prompt) == one.options_shown for prompt, _ in one.exemplars.texts)


def test_as_many_exemplars_as_fit(encoder: TextEncoder) -> None:
    free = examples(mixture(shots={16: 1.0}, shot_tokens=3000, prompt_tokens=3000), encoder, 40)
    counts = set()
    for settings in ({"shot_tokens": 300}, {"prompt_tokens": 300}):
        for all_of_them, one in zip(free, examples(mixture(shots={16: 1.0}, **settings), encoder, 40), strict=True):
            count = len(one.exemplars.rows)
            counts.add(count)
            assert len(all_of_them.exemplars.rows) == 16
            assert one.exemplars.rows == all_of_them.exemplars.rows[:count]
            assert len(one.prompt) <= 300
            longer = encoder.encode(
                one.example.prompt, [one.example.target], "instruction", all_of_them.exemplars.texts[: count + 1]
            )
            assert count == 16 or len(longer.prompt) > 300
    assert len(counts) > 1


@pytest.mark.parametrize("options", ["fixed", "none"])
def test_training_writes_exemplars_as_evaluation_does(
    options: Any, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both draw by keys of their own; given the same draws, the tokens are the same.
    monkeypatch.setattr(exemplars_module, "choose", lambda length, key: (7 * key[-1] + key[2]) % length)
    found = mixture(shots={4: 1.0}, options=options, inverted=False)
    setup = Setup(cast(Any, SimpleNamespace(encoder=encoder)), EvaluationSettings(shots=4, options=options), 0)
    units = {
        task.name: PlannedTask(task, found.rows[task.name], [(row, 1) for row in range(40)], _in_drawing_order(found, task))
        for task in found.tasks
    }
    for one in examples(found, encoder, 80):
        name = one.example.task
        asked = ask(setup, units[name], one.example.row, one.example.template)
        assert len(asked.exemplars) == 4
        assert asked.prompt == one.prompt
        if one.example.answer is not None:
            assert asked.options[one.example.answer] == one.target


def _in_drawing_order(found: Mixture, task: Task) -> Rows:
    """The rows in the order in which training numbers its draws."""
    rows, indices = found._pool(task)
    return rows_in_memory([dict(rows[int(index)]) for index in indices])


def test_card_export_and_training_agree(encoder: TextEncoder, tmp_path: Path) -> None:
    plain = mixture(30, options="mixed", shots=SHOTS)
    card = describe_mixture(plain, encoder, 60)
    with meter("", 60) as bar:
        export_mixture(plain, encoder, 60, tmp_path / "mixture.parquet", bar)
    exported = pq.read_table(tmp_path / "mixture.parquet").to_pylist()
    in_training = plain.examples(range(60), encoder)
    for record, one in zip(exported, in_training, strict=True):
        assert isinstance(one, EncodedExample)
        assert encoder.encode_pair(record["prompt"], record["target"]) == (one.prompt, one.target)
        assert (record["options_shown"], tuple(record["exemplars"])) == (one.options_shown, one.exemplars.rows)
    assert card["options_shown"] == sum(record["options_shown"] for record in exported)
    assert card["exemplars"] == {
        str(number): count for number, count in sorted(Counter(len(record["exemplars"]) for record in exported).items())
    }
    assert card["options_shown"] == sum(entry["options_shown"] for entry in card["tasks"].values())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"shots": {0: 0.5, 4: 0.4}}, "add up to 0.9"),
        ({"shots": {17: 1.0}}, "less than or equal to 16"),
        ({"shots": {0: 1.5, 4: -0.5}}, "greater than or equal to 0"),
        ({"shots": {}}, "add up to 0"),
        ({"options_share": 1.5}, "less than or equal to 1"),
        ({"options": "sorted"}, "mixed"),
    ],
)
def test_arms_that_make_no_sense_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        MixtureSettings(**settings)
