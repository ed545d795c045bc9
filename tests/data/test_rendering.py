from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlab.data.rendering import Example, PreparedRow, prepare_row, render, shorten_longest_field
from flanlab.tasks.schema import Task
from tests.task_files import generation_content, refusal, task_in_memory

ROW = {"text": "A fine day.", "label": 1}
CAPITAL = {"country": "Bolivia", "names": ["Sucre", "La Paz", "Sucre "]}


def example(task: Task, template: int = 1, row: Mapping[str, Any] = ROW, order: list[int] | None = None) -> Example:
    return render(task, template, prepare_row(task, row, 0), order)


def generation(**changes: Any) -> Task:
    return Task.model_validate(generation_content(**changes))


def test_a_forward_example() -> None:
    found = example(task_in_memory())
    assert found == Example(
        "reviews", "sentiment", 1, 0, "A fine day.\nIs this positive or negative?", "positive",
        ("negative", "positive"), 1, ("positive",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("order", "block"),
    [
        (None, ""),
        ([0, 1], "\n\nOPTIONS:\n- negative\n- positive"),
        ([1, 0], "\n\nOPTIONS:\n- positive\n- negative"),
    ],
)
def test_the_options_block_follows_the_order_and_changes_nothing_else(order: list[int] | None, block: str) -> None:
    found = example(task_in_memory(), order=order)
    assert found.prompt == "A fine day.\nIs this positive or negative?" + block
    assert (found.options, found.answer, found.target) == (("negative", "positive"), 1, "positive")


@pytest.mark.parametrize(("label", "word"), [(0, "bad"), (1, "good")])
def test_option_words_of_a_template_stand_for_the_tasks_by_position(label: int, word: str) -> None:
    found = example(task_in_memory(), 2, {**ROW, "label": label}, [1, 0])
    assert found.prompt == "Good or bad? A fine day.\n\nOPTIONS:\n- good\n- bad"
    assert (found.target, found.answer, found.options) == (word, label, ("bad", "good"))


def test_an_inverted_template_shows_the_answer_and_no_options() -> None:
    found = example(task_in_memory(), 3, order=[1, 0])
    assert found == Example(
        "reviews", "sentiment", 3, 0, "Write a positive review.", "A fine day.", references=("A fine day.",)
    )


def test_an_inverted_template_may_use_its_own_option_words() -> None:
    templates = [{"prompt": "{{ text }}"}, {
        "direction": "inverted", "prompt": "Write a {{ answer }} review.", "target": "{{ text }}", "options": ["poor", "great"],
    }]  # fmt: skip
    assert example(task_in_memory(templates=templates), 2).prompt == "Write a great review."


def test_options_of_each_row_are_trimmed_text() -> None:
    task = task_in_memory(options="{{ choices }}", templates=[{"prompt": "Which?"}], fields={})
    found = example(task, row={"choices": [" one", 2], "label": 1}, order=[1, 0])
    assert found.options == ("one", "2")
    assert found.target == "2"
    assert found.prompt == "Which?\n\nOPTIONS:\n- 2\n- one"
    assert prepare_row(task, {"choices": [1, 2, 3], "label": 1}, 0).options == ("1", "2", "3")


def test_lazy_expressions_give_options_to_every_template() -> None:
    task = task_in_memory(
        fields={"choices": "{{ raw | map('upper') }}"},
        options="{{ choices }}",
        templates=[{"prompt": "{{ choices | join(' or ') }}?"}] * 2,
    )
    row = prepare_row(task, {"raw": ["a", "b"], "label": 0}, 0)
    for number in (1, 2):
        assert render(task, number, row).prompt == "A or B?"
        assert render(task, number, row).options == ("A", "B")


def test_prompt_and_target_lose_blank_space_at_their_ends() -> None:
    templates = [{"prompt": "\n  {{ text }}\n\n", "target": " {{ answer }}\n"}]
    found = example(task_in_memory(templates=templates), order=[0, 1])
    assert found.prompt.startswith("A fine day.\n\nOPTIONS:")
    assert found.target == "positive"


def test_references_are_every_acceptable_answer_once() -> None:
    found = example(generation(), row=CAPITAL)
    assert (found.target, found.references) == ("Sucre", ("Sucre", "La Paz"))
    assert (found.options, found.answer) == ((), None)
    assert example(generation(references="{{ names | join }}"), row=CAPITAL).references == ("SucreLa PazSucre",)


@pytest.mark.parametrize("target", ["{{answer}}", "{{ answer }}\n", "{{- answer -}}"])
def test_a_target_that_is_the_answer_has_all_references_however_it_is_written(target: str) -> None:
    task = generation(templates=[{"prompt": "What is the capital of {{ country }}?", "target": target}])
    assert example(task, row=CAPITAL).references == ("Sucre", "La Paz")


def test_references_belong_to_the_tasks_own_direction() -> None:
    templates = [
        {"prompt": "What is the capital of {{ country }}?"},
        {"prompt": "Whose capital is {{ answer }}?", "target": "{{ country }}", "direction": "inverted"},
        {"prompt": "Name of a country?", "target": "{{ country }}"},
    ]
    task = generation(templates=templates)
    assert [example(task, number, CAPITAL).references for number in (1, 2, 3)] == [
        ("Sucre", "La Paz"), ("Bolivia",), ("Bolivia",),
    ]  # fmt: skip


def test_without_fields_columns_are_the_fields() -> None:
    task = task_in_memory(fields={}, templates=[{"prompt": "{{ text }} ({{ label }})"}])
    assert example(task).prompt == "A fine day. (1)"


def test_a_template_sees_no_column_that_is_not_a_field(make_task: Callable[..., Task]) -> None:
    task = make_task(fields={"body": "{{ text }}"}, templates=[{"prompt": "{{ body }}"}])
    changed = task.model_copy(update={"templates": [task.templates[0].model_copy(update={"prompt": "{{ label }}"})]})
    refusal(lambda: example(changed))


@pytest.mark.parametrize(
    ("changes", "row", "told"),
    [
        ({}, {"txet": "a", "label": 1}, "row 0, field text: 'text' is undefined"),
        ({}, {"text": "a"}, "row 0, answer: 'label' is undefined"),
        ({}, {"text": "a", "label": None}, "row 0, answer: [None] does not exist"),
        ({}, {"text": "a", "label": -1}, "row 0, answer: [-1] does not exist"),
        ({}, {"text": "a", "label": 2}, "row 0, answer: [2] does not exist: labels go from 0 to 1"),
        ({}, {"text": "a", "label": "1"}, "row 0, answer: ['1'] does not exist"),
        ({}, {"text": None, "label": 1}, "row 0, template 1, prompt: a value is missing (null)"),
        ({"templates": [{"prompt": "{{ text }}"}]}, {"text": "  ", "label": 1}, "row 0, template 1: the prompt is empty"),
        ({"answer": "{{ label }}"}, ROW, "row 0, template 1: the answer '1' is not among the options"),
        ({"templates": [{"prompt": "a", "target": "It is {{ answer }}"}]}, ROW, "'It is positive' is not one of the options"),
        ({"options": "{{ label }}"}, ROW, "row 0: `options` gives 1, which is not a list"),
        ({"options": "{{ text }}"}, ROW, "row 0: `options` gives 'A fine day.', which is not a list"),
        ({"options": "{{ ['a'] }}"}, ROW, "row 0: the options ['a'] must be at least two"),
        ({"options": "{{ ['a', 'a '] }}"}, ROW, "row 0: the options ['a', 'a'] must be at least two, all different"),
        ({"options": "{{ ['a', none] }}"}, ROW, "options ['a', ''] must be at least two, all different and not empty"),
        ({"options": "{{ [text, txet] }}"}, ROW, "row 0, options: 'txet' is undefined"),
        ({"fields": {"text": "{{ text.__class__.__mro__ }}"}}, ROW, "row 0, field text: refused by the sandbox"),
    ],
)  # fmt: skip
def test_faults_name_file_row_and_part(
    changes: dict[str, Any], row: dict[str, Any], told: str, make_task: Callable[..., Task]
) -> None:
    changes.setdefault("templates", [{"prompt": "{{ text }}?"}])
    task = make_task(**changes)
    message = refusal(lambda: example(task, row=row)).message
    assert str(task.path) in message
    assert told in message


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"country": "Bolivia", "names": []}, "answer"),
        ({"country": "Bolivia", "names": None}, "answer"),
        ({"country": "Bolivia", "names": [""]}, "the target is empty"),
        ({"country": "Bolivia", "names": [None]}, "the target is empty"),
    ],
)
def test_a_row_without_an_answer_is_refused(row: dict[str, Any], told: str) -> None:
    assert told in refusal(lambda: example(generation(), row=row)).message


