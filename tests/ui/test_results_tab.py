"""Scores and predictions as the results tab shows them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import flanlab as fl
from flanlab.errors import FlanlabError
from flanlab.report.predictions import is_right
from flanlab.report.wording import count
from flanlab.ui import results_tab
from flanlab.ui.predictions import index_of, matching, read
from flanlab.ui.workplace import Workplace, open_workplace
from tests.report.synthetic import change, make_run, mark_seen

TASK = "visitor_comments"
METRICS = ["accuracy"]


def test_scores_are_filtered(run_folders: list[Path]) -> None:
    results = fl.open_run(run_folders[0]).results
    found = results_tab.filtered_scores(results, text="VISITOR", metric="accuracy", level="task")
    assert {(one.name, one.metric, one.template) for one in found} == {(TASK, "accuracy", "mean")}
    assert {one.variant for one in found} == set(results.variants)
    assert len(results_tab.filtered_scores(results, template="", metric=results_tab.ALL)) == len(results.scores)


def test_main_metrics_are_shown_unless_others_are_asked_for(workplace: Workplace) -> None:
    results = workplace.runs[0].results
    first = results_tab.filtered_scores(results, level="task")
    assert {one.metric for one in first} == {task.main_metric for task in results.tasks.values()}
    assert len(first) < len(results_tab.filtered_scores(results, level="task", metric=results_tab.ALL))
    [score] = results_tab.filtered_scores(results, text=TASK, variant="tuned", level="task", metric="accuracy_per_byte")
    cell = f"<td>{results.tasks[TASK].metrics[score.metric].title.capitalize()}</td>"
    assert cell not in results_tab.results_page(workplace, {"level": "task"})
    assert cell in results_tab.results_page(workplace, {"level": "task", "metric": "all"})


def test_means_over_a_single_task_are_not_shown_again(run_folders: list[Path]) -> None:
    results = fl.open_run(run_folders[0]).results
    single = results.model_copy(
        update={
            "tasks": {TASK: results.tasks[TASK]},
            "scores": [one for one in results.scores if one.level != "task" or one.name == TASK],
            "differences": [one for one in results.differences if one.name in (TASK, None)],
        }
    )
    assert {one.level for one in results_tab.filtered_scores(single)} == {"task"}
    assert {one.level for one in results_tab.filtered_scores(single, level="cluster")} == {"cluster"}
    assert {one.level for one, _, _ in results_tab.before_and_after(single)} == {"task"}


def test_a_score_is_marked_as_a_report_marks_it(tmp_path: Path) -> None:
    tasks = (TASK, "everyday_french")
    folder = make_run(tmp_path / "run", {"tuned": 7}, tasks=tasks, in_domain=[TASK], trained=False)
    mark_seen(folder, "everyday_french", "tuned")
    page = results_tab.results_page(open_workplace([folder], [], ["sampler"], None, tmp_path), {})
    assert page.count("<td>in-domain</td>") == 1
    assert page.count("<td>seen in training</td>") == 1
    assert "with tasks" not in page, "means over one task are left out"


def test_the_heat_map_holds_each_templates_score(run_folders: list[Path]) -> None:
    results = fl.open_run(run_folders[0]).results
    columns, rows = results_tab.heat_map(results, "tuned")
    assert columns == [1, 2, 4, 5]
    assert {task for task, _, _ in rows} == set(results.tasks)
    for task, _, cells in rows:
        table = fl.open_run(run_folders[0]).predictions(task, "tuned").rows()
        for template, cell in zip(columns, cells, strict=True):
            right = [is_right(one, METRICS) for one in table if one["template"] == template]
            assert cell == pytest.approx(np.mean(right))


def test_before_and_after_shows_main_metrics_or_the_one_asked_for(run_folders: list[Path]) -> None:
    results = fl.open_run(run_folders[0]).results
    rows = results_tab.before_and_after(results)
    assert {one.metric for one, _, _ in rows if one.level == "task"} == {"accuracy"}
    for one, before, after in rows:
        assert after.mean - before.mean == pytest.approx(one.difference)
    assert {one.metric for one, _, _ in results_tab.before_and_after(results, "exact_match")} == {"exact_match"}


def test_predictions_are_filtered_as_one_by_one(run_folders: list[Path]) -> None:
    run, other = map(fl.open_run, run_folders)
    index = index_of(run, "tuned", TASK)
    records = run.predictions(TASK, "tuned").rows()
    there = {(one["template"], one["row"]): is_right(one, METRICS) for one in other.predictions(TASK, "tuned").rows()}

    def expected(**wanted: object) -> list[int]:
        return [
            place
            for place, one in enumerate(records)
            if wanted.get("template") in (None, one["template"])
            and wanted.get("right") in (None, is_right(one, METRICS))
            and str(wanted.get("text", "")).lower() in f"{one['prompt']}\0{one['generated']}".lower()
            and (not wanted.get("flip") or there[one["template"], one["row"]] != is_right(one, METRICS))
        ]

    flipped = index_of(other, "tuned", TASK)
    assert matching(index).tolist() == expected() == list(range(len(records)))
    assert matching(index, template=4, right=False).tolist() == expected(template=4, right=False)
    assert matching(index, text="QUESTION 1, ").tolist() == expected(text="question 1, ")
    both = matching(index, right=True, flipped=flipped, text="template 2").tolist()
    assert both == expected(right=True, flip=True, text="template 2")
    assert both
    shown = read(index, np.array(both))
    assert [(one.template, one.row, one.right) for one in shown] == [
        (records[place]["template"], records[place]["row"], True) for place in both
    ]
    assert all(one.ranked[0].is_right for one in shown)


def test_the_end_token_counts_as_the_run_had_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"tuned": 7}, trained=False)
    with_end = index_of(fl.open_run(folder), "tuned", TASK).right
    change(folder, lambda content: content["variants"]["tuned"]["settings"].update(end_token=False))
    # The made-up scores without end tokens are the other way round.
    assert (index_of(fl.open_run(folder), "tuned", TASK).right == ~with_end).all()


def test_pages_hold_twenty_predictions_and_go_on(workplace: Workplace) -> None:
    page = results_tab.predictions_page(workplace, {"run": "0", "task": TASK, "variant": "tuned", "page": "1"})
    assert page.count('<section class="card') == results_tab.PAGE
    assert "Page 2 of 8" in page
    last = results_tab.predictions_page(workplace, {"run": "0", "task": TASK, "page": "99"})
    assert "Page 8 of 8" in last
    nothing = results_tab.predictions_page(workplace, {"run": "0", "task": TASK, "text": "no such text"})
    assert nothing.count('<section class="card') == 0


def test_hostile_predictions_show_as_text(workplace: Workplace) -> None:
    page = results_tab.predictions_page(workplace, {"run": "1", "task": TASK})
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert" in page


def test_results_pages_compare_two_runs(workplace: Workplace) -> None:
    page = results_tab.results_page(workplace, {"run": "0", "other": "1"})
    assert "first: tuned" in page
    assert "second: tuned" in page
    flipped = results_tab.predictions_page(workplace, {"run": "0", "task": TASK, "flipped": "1:tuned"})
    assert "right; in the other run wrong" in flipped


def test_rows_of_other_templates_than_numbers_are_shown_and_filtered(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"tuned": 7}, trained=False)

    def add(content: dict[str, Any]) -> None:
        means = [one for one in content["scores"] if one["level"] == "task" and one["template"] == "mean"]
        content["tasks"][TASK]["wordings"] = {"4": "template 2, <i>shouted</i>"}
        content["scores"] += [{**one, "template": name} for one in means for name in ("q05", "q50", "q95", "best on dev")]

    change(folder, add)
    workplace = open_workplace([folder], [], ["sampler"], None, tmp_path)
    page = results_tab.results_page(workplace, {"template": "q05", "metric": "accuracy", "level": "task"})
    assert page.count("<td>q05</td>") == 2
    assert "<td>q95</td>" not in page
    assert '<option value="best on dev">' in page
    page = results_tab.predictions_page(workplace, {"task": TASK, "template": "4"})
    assert "template 4 (template 2, &lt;i&gt;shouted&lt;/i&gt;): right" in page


def test_flips_need_the_same_questions(tmp_path: Path, run_folders: list[Path]) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_folders[1], other)
    change(other, lambda content: content["tasks"][TASK]["hashes"].update(rows="others"))
    workplace = open_workplace([run_folders[0], other], [], ["sampler"], None, tmp_path)
    with pytest.raises(FlanlabError, match="did not ask the same"):
        results_tab.predictions_page(workplace, {"run": "0", "task": TASK, "flipped": "1:tuned"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"run": "7"}, "no run `7`"),
        ({"run": "../first"}, "no run"),
        ({"variant": "../../first"}, "no such variant"),
        ({"task": "../tuned"}, "no such task"),
        ({"flipped": "0:nobody"}, "no such variant"),
    ],
)
def test_only_what_a_run_holds_is_read(workplace: Workplace, fields: dict[str, str], message: str) -> None:
    with pytest.raises(FlanlabError, match=message):
        results_tab.predictions_page(workplace, fields)


def test_a_damaged_file_of_predictions_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"tuned": 7}, trained=False)
    place = folder / "predictions" / "tuned" / TASK
    (place / "shard-00001.parquet").write_bytes(b"half a file")
    with pytest.raises(FlanlabError, match=r"tuned/\w+/shard-00001.parquet: cannot be read"):
        index_of(fl.open_run(folder), "tuned", TASK)


@pytest.mark.slow
def test_a_hundred_thousand_predictions_are_paged_through(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"tuned": 7}, trained=False)
    place = folder / "predictions" / "tuned" / TASK
    table = pq.read_table(place / "shard-00000.parquet")
    for number in range(125):
        wide = table.take([row % len(table) for row in range(800)])
        numbered = wide.set_column(wide.schema.get_field_index("row"), "row", [list(range(number * 800, number * 800 + 800))])
        pq.write_table(numbered.cast(wide.schema), place / f"shard-{number:05d}.parquet")
    workplace = open_workplace([folder], [], ["sampler"], None, tmp_path)
    page = results_tab.predictions_page(workplace, {"task": TASK, "text": "question 3,", "page": "1"})
    assert f"of {count(100_000)} predictions" in page
    assert page.count('<section class="card') == results_tab.PAGE
    assert len(page) < 100_000
