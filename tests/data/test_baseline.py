"""The baseline prompt: a text that the answer continues after one space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flanlab.data.encoding import TextEncoder
from flanlab.data.rendering import BASELINE, Example, prepare_row, render
from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task
from tests.task_files import REVIEWS, generation_content


def baseline_of(task: Task, row: dict[str, Any], order: list[int] | None = None) -> Example:
    return render(task, BASELINE, prepare_row(task, row, 0), order)


def test_it_says_the_answer_in_its_own_words_and_shows_no_options(make_task: Callable[..., Task]) -> None:
    task = make_task(baseline={"prompt": "Review: {{ text }}\nMood:", "options": ["bad", "good"]})
    example = baseline_of(task, REVIEWS[1], [1, 0])
    assert example.prompt == f"Review: {REVIEWS[1]['text']}\nMood:"
    assert (example.options, example.answer, example.target) == (("bad", "good"), 1, "good")
    assert example.template == BASELINE


def test_options_may_be_continuations_made_from_the_row(make_task: Callable[..., Task]) -> None:
    task = make_task(baseline={"prompt": "In one word, I am", "options": "{{ [text ~ ' sad', text ~ ' glad'] }}"})
    assert baseline_of(task, {"text": "so", "label": 0}).options == ("so sad", "so glad")


def test_as_many_options_as_the_task_has(make_task: Callable[..., Task]) -> None:
    task = make_task(baseline={"prompt": "{{ text }}", "options": "{{ [text, 'b', 'c'] }}"})
    with pytest.raises(FlanlabError, match="baseline: it has 3 options, but the task has 2"):
        baseline_of(task, REVIEWS[0])


def test_generation_keeps_its_references(make_task: Callable[..., Task]) -> None:
    task = make_task(**generation_content(baseline={"prompt": "The capital of {{ country }} is"}), options=None)
    example = baseline_of(task, {"country": "Ghana", "names": ["Accra", "Greater Accra"]})
    assert (example.target, example.references) == ("Accra", ("Accra", "Greater Accra"))


def test_a_task_without_one_says_so(make_task: Callable[..., Task]) -> None:
    with pytest.raises(FlanlabError, match="reviews has no baseline prompt"):
        baseline_of(make_task(), REVIEWS[0])


def test_the_space_is_the_answers_and_nothing_ends_the_prompt(encoder: TextEncoder) -> None:
    question = encoder.encode("Mood:", ["bad", "good"], "baseline")
    assert encoder.decode(question.prompt) == "Mood:"
    assert [encoder.decode(answer) for answer in question.answers] == [" bad", " good"]
    assert all(answer[-1] == encoder.end for answer in question.answers)