@pytest.mark.parametrize("names", [None, 3, {"first": "Sucre"}])
def test_references_that_are_no_list_are_refused(names: Any) -> None:
    task = generation(answer="Sucre")
    assert "`references` gives" in refusal(lambda: example(task, row={"country": "a", "names": names})).message


LONG = {"text": "one two three " * 20, "note": "short words here", "label": 1}


def test_shortening_cuts_the_longest_field_at_a_word() -> None:
    task = task_in_memory(fields={"text": "{{ text }}", "note": "{{ note }}"})
    row = prepare_row(task, LONG, 0)
    shorter = shorten_longest_field(row, 50)
    assert shorter is not None
    assert shorter.shown["note"] == "short words here"
    cut = shorter.shown["text"]
    assert len(cut) <= len(LONG["text"]) - 50
    assert LONG["text"].startswith(cut + " ")
    assert row.shown == row.fields


@pytest.mark.parametrize("text", [100, 250, 300])
def test_what_one_field_cannot_give_two_can(text: int) -> None:
    task = task_in_memory(fields={"text": "{{ text }}", "note": "{{ note }}"})
    row: PreparedRow | None = prepare_row(task, {"text": "word " * text, "note": "note " * 250, "label": 1}, 0)
    rounds = 0
    while row is not None and (left := sum(len(value) for value in row.shown.values())) > 500:
        row, rounds = shorten_longest_field(row, left - 500), rounds + 1
    assert row is not None
    assert rounds < 12


