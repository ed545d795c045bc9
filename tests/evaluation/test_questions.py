"""Questions: exemplars before them, and how long an answer may become."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flanlab.data.encoding import Encoder
from flanlab.data.sources import load_rows
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup, plan_task
from flanlab.evaluation.questions import TaskQuestion, ask
from flanlab.models.answering import Model
from flanlab.tasks.schema import Split, Task
from tests.tiny import tiny_tasks


@pytest.fixture
def tasks(tmp_path: Path) -> tuple[Task, Task]:
    return tiny_tasks(tmp_path / "tasks")


def unit_of(task: Task, settings: EvaluationSettings, split: Split = "test") -> PlannedTask:
    return plan_task(task, load_rows(task, split), settings, 0, load_rows(task.exemplar_source, "train"))


def asked(
    task: Task, encoder: Encoder, shots: int, style: Any = "instruction", split: Split = "test", **more: Any
) -> list[TaskQuestion]:
    settings = EvaluationSettings(rows=5, shots=shots, **more)
    unit = unit_of(task, settings, split)
    setup = Setup(cast(Model, SimpleNamespace(encoder=encoder)), settings, 0, style)
    return [ask(setup, unit, row, template) for row, template in unit.pairs]


def text_of(one: TaskQuestion, encoder: Encoder) -> str:
    return encoder.decode(one.prompt)


def test_exemplars_stand_before_the_question_through_its_own_template(tasks: tuple[Task, Task], encoder: Encoder) -> None:
    comments, _ = tasks
    train = load_rows(comments, "train")
    for one in asked(comments, encoder, 2):
        assert len(one.exemplars) == len(set(one.exemplars)) == 2
        blocks = text_of(one, encoder)
        for index in one.exemplars:
            assert train[index]["text"] in blocks.removesuffix(one.example.prompt + "\n")
        assert blocks.endswith(f"\n\n{one.example.prompt}\n")
        assert blocks.count("OPTIONS:") == 3


def test_no_exemplar_changes_nothing_of_the_question(tasks: tuple[Task, Task], encoder: Encoder) -> None:
    counting = tasks[1]
    for one, plain in zip(asked(counting, encoder, 3), asked(counting, encoder, 0), strict=True):
        assert one.example == plain.example
        assert text_of(one, encoder).endswith(text_of(plain, encoder))
        assert plain.exemplars == ()


def test_exemplars_are_the_same_each_time_and_others_for_another_row(tasks: tuple[Task, Task], encoder: Encoder) -> None:
    first, again = asked(tasks[1], encoder, 3), asked(tasks[1], encoder, 3)
    assert first == again
    assert len({one.exemplars for one in first}) > 1


def test_the_question_is_never_its_own_exemplar(tasks: tuple[Task, Task], encoder: Encoder) -> None:
    for one in asked(tasks[1], encoder, 16, split="train"):
        assert one.example.row not in one.exemplars
        assert len(one.exemplars) > 8


def test_exemplars_stay_within_their_tokens_in_the_order_drawn(tasks: tuple[Task, Task], encoder: Encoder) -> None:
    comments, _ = tasks
    free = asked(comments, encoder, 8, shot_tokens=960)
    for all_of_them, one in zip(free, asked(comments, encoder, 8, shot_tokens=200), strict=True):
        assert len(one.prompt) <= 200
        assert one.exemplars == all_of_them.exemplars[: len(one.exemplars)]
        assert 0 < len(one.exemplars) < len(all_of_them.exemplars)


def test_in_a_dialogue_exemplars_are_turns(tasks: tuple[Task, Task], encoder: Encoder) -> None:
    one = asked(tasks[1], encoder, 2, style="chat")[0]
    text = text_of(one, encoder)
    assert text.count("<|user|>") == 3
    assert text.count("<|assistant|>") == 3
    assert text.endswith("<|assistant|>\n")


def test_a_generated_answer_is_bounded_by_the_longest_reference(tasks: tuple[Task, Task], encoder: Encoder) -> None:
    [longest] = encoder.encode("", ["10"]).answers
    assert {one.max_new_tokens for one in asked(tasks[1], encoder, 0)} == {len(longest) * 3 // 2 + 4}
    assert {one.max_new_tokens for one in asked(tasks[1], encoder, 0, new_tokens=2)} == {2}
