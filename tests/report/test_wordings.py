"""Two wordings compared: the right templates, rows and flips; nothing compared that should not be; a safe page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import flanlab as fl
from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.report.wordings import prompt_ends, word_diff
from flanlab.results.wordings import Wordings
from tests.report.synthetic import HOSTILE, ROWS, change, make_run
from tests.report.test_report import Page
from tests.tiny import write_tasks

TASK = "visitor_comments"


def reworded(folder: Path, template: int, prompt: str = "A new wording of {{ text }}?") -> None:
    """Have a folder's results say that the task's file had another wording, and so another hash."""

    def change_content(content: dict[str, Any]) -> None:
        task = content["tasks"][TASK]
        task["content"]["templates"][template - 1]["prompt"] = prompt
        task["hashes"]["task"] = "another"

    change(folder, change_content)


def right(row: int, template: int, tenths: int) -> bool:
    """Whether the synthetic model answers right."""
    return (row * 7 + template) % 10 < tenths + {1: 1, 2: -1}.get(template, 0)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The same model before and after template 1 was reworded: 5 and 8 of ten rows right."""
    first, second = (
        make_run(tmp_path / name, {"instruction": tenths}, tasks=[TASK], trained=False) for name, tenths in (("a", 5), ("b", 8))
    )
    reworded(second, 1)
    return first, second


def test_version_of_a_task_against_the_one_before(folders: tuple[Path, Path]) -> None:
    with pytest.raises(FlanlabError, match="file differs") as caught:
        fl.compare(*folders)
    assert "--templates" in str(caught.value.hint)
    found = fl.compare_templates(*folders)
    [pair] = found.wordings.pairs
    assert (pair.template_a, pair.template_b, pair.rows) == (1, 1, ROWS)
    assert pair.wording_b == "A new wording of {{ text }}?" != pair.wording_a
    expected = [right(row, 1, 8) - right(row, 1, 5) for row in range(ROWS)]
    assert pair.main.difference == pytest.approx(sum(expected) / ROWS)
    assert pair.main.is_clear
    assert (pair.main.wins, pair.main.losses) == (expected.count(1), expected.count(-1))
    assert {flip.row for flip in pair.better} == {row for row, one in enumerate(expected) if one == 1}
    assert pair.worse == []
    flip = pair.better[0]
    assert (flip.a.answer, flip.b.answer) == (["positive", "negative"][flip.row % 2], flip.references[0])
    assert f"Question {flip.row}, template 1" in flip.b.prompt
    assert found.wordings.unchanged == {TASK: 3}
    assert len(found.flips) == expected.count(1)
    assert found.differences.where(metric="accuracy").column("difference") == [pair.main.difference]
    assert found.wordings.results.difference("task", TASK, "accuracy").difference == pair.main.difference  # type: ignore[union-attr]


def test_two_templates_of_one_folder(folders: tuple[Path, Path]) -> None:
    found = fl.compare_templates(f"{folders[0]}:{TASK}:1", f"{folders[0]}:instruction:{TASK}:2", margin=0.5)
    [pair] = found.wordings.pairs
    expected = [right(row, 2, 5) - right(row, 1, 5) for row in range(ROWS)]
    assert pair.main.difference == pytest.approx(sum(expected) / ROWS)
    assert {flip.row for flip in pair.worse} == {row for row, one in enumerate(expected) if one == -1}
    assert {flip.row for flip in pair.better} == {row for row, one in enumerate(expected) if one == 1}
    assert [flip.row for flip in pair.flips[: len(pair.worse)]] == sorted(flip.row for flip in pair.worse)
    assert pair.main.p_equivalence is not None
    assert f"{TASK}, template 1 in A and 2 in B, accuracy" in found.verdict[0]


def test_several_pairs_are_one_family_and_have_a_mean(folders: tuple[Path, Path]) -> None:
    reworded(folders[1], 2, "Another one, {{ text }}?")
    found = fl.compare_templates(*folders).wordings
    assert [(pair.template_a, pair.template_b) for pair in found.pairs] == [(1, 1), (2, 2)]
    smallest = min((pair.main for pair in found.pairs), key=lambda row: row.p_value)
    assert smallest.p_holm == pytest.approx(min(1, 2 * smallest.p_value))
    over = found.results.difference("task", TASK, "accuracy")
    assert over is not None
    assert over.difference == pytest.approx(sum(pair.main.difference for pair in found.pairs) / 2)