def test_shortening_ends_and_never_leaves_a_stump() -> None:
    task = task_in_memory()
    row = prepare_row(task, {"text": "word " * 30, "label": 0}, 0)
    steps = 0
    while (shorter := shorten_longest_field(row, 9)) is not None:
        assert 30 < len(shorter.shown["text"]) <= len(row.shown["text"]) - 9
        row, steps = shorter, steps + 1
    assert steps > 3
    assert len(row.shown["text"]) < 49


@pytest.mark.parametrize("text", [" " * 80 + "words " * 10, "\n" * 60, "x" * 200, "", "中文" * 100])
def test_any_text_can_be_shortened_or_is_let_be(text: str) -> None:
    row = prepare_row(task_in_memory(), {"text": text, "label": 0}, 0)
    shorter = shorten_longest_field(row, 20)
    assert shorter is None or 0 < len(shorter.shown["text"]) <= len(text) - 20


@given(
    st.lists(st.text("aä -.", min_size=1, max_size=12), min_size=12, max_size=60).map(" ".join),
    st.integers(1, 60),
    st.sampled_from(["end", "middle"]),
)
def test_what_is_left_of_a_field_is_its_beginning_or_both_its_ends(text: str, characters: int, where: Any) -> None:
    whole = text.strip()
    row: PreparedRow | None = prepare_row(task_in_memory(), {"text": text, "label": 0}, 0)
    length = len(whole)
    while row is not None and (row := shorten_longest_field(row, characters, where)) is not None:
        shown = row.shown["text"]
        assert len(shown) <= length - characters
        length = len(shown)
        head, gap, tail = shown.partition(" [...] ")
        assert whole.startswith(head)
        assert bool(gap) == (where == "middle")
        if where == "middle":
            assert whole.endswith(tail)
            assert head
            assert tail
            assert "[...]" not in tail, "cut again, a text still has one gap"
        assert row.fields["text"] == text, "options and answer are still made from the whole"


