"""The functions behind the tabs, without a browser."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import torch

import flanlab as fl
from flanlab.data.rendering import prepare_row
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.experiments.ask import ask
from flanlab.tasks.loading import load_collections, load_task
from flanlab.ui import editor_tab, edits, tasks_tab, try_tab
from flanlab.ui.workplace import SHOWN_CHARACTERS, Workplace, number_in, short
from tests.task_files import REVIEWS, task_content, write_task_file
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
    shown = tasks_tab.through_all_templates(task, rows, 3)
    assert [one.template for one in shown if one.template] == list(range(1, len(task.templates) + 1))
    for one in shown:
        example = task.render(row=3, template=one.template)
        assert (one.prompt, one.target, one.fault) == (example.prompt, example.target, None)


def test_a_template_that_cannot_be_filled_in_says_so_beside_the_others(workplace: Workplace) -> None:
    whole = workplace.task("visitor_comments")
    task, _ = edits.edited(whole, 2, {"prompt": "{{ comment.nothing }}"})
    _, rows = workplace.rows(task)
    faults = [one.fault is not None for one in tasks_tab.through_all_templates(task, rows, 0)]
    assert faults[:3] == [False, True, False]


def test_a_task_page_tells_lineage_licence_metrics_and_the_next_row(workplace: Workplace) -> None:
    page = tasks_tab.task_page(workplace, {"task": "visitor_comments", "row": "2"})
    for text in ("no other data set that it declares", "CC0-1.0", "accuracy", "row=3", "row=1"):
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
    changed, number = edits.edited(task, 2, FORM)
    assert number == 2
    assert changed.templates[1].prompt == FORM["prompt"]
    assert changed.templates[1].options == ["no", "yes"]
    assert [one for place, one in enumerate(changed.templates) if place != 1] == [
        one for place, one in enumerate(task.templates) if place != 1
    ]
    added, number = edits.edited(task, 0, {**FORM, "direction": "inverted", "prompt": "Write {{ answer }}."})
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
    task, number = edits.edited(workplace.task("visitor_comments"), 1, FORM)
    split, rows = workplace.rows(task, "train")
    encoder = workplace.encoder(workplace.models[0])
    shown = editor_tab.previews(task, number, rows, 5, encoder)
    assert [one.row for one in shown] == [5, 6, 7]
    first = shown[0]
    assert first.prompt == f"{rows[5]['comment']}\nDid the writer like it?\n\nOPTIONS:\n- no\n- yes"
    prompt, target = encoder.encode_pair(first.prompt, first.target)
    assert first.tokens == [len(prompt), len(target)]
    assert editor_tab.findings(task, number, split, rows, None) == []
    silent, number = edits.edited(task, 1, {"prompt": "Did the writer like it?"})
    assert {one.template for one in editor_tab.findings(silent, number, split, rows, None)} == {number}


def test_both_versions_are_scored_as_anywhere_else(workplace: Workplace) -> None:
    before = workplace.task("visitor_comments")
    task, number = edits.edited(before, 1, FORM)
    _, rows = workplace.rows(task, "train")
    with workplace.model(workplace.models[0]) as model:
        scored = editor_tab.score_versions(model, before, task, number, rows)
        assert len(scored) == editor_tab.SCORED_ROWS
        for pair in scored[:4]:
            for version in pair:
                assert version is not None
                table = fl.score(model, version.prompt, [ranked.option for ranked in version.ranked])
                assert [ranked.option for ranked in version.ranked] == table.column("option")
                assert [ranked.probability for ranked in version.ranked] == pytest.approx(table.column("probability"), abs=1e-4)
                assert version.right == version.ranked[0].is_right
    earlier, after = scored[0]
    assert earlier is not None
    assert {ranked.option for ranked in after.ranked} == {"no", "yes"}
    assert earlier.row == after.row


def test_a_new_template_has_no_version_before_and_an_inverted_one_is_not_scored(workplace: Workplace) -> None:
    before = workplace.task("visitor_comments")
    task, number = edits.edited(before, 0, FORM)
    _, rows = workplace.rows(task, "train")
    with workplace.model(workplace.models[0]) as model:
        assert {earlier for earlier, _ in editor_tab.score_versions(model, before, task, number, rows)} == {None}
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


def test_metadata_is_changed_with_the_template_and_saved(workplace: Workplace) -> None:
    before = workplace.task("visitor_comments")
    about = {
        "about:description": "Was it liked?",
        "about:metrics": "accuracy\nexact_match",
        "about:options": "bad\ngood",
        "about:cluster": "sentiment\nmiscellaneous",
        "about:fields": "comment: {{ comment }}",
        "about:citation": "",
    }
    fields = {**FORM, "template": "0", "options": "", "name": "mine", **about}
    preview = editor_tab.preview_part(workplace, {**FORM, "about:fields": "comment: {{ comment | upper }}\nplace: {{ place }}"})
    _, rows = workplace.rows(before, "train")
    assert rows[0]["comment"].upper() in preview.replace("&#39;", "'")
    with pytest.raises(FlanlabError, match="uses place, which is no field"):
        editor_tab.save_part(workplace, fields)  # other templates show the field that is left out
    editor_tab.save_part(workplace, {**fields, "about:fields": "place: {{ place }}\ncomment: {{ comment }}"})
    saved = load_task(workplace.save_to / "mine.yaml")
    assert (saved.description, saved.metrics, saved.citation) == ("Was it liked?", ["accuracy", "exact_match"], "")
    assert saved.options == ["bad", "good"]
    assert [one.value for one in saved.clusters] == ["sentiment", "miscellaneous"]
    assert saved.templates[:-1] == before.templates
    assert (saved.licence, saved.answer) == (before.licence, before.answer)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics", "acuracy", "`metrics.1` should be 'accuracy'"),
        ("metrics", "", "the field `metrics` is missing"),
        ("cluster", "nowhere", "`cluster` should be"),
        ("answer", "{{ label", "`answer`: not valid jinja2"),
        ("options", "only one", "`options`: "),
        ("fields", "comment {{ comment }}", "is no field"),
        ("fields", "comment: x\ncomment: y", "given twice"),
    ],
)
def test_faulty_metadata_is_refused_with_its_name(workplace: Workplace, name: str, text: str, message: str) -> None:
    with pytest.raises(FlanlabError, match=message) as raised:
        editor_tab.preview_part(workplace, {**FORM, f"about:{name}": text})
    assert raised.value.hint


def test_metadata_reads_as_it_was_written(workplace: Workplace) -> None:
    shown = edits.metadata_of(workplace.task("visitor_comments"))
    assert (shown["licence"], shown["references"]) == ("CC0-1.0", "")
    assert (shown["cluster"], shown["options"]) == ("sentiment", "negative\npositive")
    assert shown["fields"] == "place: {{ place }}\ncomment: {{ comment }}"
    for task in load_collections(["library", "sampler"]):
        about = {f"about:{name}": text for name, text in edits.metadata_of(task).items()}
        template = task.templates[0].model_dump(mode="json", exclude_unset=True) | {"options": ""}
        if task.templates[0].options is None:
            assert edits.edited(task, 1, {**template, **about})[0].hash == task.hash
        if task.fields:
            about["about:fields"] += "\nmore: {{ 1 }}"
            fields = edits.edited(task, 0, {"prompt": "{{ more }}", **about})[0].fields
            assert fields == {**{name: text.rstrip() for name, text in task.fields.items()}, "more": "{{ 1 }}"}


def test_the_source_of_rows_cannot_be_changed_from_the_browser(workplace: Workplace) -> None:
    task = workplace.task("visitor_comments")
    assert edits.edited(task, 0, {"prompt": "x", "about:source": "{files: /etc/passwd}"})[0].source == task.source


def test_a_saved_task_with_subtasks_reads_its_old_rows(workplace: Workplace, tmp_path: Path) -> None:
    sources = {name: {"files": {"train": "reviews.jsonl"}} for name in ("one", "two")}
    path = write_task_file(tmp_path / "there", task_content(source=None, subtasks=sources))
    workplace.add(load_task(path))
    editor_tab.save_part(workplace, {"task": "reviews", "template": "0", "prompt": "{{ text }} Well?", "name": "mine"})
    assert len(workplace.rows(workplace.task("mine"), "train")[1]) == 2 * len(REVIEWS)


@pytest.mark.parametrize(
    ("content", "message"), [("name: [", r"mine\.yaml, line 2: not valid YAML"), (None, "changed by another program")]
)
def test_a_file_that_another_program_changed_is_not_written_over(
    workplace: Workplace, content: str | None, message: str
) -> None:
    editor_tab.save_part(workplace, {**FORM, "name": "mine"})
    path = workplace.save_to / "mine.yaml"
    content = content or path.read_text(encoding="utf-8").replace("Did the writer like it?", "Liked?")
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FlanlabError, match=message):
        editor_tab.save_part(workplace, {**FORM, "task": "mine", "name": "mine"})
    assert path.read_text(encoding="utf-8") == content
    editor_tab.save_part(workplace, {**FORM, "task": "mine", "name": "mine_again"})
    assert load_task(workplace.save_to / "mine_again.yaml")


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


def test_a_rows_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    task = load_task(write_task_file(tmp_path, task_content()))
    (tmp_path / "reviews.jsonl").write_text('{"text": 1.10, "label": 1}\n{"text": 3, "label": 0}\n', encoding="utf-8")
    for index, shown in enumerate(("1.10", "3")):
        row = prepare_row(task, load_rows(task, "train")[index], index)
        assert try_tab.needed_columns(task, 1, row) == [try_tab.Given("text", shown, True)]
        assert str(try_tab.given_values({"column:text": shown, "json:text": "yes"})["text"]) == shown


@pytest.mark.parametrize("model", ["", "some/other"])
def test_only_the_models_named_at_the_start_are_loaded(workplace: Workplace, model: str) -> None:
    with pytest.raises(FlanlabError, match="model"):
        try_tab.answer_part(workplace, {"question": "Hello?", "model": model})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    from flanlab.ui.workplace import open_workplace

    with pytest.raises(FlanlabError, match=r"results\.json"):
        open_workplace([tmp_path], [], ["sampler"], None, tmp_path)


def hidden_fields(page: str) -> dict[str, str]:
    """What a piece of a page puts into the form."""
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page)
    return {html.unescape(name): html.unescape(value) for name, value in found}


@pytest.mark.parametrize("chat", ["", "yes"])
def test_a_conversation_goes_on_as_ask_does_with_history(
    workplace: Workplace, tiny_folders: dict[str, Path], chat: str
) -> None:
    workplace.models = names = [str(tiny_folders["llama"]), str(tiny_folders["qwen2"])]
    form = {"model": names[0], "other": names[1], "chat": chat}
    questions = ['What <b>is</b> "this"?', "And then?"]
    page = ""
    for question in questions:
        page = try_tab.answer_part(workplace, {**form, **hidden_fields(page), "question": question})
    assert "What &lt;b&gt;is&lt;/b&gt;" in page
    for name in names:
        turns: list[tuple[str, str]] = []
        with workplace.model(name) as model:
            for question in questions:
                answer = ask(model, question, history=turns, chat=bool(chat), new_tokens=try_tab.NEW_TOKENS)
                turns.append((question, answer.text))
        assert try_tab.conversation_in(hidden_fields(page), name).turns == turns
    again = {**form, **hidden_fields(page), "question": "not asked yet", "action": "show"}
    assert hidden_fields(try_tab.answer_part(workplace, again)) == hidden_fields(page)
    assert try_tab.answer_part(workplace, {**again, "action": "forget"}) == ""


@pytest.mark.parametrize("history", ["[", "[1]", '[["a"]]', '[["a", 1]]', "[" * 100_000])
def test_earlier_turns_that_no_page_wrote_are_refused(workplace: Workplace, history: str) -> None:
    name = workplace.models[0]
    with pytest.raises(FlanlabError, match="earlier turns"):
        try_tab.answer_part(workplace, {"model": name, "question": "Well?", f"history:{name}": history})


def test_a_model_that_computes_no_number_leaves_the_others_answer(workplace: Workplace, tiny_folders: dict[str, Path]) -> None:
    workplace.models = names = [str(tiny_folders["llama"]), str(tiny_folders["qwen2"])]
    with workplace.model(names[0]) as model, torch.no_grad():
        model.model.model.norm.weight.fill_(float("nan"))
    form = {"model": names[0], "other": names[1]}
    earlier = {f"history:{name}": '[["Before?", "Yes."]]' for name in names}
    page = try_tab.answer_part(workplace, {**form, **earlier, "question": "Well?"})
    assert page.count("computes no number (NaN or infinity)") == 1
    turns = [len(try_tab.conversation_in(hidden_fields(page), name).turns) for name in names]
    assert turns == [1, 2]
    task = {"task": "visitor_comments", "template": "1", "column:comment": "We loved it."}
    page = try_tab.answer_part(workplace, {**form, **task})
    assert page.count("computes no number (NaN or infinity)") == 1
    assert page.count("<meter") == 2
    with pytest.raises(FlanlabError, match=r"visitor_comments, row \d+, template \d+: the model computes no number"):
        editor_tab.score_part(workplace, {**FORM, "model": names[0]})
