"""The functions behind the tabs, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

import flanlab as fl
from flanlab.data.rendering import prepare_row
from flanlab.errors import FlanlabError
from flanlab.experiments.ask import ask
from flanlab.tasks.loading import load_task
from flanlab.ui import editor_tab, tasks_tab, try_tab
from flanlab.ui.workplace import SHOWN_CHARACTERS, Workplace, number_in, short
from tests.ui.conftest import HUGE

FORM = {
    "task": "visitor_comments",
    "template": "1",
    "prompt": "{{ comment }}\nDid the writer like it?",
    "target": "{{ answer }}",
    "direction": "forward",
    "options": "no\nyes",
    "row": "0",
    "split": "train",
}


def test_tasks_are_found_by_words_and_cluster(workplace: Workplace) -> None:
    tasks = workplace.tasks.values()
    assert [task.name for task in tasks_tab.search(tasks, "Visitor-comments")] == ["visitor_comments"]
    sentiment = [task.name for task in tasks_tab.search(tasks, cluster="sentiment")]
    assert sentiment == ["hostile", "product_reviews", "visitor_comments"]
    assert tasks_tab.search(tasks, "visitor", "translation") == []


def test_a_row_is_shown_through_all_templates(workplace: Workplace) -> None:
    task = workplace.task("visitor_comments")
    _, rows = workplace.rows(task)
    shown = tasks_tab.through_all_templates(task, prepare_row(task, rows[3], 3))
    assert [one.number for one in shown if one.number] == list(range(1, len(task.templates) + 1))
    for one in shown:
        example = task.render(row=3, template=one.number)
        assert (one.prompt, one.target, one.fault) == (example.prompt, example.target, None)


def test_a_template_that_cannot_be_filled_in_says_so_beside_the_others(workplace: Workplace) -> None:
    whole = workplace.task("visitor_comments")
    task, _ = editor_tab.with_template(whole, 2, {"prompt": "{{ comment.nothing }}"})
    _, rows = workplace.rows(task)
    faults = [one.fault is not None for one in tasks_tab.through_all_templates(task, prepare_row(task, rows[0], 0))]
    assert faults[:3] == [False, True, False]


def test_a_task_page_tells_lineage_licence_metrics_and_the_next_row(workplace: Workplace) -> None:
    page = tasks_tab.task_page(workplace, {"task": "visitor_comments", "row": "2"})
    for text in ("nothing: declared", "CC0-1.0", "accuracy", "row=3", "row=1"):
        assert text in page


@pytest.mark.parametrize("place", ["task", "editor", "try"])
def test_hostile_texts_of_any_length_show_as_text(workplace: Workplace, place: str) -> None:
    pages = {"task": tasks_tab.task_page, "editor": editor_tab.editor_page, "try": try_tab.try_page}
    fields = {"task": "hostile", "template": "1"}
    if place == "try":
        fields["row"] = "1"
    page = pages[place](workplace, fields)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert len(page) < 100_000


def test_long_texts_lose_their_middle_and_say_how_much() -> None:
    text = short(HUGE)
    assert text.startswith(HUGE[:100])
    assert text.endswith("and so on")
    assert f"{len(HUGE) - SHOWN_CHARACTERS:,} characters more" in text
    assert short("x" * SHOWN_CHARACTERS) == "x" * SHOWN_CHARACTERS


@pytest.mark.parametrize("value", ["-1", "1.5", "x", "9" * 40])
def test_a_row_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(FlanlabError, match="no whole number"):
        number_in({"row": value}, "row")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "nowhere"}, "no task `nowhere`"),
        ({"task": "visitor_comments", "row": "40"}, "rows 0 to 39"),
        ({"task": "visitor_comments", "split": "all"}, "no split `all`"),
    ],
)
def test_what_is_not_there_is_told(workplace: Workplace, fields: dict[str, str], message: str) -> None:
    with pytest.raises(FlanlabError, match=message) as raised:
        editor_tab.preview_part(workplace, {**FORM, **fields})
    assert raised.value.hint


def test_a_template_is_changed_or_added(workplace: Workplace) -> None:
    task = workplace.task("visitor_comments")
    changed, number = editor_tab.with_template(task, 2, FORM)
    assert number == 2
    assert changed.templates[1].prompt == FORM["prompt"]
    assert changed.templates[1].options == ["no", "yes"]
    assert [one for place, one in enumerate(changed.templates) if place != 1] == [
        one for place, one in enumerate(task.templates) if place != 1
    ]
    added, number = editor_tab.with_template(task, 0, {**FORM, "direction": "inverted", "prompt": "Write {{ answer }}."})
    assert number == len(task.templates) + 1
    assert added.templates[:-1] == task.templates
    assert added.templates[-1].direction == "inverted"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "{{ comment "}, "not valid jinja2"),
        ({"prompt": "{{ label }}"}, "no field"),
        ({"prompt": "{{ answer }}"}, "may not contain the answer"),
        ({"options": "yes"}, "at least two options"),
        ({"options": "a\nb\nc"}, "must match the task's fixed list"),
        ({"template": "99"}, "templates 1 to"),
    ],
)
def test_a_faulty_template_is_refused_with_a_hint(workplace: Workplace, changes: dict[str, str], message: str) -> None:
    with pytest.raises(FlanlabError, match=message) as raised:
        editor_tab.preview_part(workplace, {**FORM, **changes})
    assert raised.value.hint


def test_the_preview_renders_rows_counts_tokens_and_shows_findings(workplace: Workplace) -> None:
    task, number = editor_tab.with_template(workplace.task("visitor_comments"), 1, FORM)
    split, rows = workplace.rows(task, "train")
    encoder = workplace.encoder(workplace.models[0])
    shown = editor_tab.previews(task, number, rows, 5, encoder)
    assert [one.row for one in shown] == [5, 6, 7]
    first = shown[0]
    assert first.prompt == f"{rows[5]['comment']}\nDid the writer like it?\n\nOPTIONS:\n- no\n- yes"
    prompt, target = encoder.encode_pair(first.prompt, first.target)
    assert (first.prompt_tokens, first.target_tokens) == (len(prompt), len(target))
    assert editor_tab.findings(task, number, split, rows, None) == []
    silent, number = editor_tab.with_template(task, 1, {"prompt": "Did the writer like it?"})
    assert {one.template for one in editor_tab.findings(silent, number, split, rows, None)} == {number}


def test_both_versions_are_scored_as_anywhere_else(workplace: Workplace) -> None:
    before = workplace.task("visitor_comments")
    task, number = editor_tab.with_template(before, 1, FORM)
    _, rows = workplace.rows(task, "train")
    with workplace.model(workplace.models[0]) as model:
        scored = editor_tab.score_versions(model, before, task, number, rows)
        assert len(scored) == editor_tab.SCORED_ROWS
        for one in scored[:4]:
            for version in (one.before, one.after):
                assert version is not None
                table = fl.score(model, version.prompt, [ranked.option for ranked in version.ranked])
                assert [ranked.option for ranked in version.ranked] == table.column("option")
                assert [ranked.probability for ranked in version.ranked] == pytest.approx(table.column("probability"), abs=1e-4)
                assert version.right == version.ranked[0].is_right
    assert scored[0].before is not None
    assert {ranked.option for ranked in scored[0].after.ranked} == {"no", "yes"}
    assert scored[0].before.row == scored[0].after.row


def test_a_new_template_has_no_version_before_and_an_inverted_one_is_not_scored(workplace: Workplace) -> None:
    before = workplace.task("visitor_comments")
    task, number = editor_tab.with_template(before, 0, FORM)
    _, rows = workplace.rows(task, "train")
    with workplace.model(workplace.models[0]) as model:
        assert {one.before for one in editor_tab.score_versions(model, before, task, number, rows)} == {None}
        with pytest.raises(FlanlabError, match="inverted template is not scored"):
            editor_tab.score_versions(model, before, before, len(before.templates), rows)


def test_a_saved_task_reads_its_old_rows_and_names_what_it_comes_from(workplace: Workplace) -> None:
    editor_tab.save_part(workplace, {**FORM, "name": "mine"})
    saved = load_task(workplace.save_to / "mine.yaml")
    assert saved.templates[0].prompt == FORM["prompt"]
    assert "visitor_comments" in saved.derived_from
    old, new = (list(workplace.rows(workplace.task(name), "test")[1]) for name in ("visitor_comments", "mine"))
    assert [dict(row) for row in new] == [dict(row) for row in old]
    assert "visitor_comments" in workplace.ancestors["mine"]
    # One's own may be saved again; and read again by an app that is started later.
    editor_tab.save_part(workplace, {**FORM, "task": "mine", "name": "mine", "prompt": "{{ comment }} Well?"})
    assert load_task(workplace.save_to / "mine.yaml").templates[0].prompt == "{{ comment }} Well?"


def test_a_task_is_saved_without_a_template(workplace: Workplace) -> None:
    before = workplace.task("visitor_comments").templates
    editor_tab.save_part(workplace, {**FORM, "template": "2", "name": "mine", "action": "delete"})
    assert load_task(workplace.save_to / "mine.yaml").templates == [before[0], *before[2:]]


@pytest.mark.parametrize("name", ["../mine", "/tmp/mine", "Mine", "", "a/b", "mine.yaml", "mine\n"])
def test_nothing_is_saved_outside_the_folder(workplace: Workplace, name: str) -> None:
    with pytest.raises(FlanlabError, match="name of a task"):
        editor_tab.save_part(workplace, {**FORM, "name": name})
    assert not workplace.save_to.exists()


def test_a_file_of_another_task_is_not_written_over(workplace: Workplace) -> None:
    with pytest.raises(FlanlabError, match="exists already"):
        editor_tab.save_part(workplace, {**FORM, "name": "visitor_comments"})
    workplace.save_to.mkdir()
    (workplace.save_to / "notes.yaml").write_text("my notes", encoding="utf-8")
    with pytest.raises(FlanlabError, match="exists already"):
        editor_tab.save_part(workplace, {**FORM, "name": "notes"})
    assert (workplace.save_to / "notes.yaml").read_text(encoding="utf-8") == "my notes"


def test_trying_shows_what_ask_gives(workplace: Workplace) -> None:
    name = workplace.models[0]
    task = workplace.task("visitor_comments")
    row = {"comment": "We loved it."}
    with workplace.model(name) as model:
        expected = ask(model, task=task, row=row, template=1)
    page = try_tab.answer_part(workplace, {"task": task.name, "template": "1", "model": name, "column:comment": row["comment"]})
    best = expected.options[0]
    assert f">{best.option}<" in page.replace("</span>", "<").replace("<span>", ">")
    assert f'value="{best.probability:.4f}"' in page
    assert "We loved it." in page


def test_columns_are_given_with_a_rows_values_and_may_be_changed(workplace: Workplace) -> None:
    task = workplace.task("hostile")
    _, rows = workplace.rows(task)
    assert try_tab.needed_columns(task, 1, prepare_row(task, rows[1], 1)) == [try_tab.Given("text", "It was fine.", False)]
    assert try_tab.given_values({"column:a": "x", "column:b": "[1]", "json:b": "yes", "other": "y"}) == {"a": "x", "b": [1]}
    with pytest.raises(FlanlabError, match="`b` is not valid JSON"):
        try_tab.given_values({"column:b": "[1", "json:b": "yes"})


@pytest.mark.parametrize("model", ["", "some/other"])
def test_only_the_models_named_at_the_start_are_loaded(workplace: Workplace, model: str) -> None:
    with pytest.raises(FlanlabError, match="model"):
        try_tab.answer_part(workplace, {"question": "Hello?", "model": model})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    from flanlab.ui.setup import open_workplace

    with pytest.raises(FlanlabError, match=r"results\.json"):
        open_workplace([tmp_path], [], ["sampler"], None, tmp_path)