def test_a_field_loses_words_of_its_middle() -> None:
    text = " ".join(f"word{number}" for number in range(20))
    row = shorten_longest_field(prepare_row(task_in_memory(), {"text": text, "label": 0}, 0), 60, "middle")
    assert row is not None
    assert row.shown["text"] == "word0 word1 word2 word3 word4 [...] word16 word17 word18 word19"


def test_without_text_nothing_can_be_shortened() -> None:
    task = task_in_memory(fields={"label": "{{ label }}"}, templates=[{"prompt": "{{ label }}"}])
    assert shorten_longest_field(prepare_row(task, ROW, 0), 1) is None


def test_shortening_changes_neither_answer_nor_options_nor_target() -> None:
    text = "It was the best of times, it was the worst of times, and nobody knew the end of it."
    task = task_in_memory(
        fields={"text": "{{ text }}"},
        options="{{ [text.split()[-1], text.split()[-2]] }}",
        answer="{{ text.split()[-1] }}",
        templates=[
            {"prompt": "Last word? {{ text }}"},
            {"direction": "inverted", "prompt": "{{ text }} Again, whole:", "target": "{{ text }}"},
        ],
    )
    shorter = shorten_longest_field(prepare_row(task, {"text": text}, 0), 30)
    assert shorter is not None
    found = render(task, 1, shorter)
    assert len(found.prompt) < len(text)
    assert (found.target, found.options) == ("it.", ("it.", "of"))
    assert render(task, 2, shorter).target == text


SEVERAL_RIGHT = {
    "options": "{{ names }}",
    "answer": "{{ right[0] }}",
    "references": "{{ right }}",
    "fields": {"text": "{{ text }}"},
    "templates": [{"prompt": "Who is meant? {{ text }}"}],
}


def test_several_options_may_be_right() -> None:
    row = {"text": "They left.", "names": ["Ann", "Ann Lee", "Bob"], "right": ["Ann Lee", "Ann"]}
    found = example(task_in_memory(**SEVERAL_RIGHT), row=row)
    assert (found.target, found.answer) == ("Ann Lee", 1)
    assert found.references == ("Ann Lee", "Ann")


def test_a_right_answer_that_is_no_option_is_refused() -> None:
    row = {"text": "They left.", "names": ["Ann", "Bob"], "right": ["Ann", "Carl"]}
    assert "'Carl' is not among the options" in refusal(lambda: example(task_in_memory(**SEVERAL_RIGHT), row=row)).message


def test_right_answers_follow_a_templates_own_words() -> None:
    task = task_in_memory(
        options=["yes", "no", "maybe"],
        answer="{{ right[0] }}",
        references="{{ right }}",
        templates=[{"prompt": "Is it so? {{ text }}", "options": ["It is", "It is not", "Who knows"]}],
    )
    assert example(task, row={"text": "They left.", "right": ["no", "maybe"]}).references == ("It is not", "Who knows")


def test_a_question_that_is_turned_into_its_opposite_has_one_right_answer() -> None:
    turned = "{{ 'negative' if answer == 'positive' else 'positive' }}"
    task = task_in_memory(templates=[{"prompt": "What is it not? {{ text }}", "target": turned}])
    found = example(task)
    assert (found.target, found.answer, found.references) == ("negative", 0, ("negative",))