def test_changed_field_concerns_every_template(folders: tuple[Path, Path]) -> None:
    change(folders[1], lambda r: r["tasks"][TASK]["content"]["fields"].update(text="{{ text | upper }}"))
    found = fl.compare_templates(*folders).wordings
    assert [pair.template_a for pair in found.pairs] == [1, 2, 4, 5]
    assert found.unchanged == {TASK: 0}
    for pair in found.pairs:
        # 20 and 32 of 40 right, say, whose pseudo-values are 0 and 1 but for rounding.
        means = {score.variant: score.mean for score in pair.scores if score.metric == "accuracy"}
        assert pair.main.difference == pytest.approx(means["b"] - means["a"])
    assert all("fields.text: {{ text | upper }}" in pair.wording_b for pair in found.pairs)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda r: r["variants"]["instruction"].update(seed=4), "seed: 0 in A, 4 in B"),
        (lambda r: r["variants"]["instruction"]["settings"].update(options="none"), "options: shuffled in A, none in B"),
        (lambda r: r["tasks"][TASK]["hashes"].update(rows="x"), "rows come from other content"),
        (lambda r: r["tasks"][TASK]["content"].update(filter="{{ text }}"), "filter: None in A"),
    ],
)
def test_other_rows_are_refused(folders: tuple[Path, Path], how: Any, told: str) -> None:
    change(folders[1], how)
    with pytest.raises(FlanlabError, match=told) as caught:
        fl.compare_templates(*folders)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("", "", "the same wordings"),
        (f":{TASK}:1", "", "on one side only"),
        (f":{TASK}:1", f":{TASK}:1", "the same wordings"),
        (":no_task:1", f":{TASK}:1", "no variant or task no_task"),
        (f":{TASK}:99", f":{TASK}:1", "no template 99"),
        (f":{TASK}:one", f":{TASK}:1", "no template one"),
        (f":{TASK}:1:2", f":{TASK}:1", "no template 1:2"),
    ],
)
def test_what_cannot_be_compared(folders: tuple[Path, Path], first: str, second: str, told: str) -> None:
    with pytest.raises(FlanlabError, match=told) as caught:
        fl.compare_templates(f"{folders[0]}{first}", f"{folders[0]}{second}")
    assert caught.value.hint
    with pytest.raises(FlanlabError, match="no such file"):
        fl.compare_templates("no/such/folder:rte:1", folders[0])


def test_another_model_is_told(folders: tuple[Path, Path]) -> None:
    assert not any("Not only the wording" in one for one in fl.compare_templates(*folders).verdict)
    change(folders[1], lambda r: r["variants"]["instruction"].update(identity="other", style="chat"))
    told = " ".join(fl.compare_templates(*folders).verdict)
    assert "Not only the wording differs, but also the model and the prompt style (instruction, chat)" in told


def test_command_in_text_json_and_as_a_safe_page(folders: tuple[Path, Path], tmp_path: Path) -> None:
    reworded(folders[1], 1, f"{HOSTILE} {{{{ text }}}}?")
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["compare", "--templates", *map(str, folders), "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "wrong in A, right in B: 12 of 40 rows" in result.output
    assert "and 7 more" in result.output
    assert "[-" in result.output
    assert "{+" in result.output
    shown = Page(page.read_text(encoding="utf-8"))
    assert not {"script", "img", "link", "iframe"} & set(shown.tags)
    assert HOSTILE in shown.text
    found = fl.compare_templates(*folders).wordings
    assert {found.pairs[0].main.difference, *found.pairs[0].main.interval} <= set(shown.values)
    result = CliRunner().invoke(app, ["compare", "--templates", *map(str, folders), "--json"])
    assert Wordings.model_validate(json.loads(result.stdout)) == found


def test_word_diff_and_prompt_ends() -> None:
    pieces = word_diff("Does the premise follow?", "Does the text follow?")
    assert pieces == [("=", "Does the "), ("-", "premise"), ("+", "text"), ("=", " follow?")]
    for side, text in (("-", "Does the premise follow?"), ("+", "Does the text follow?")):
        assert "".join(piece for mark, piece in pieces if mark in ("=", side)) == text
    assert word_diff("Alpha beta", "Is it?") == [("-", "Alpha beta"), ("+", "Is it?")]
    assert prompt_ends("Short\n  text\n\nOPTIONS:\n- a\n- b") == "Short text"
    ends = prompt_ends("Start " + "x " * 200 + "End\n\nOPTIONS:\n- a", 30)
    assert len(ends) <= 30
    assert ends.startswith("Start")
    assert ends.endswith("End")


def test_from_a_changed_file_to_its_effect(tiny_folder: Path, tmp_path: Path) -> None:
    """The whole way: evaluate, reword one template and add another before it, evaluate again, compare."""
    tasks = write_tasks(tmp_path / "tasks")
    settings: dict[str, Any] = {"rows": 10, "new_tokens": 2, "pmi": False}
    first = fl.evaluate(tiny_folder, tasks / "comments.yaml", out=tmp_path / "before", **settings)
    content = yaml.safe_load((tasks / "comments.yaml").read_text(encoding="utf-8"))
    content["templates"][1]["prompt"] = "{{ text }} Tell me: is the writer happy?"
    content["templates"].insert(0, {"prompt": "Brand new: {{ text }}"})
    (tasks / "comments.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    second = fl.evaluate(tiny_folder, tasks / "comments.yaml", out=tmp_path / "after", **settings)
    assert first is not None
    assert second is not None
    found = fl.compare_templates(first, second).wordings
    [pair] = found.pairs
    assert (pair.template_a, pair.template_b, pair.rows) == (2, 3, 10)
    assert found.unchanged == {"comments": 2}
    assert found.only == {"comments": {"a": [], "b": [1]}}
    assert pair.wording_a == "How does the writer feel? {{ text }}"
    a, b = ({row["row"]: row for row in run.predictions("comments") if row["template"] == 2} for run in (first, second))

    def is_right(row: dict[str, Any]) -> bool:
        return bool(row["option_scores"].index(max(row["option_scores"])) == row["answer"])

    flipped = {row for row in a if is_right(a[row]) != is_right(b[row])}
    assert {flip.row for flip in pair.flips} == flipped
    assert all(flip.b.prompt.split("\n\nOPTIONS")[0].endswith("happy?") for flip in pair.flips)
