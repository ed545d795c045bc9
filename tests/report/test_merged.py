"""Folders side by side: the right scores in the right columns, what may not be compared, and a page that is safe to open."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flanlab.errors import FlanlabError
from flanlab.files import read_json, write_json
from flanlab.report.merged import Merged, merge, verdict
from flanlab.report.merged_page import to_csv, write_merged
from flanlab.results.files import read_results
from flanlab.results.schema import MAIN_METRIC, Level
from tests.report.synthetic import HOSTILE, change, make_run, mark_seen, rows_of
from tests.report.test_comparison import asked
from tests.report.test_report import Page
from tests.report.test_sweep import make_sweep

TASKS = ("product_reviews", "visitor_comments", "everyday_french")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", {"untuned_instruction": 3, "untuned_chat": 6, "tuned": 5}, tasks=TASKS)


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    return make_run(tmp_path / "eval", {"instruction": 8}, tasks=TASKS, trained=False)


def merged(*places: Path | str) -> Merged:
    return merge([str(place) for place in places])


def means(found: Merged, level: Level, name: str | None) -> dict[str, float]:
    return {letter: entry.score.mean for letter, entry in found.row(level, name).items()}


def differences(found: Merged, level: Level, name: str | None) -> dict[str, list[str]]:
    return {letter: entry.differs for letter, entry in found.row(level, name).items()}


def labels(found: Merged) -> dict[str, str]:
    return {column.letter: column.label for column in found.columns}


def test_the_best_template_on_dev_stands_beside_the_mean(run: Path, tmp_path: Path) -> None:
    def choose(content: dict[str, Any]) -> None:
        (row,) = rows_of(content, task="product_reviews", metric="accuracy", variant="tuned")
        content["scores"].append({**row, "template": "best on dev", "mean": 0.875, "low": 0.5, "high": 1.0})

    change(run, choose)
    found = merged(run)
    row = found.row("task", "product_reviews")
    assert [best and best.mean for best in (row[letter].best_on_dev for letter in "ABC")] == [None, None, 0.875]
    write_merged(found, tmp_path / "page.html")
    assert "best template on dev 87.5" in (tmp_path / "page.html").read_text(encoding="utf-8").replace(
        '<data value="0.875">', ""
    ).replace("</data>", "")
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert {line["title"]: line["best_on_dev"] for line in lines if line["task"] == "product_reviews"}["tuned"] == "0.875"


def test_a_column_for_each_variant_and_a_row_for_each_task(run: Path, evaluation: Path) -> None:
    found = merged(run, evaluation)
    assert labels(found) == {
        "A": "run, untuned, instruction prompt",
        "B": "run, untuned, chat prompt",
        "C": "run, tuned",
        "D": "eval",
    }
    assert set(found.clusters) == {"sentiment", "translation"}
    assert found.metrics["visitor_comments"] == "accuracy"
    assert {entry.chance for entry in found.row("task", "visitor_comments").values()} == {0.5}
    assert means(found, "task", "visitor_comments") == pytest.approx({"A": 0.3, "B": 0.6, "C": 0.5, "D": 0.8})
    own = read_results(evaluation)
    assert found.row("task", "visitor_comments")["D"].score == own.main_scores("visitor_comments")["instruction"]
    assert {entry.chance for entry in found.row("task", "everyday_french").values()} == {None}
    average = own.scored("cluster", "sentiment", MAIN_METRIC)["instruction"]
    assert found.row("cluster", "sentiment")["D"].score == average
    assert found.row("clusters", None)["D"].score == own.scored("clusters", None, MAIN_METRIC)["instruction"]


def test_predictions_are_not_needed(run: Path, evaluation: Path) -> None:
    before = merged(run, evaluation)
    for part in [*run.glob("predictions/*/*/*"), *evaluation.glob("predictions/*/*/*")]:
        part.unlink()
    assert merged(run, evaluation) == before


def test_one_folder_and_one_variant(run: Path) -> None:
    assert list(labels(merged(run)).values()) == [
        "run, untuned, instruction prompt",
        "run, untuned, chat prompt",
        "run, tuned",
    ]
    assert labels(merged(f"{run}:tuned", f"{run}:tuned")) == {"A": "run, tuned"}
    assert "asked the same way" not in " ".join(verdict(merged(f"{run}:tuned")))
    with pytest.raises(FlanlabError, match="no variant chat") as caught:
        merged(f"{run}:chat")
    assert "untuned_chat" in caught.value.hint


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for parent in ("first", "second"):
        make_run(tmp_path / parent / "run", {"instruction": 5}, trained=False)
    assert labels(merged(tmp_path / "first" / "run", tmp_path / "second" / "run")) == {"A": "first/run", "B": "second/run"}


def test_what_was_trained_on_is_told_only_where_it_is_known(run: Path, evaluation: Path) -> None:
    trained_on = {"boolq": "reading_comprehension"}
    change(evaluation, lambda r: r["variants"]["instruction"].update(trained_on=trained_on, stamped=True))
    untuned, _, tuned, other = merged(run, evaluation).columns
    assert (untuned.trained_on, untuned.held_out, untuned.stamped) == (None, None, False)
    assert tuned.trained_on == {"short_facts": "closed_book_qa", "everyday_goals": "commonsense"}
    assert tuned.held_out == ["sentiment"]
    # What an evaluation lists as held out is what it asked.
    assert (other.trained_on, other.held_out) == ({"boolq": "reading_comprehension"}, None)
    assert "Whether A and B have seen these tasks is unknown: they carry no stamp." in verdict(merged(run, evaluation))


def test_seen_counts_for_the_variant_that_has_a_stamp(run: Path, evaluation: Path) -> None:
    mark_seen(run, "product_reviews", "tuned")
    found = merged(run, evaluation)
    seen = {letter: entry.seen for letter, entry in found.row("task", "product_reviews").items()}
    assert seen == {"A": None, "B": None, "C": "the model was trained on its train rows", "D": None}
    assert found.row("cluster", "sentiment")["C"].seen == "some tasks seen in training"
    assert found.row("cluster", "translation")["C"].seen is None
    assert "C was trained on product_reviews, or on something close: its scores there are not zero-shot." in verdict(found)


@pytest.mark.parametrize(
    ("how", "differs", "elsewhere"),
    [
        (lambda r: r["variants"]["instruction"].update(seed=4), ["seed"], ["seed"]),
        (lambda r: asked(r).update(shots=4), ["shots"], ["shots"]),
        (lambda r: asked(r).pop("truncate"), ["truncate"], ["truncate"]),
        (lambda r: r["tasks"]["product_reviews"]["hashes"].update(rows="x"), ["rows"], []),
        (lambda r: r["tasks"]["product_reviews"].update(rows=9), ["rows"], []),
        (lambda r: r["tasks"]["product_reviews"]["hashes"].update(task="x"), ["task file"], []),
        (lambda r: r["tasks"]["product_reviews"].update(templates=[1]), ["templates"], []),
        (lambda r: r["tasks"]["product_reviews"].update(main_metric="exact_match"), ["metric"], []),
        (lambda r: r["variants"]["instruction"].update(scoring="generation"), ["scoring"], ["scoring"]),
        (lambda r: asked(r).update(token_budget=1, rows=7, pmi=False), [], []),
    ],
)
def test_what_was_not_asked_alike_is_marked(
    run: Path, evaluation: Path, how: Any, differs: list[str], elsewhere: list[str]
) -> None:
    change(evaluation, how)
    found = merged(f"{run}:tuned", evaluation)
    assert differences(found, "task", "product_reviews") == {"A": [], "B": differs}
    assert differences(found, "task", "visitor_comments")["B"] == elsewhere
    assert differences(found, "cluster", "sentiment")["B"] == differs
    told = " ".join(verdict(found))
    assert ("Not everything was asked the same way: in column B scores" in told) == bool(differs)
    assert ("asked of the same rows" in told) == (not differs)


def test_settings_that_differ_are_told_with_both_values(run: Path, evaluation: Path) -> None:
    change(evaluation, lambda r: (r["variants"]["instruction"].update(seed=4), asked(r).update(prompt_tokens=99)))
    assert merged(run, evaluation).columns[-1].asked_otherwise == {"seed": "4, in A 0", "prompt tokens": "99, in A 1024"}


def test_a_row_is_held_against_the_first_column_that_has_it(evaluation: Path, tmp_path: Path) -> None:
    third = make_run(tmp_path / "third", {"instruction": 4}, tasks=TASKS, trained=False)
    run = make_run(tmp_path / "fewer", {"untuned_instruction": 3, "untuned_chat": 6, "tuned": 5}, tasks=TASKS[1:])
    for folder in (evaluation, third):
        change(folder, lambda r: r["tasks"]["product_reviews"]["hashes"].update(rows="x"))
    assert differences(merged(run, evaluation, third), "task", "product_reviews") == {"D": [], "E": []}


def test_no_average_where_columns_have_other_tasks(run: Path, tmp_path: Path) -> None:
    few = make_run(tmp_path / "few", {"instruction": 4}, tasks=TASKS[:1], trained=False)
    found = merged(f"{run}:tuned", few)
    assert found.row("cluster", "sentiment") == {}
    assert found.no_average["sentiment"].endswith("same tasks: B lacks visitor_comments")
    assert found.no_average["translation"].endswith("B lacks everyday_french")
    assert found.no_average[""] == "no average, since translation and sentiment have none"
    assert list(found.row("task", "visitor_comments")) == ["A"]
    assert next(iter(verdict(found))) == "2 columns from 2 folders: 3 tasks in 2 clusters, 1 of them in all columns."


def test_in_domain_tasks_are_marked_and_have_no_part_in_averages(tmp_path: Path) -> None:
    tasks = ("product_reviews", "everyday_french")
    one, other = (make_run(tmp_path / name, {"tuned": 5}, tasks=tasks, in_domain=tasks[:1]) for name in ("one", "other"))
    found = merged(one, other)
    assert [entry.mark for entry in found.row("task", "product_reviews").values()] == ["in-domain"] * 2
    assert found.no_average["sentiment"].endswith("A and B have product_reviews in-domain")
    assert list(found.row("cluster", "translation")) == ["A", "B"]
    assert any(
        "A was trained on train rows of product_reviews: its scores there are in-domain" in one for one in verdict(found)
    )


def test_a_sweep_is_its_finished_cells(tmp_path: Path, evaluation: Path) -> None:
    rights = {"untuned": {"instruction": 3, "chat": 5}, "clusters-1": {"instruction": 7}, "clusters-2": None}
    sweep = make_sweep(tmp_path, rights)
    found = merged(sweep, evaluation)
    assert labels(found) == {
        "A": "untuned, instruction prompt",
        "B": "untuned, chat prompt",
        "C": "clusters-1",
        "D": "eval",
    }
    assert means(found, "task", "visitor_comments") == pytest.approx({"A": 0.3, "B": 0.5, "C": 0.7, "D": 0.8})
    assert found.columns[2].name == "Number of clusters: the cell clusters-1"
    assert list(verdict(found))[-1] == f"1 cell of 3 in {sweep} is not done and left out."
    with pytest.raises(FlanlabError, match="folder of a sweep"):
        merged(f"{sweep}:chat")


def test_work_that_cells_share_is_one_column(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"clusters-1": {"instruction": 5}, "clusters-2": {"instruction": 8}})
    facts = read_json(sweep / "sweep.json")
    facts["cells"][1]["folders"] = facts["cells"][0]["folders"]
    write_json(tmp_path / "other-base" / "sweep.json", facts)
    assert labels(merged(tmp_path / "other-base")) == {"A": "clusters-1 = clusters-2"}
    # The second cell of the first sweep is other work under a name that the second sweep has too.
    assert labels(merged(sweep, tmp_path / "other-base")) == {
        "A": "clusters-1 = other-base/clusters-2",
        "B": "clusters-base/clusters-2",
    }


def test_nothing_of_a_sweep_is_done(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"untuned": None})
    with pytest.raises(FlanlabError, match="no cell of the sweep is done yet") as caught:
        merged(sweep)
    assert caught.value.hint


def test_unreadable_and_old_results_are_named_with_a_hint(run: Path, evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match="nowhere"):
        merged(run, tmp_path / "nowhere")
    old = read_json(evaluation / "results.json")
    for broken, told in (
        ({**old, "tasks": {name: {**task, "clusters": []} for name, task in old["tasks"].items()}}, "is damaged"),
        ({**old, "format": 1}, "has format 1, and this version of flanlab reads format 2"),
    ):
        write_json(evaluation / "results.json", broken)
        with pytest.raises(FlanlabError, match=told) as caught:
            merged(run, evaluation)
        assert str(evaluation) in caught.value.message
        assert "again" in caught.value.hint


def test_columns_after_the_twenty_sixth_have_two_letters(tmp_path: Path) -> None:
    first = make_run(tmp_path / "run", {f"variant{number}": 5 for number in range(9)}, tasks=TASKS[:1], trained=False)
    content = read_json(first / "results.json")
    for number in range(2):
        write_json(tmp_path / f"copy{number}" / "results.json", content)
    letters = list(labels(merged(first, tmp_path / "copy0", tmp_path / "copy1")))
    assert letters[25:] == ["Z", "AA"]
    assert len(set(letters)) == 27


def test_the_page_holds_the_numbers_and_obeys_nothing(run: Path, evaluation: Path, tmp_path: Path) -> None:
    change(evaluation, lambda r: (r.update(name=HOSTILE), r["variants"]["instruction"].update(title=HOSTILE, model=HOSTILE)))
    change(evaluation, lambda r: r["tasks"]["product_reviews"].update(rows=9))
    mark_seen(run, "product_reviews", "tuned")
    found = merged(run, evaluation)
    beside = write_merged(found, tmp_path / "out" / "all.html")
    page = Page((tmp_path / "out" / "all.html").read_text(encoding="utf-8"))
    shown = set(page.values)
    for entry in found.scores:
        assert {entry.score.mean, *entry.score.interval} <= shown
    text = " ".join(page.text.split())
    assert "≠ rows" in text
    assert "guessing 50.0" in text
    assert text.count(" seen ") >= 1
    assert "What C was trained on: 2 tasks" in text
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert re.findall(r"@import|url\((?!#)", page.source) == []
    assert all(value.startswith(("data:", "#")) for _, name, value in page.attributes if name in ("href", "src"))
    assert len(page.ids) == len(set(page.ids))
    drawings = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert "product_reviews: A 30.0, B 60.0, C 50.0, D 80.0." in " ".join(drawings)
    downloads = re.findall(r'href="data:([\w/+]+);base64,([^"]+)" download="([\w.-]+)"', page.source)
    ((scores, name),) = [(content, name) for kind, content, name in downloads if kind == "text/csv"]
    assert name == beside.name == "all.csv"
    figures = [content for kind, content, _ in downloads if kind == "image/svg+xml"]
    assert len(figures) == len(downloads) - 1 == 3
    for content in figures:
        assert ElementTree.fromstring(base64.b64decode(content).decode()).tag.endswith("svg")
    assert base64.b64decode(scores).decode() == beside.read_text(encoding="utf-8") == to_csv(found)


def test_missing_scores_and_averages_are_told_on_the_page(run: Path, tmp_path: Path) -> None:
    few = make_run(tmp_path / "few", {"instruction": 4}, tasks=TASKS[:1], trained=False)
    write_merged(merged(run, few), tmp_path / "all.html")
    text = Page((tmp_path / "all.html").read_text(encoding="utf-8")).text
    assert "not asked" in text
    assert "no average, since not all columns have the same tasks: D lacks visitor_comments" in text


def test_the_table_as_csv(run: Path, evaluation: Path) -> None:
    change(evaluation, lambda r: r["variants"]["instruction"].update(seed=4))
    lines = list(csv.DictReader(io.StringIO(to_csv(merged(run, evaluation)))))
    assert len(lines) == 4 * (3 + 2 + 1)
    tasks = {(line["column"], line["task"]): line for line in lines if line["of"] == "task"}
    one = tasks["D", "visitor_comments"]
    assert float(one["score"]) == pytest.approx(0.8)
    assert (one["chance"], one["differs"], one["held_out"]) == ("0.5", "seed", "unknown")
    assert float(one["low"]) < 0.8 < float(one["high"])
    assert tasks["C", "product_reviews"]["held_out"] == "sentiment"
    assert tasks["C", "product_reviews"]["trained_on"] == "short_facts; everyday_goals"
    assert [line["cluster"] for line in lines if line["column"] == "A" and line["of"] == "cluster"]


def test_all_of_it_is_json(run: Path, evaluation: Path) -> None:
    found = merged(run, evaluation)
    assert Merged.model_validate(json.loads(json.dumps(found.model_dump(mode="json")))) == found
