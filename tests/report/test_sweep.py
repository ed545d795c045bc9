"""The page of a sweep, from files made by hand: what it says, draws and offers for download."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flanlab.errors import FlanlabError
from flanlab.files import write_json, write_text
from flanlab.report.page import Cell, Page, Row, Table, write_page
from flanlab.report.sweep import is_sweep, read_sweep, told, verdict
from flanlab.report.sweep_page import write_sweep_page
from flanlab.results.schema import Results
from tests.report.synthetic import HOSTILE, change, make_run, mark_seen, rows_of

KEYS = {"untuned": "aa", "clusters-1": "bb", "clusters-2": "cc"}
SEEDS = {"clusters-1-seed-1": "dd", "clusters-2-seed-1": "ee", "clusters-2-seed-2": "ff"}


def make_sweep(
    root: Path,
    rights: Mapping[str, Mapping[str, int] | None],
    tasks: Sequence[str] = ("product_reviews", "visitor_comments"),
    **changes: Any,
) -> Path:
    """A sweep of the cells in `rights`; None: not done."""
    keys = KEYS | SEEDS
    for name, right in rights.items():
        if right is not None:
            make_run(root / "cells" / keys[name], right, tasks=tasks, trained=False)
            write_json(root / "cells" / keys[name] / "seconds.json", {"seconds": 60.0})
    cells = [{"name": name, "title": f"the cell {name}", "folders": [f"../cells/{keys[name]}"]} for name in rights]
    points = [[number, f"clusters-{number}"] for number in (1, 2)]
    content = {
        "format": 2,
        "flanlab": "0.0",
        "content": "",
        "name": "clusters",
        "title": "Number of clusters",
        "question": "Does it help?",
        "notes": ["A note."],
        "recipe": {"name": "base", "model": "some/model"},
        "cells": cells,
        "panels": [
            {
                "title": "Lines",
                "kind": "line",
                "series": [{"title": "tuned", "points": points, "dashed": False}],
                "axis": "clusters",
                "reference": "untuned",
                "by_cluster": True,
            },
            {
                "title": "Dots",
                "kind": "dots",
                "series": [{"title": "", "points": points, "dashed": False}],
                "axis": "",
                "reference": None,
                "by_cluster": True,
            },
        ],
        "comparisons": [
            {"before": "clusters-1", "after": "clusters-2"},
            {"before": "untuned", "after": "clusters-2"},
        ],
    }
    write_json(root / "clusters-base" / "sweep.json", {**content, **changes})
    return root / "clusters-base"


@pytest.fixture
def done(tmp_path: Path) -> Path:
    return make_sweep(
        tmp_path,
        {"untuned": {"instruction": 3, "chat": 5}, "clusters-1": {"instruction": 5}, "clusters-2": {"instruction": 8}},
    )


def test_sentences_follow_from_the_numbers(done: Path) -> None:
    first, second = verdict(read_sweep(done))
    assert "“the cell clusters-2” against “the cell clusters-1”: clearly better on 2 of 2 tasks, clearly worse on 0" in first
    assert "+30.0 points" in first
    assert "which includes zero" not in first
    assert "Of the 2 comparisons below, which share cells, 2 show a clearly higher mean" in second


def test_the_untuned_model_stands_with_its_best_prompt(done: Path) -> None:
    sweep = read_sweep(done)
    assert sweep.cells["untuned"].variant == "chat"
    assert sweep.pairs[1].over_clusters.difference == pytest.approx(0.3)


def test_the_prompt_that_stands_for_a_side_is_named(done: Path) -> None:
    against_untuned = told(read_sweep(done).pairs[1])
    assert "“the cell clusters-2” against “the cell untuned” (by its best, chat prompt):" in against_untuned


def test_what_a_model_has_seen_is_marked_wherever_its_scores_stand(done: Path) -> None:
    mark_seen(done.parent / "cells" / "cc", "product_reviews", "instruction")
    sweep = read_sweep(done)
    assert "Scores of “the cell clusters-2” on 1 task of these are marked as seen." in told(sweep.pairs[0])
    page = write_sweep_page(sweep).read_text(encoding="utf-8")
    assert "product_reviews seen" in page
    assert "Scores marked as in-domain are not zero-shot" in page
    lines = list(csv.DictReader(io.StringIO((done / "scores.csv").read_text(encoding="utf-8"))))
    seen = {(line["cell"], line["task"]): line["seen"] for line in lines if line["of"] == "task"}
    assert seen.pop(("clusters-2", "product_reviews")) == "the model was trained on its train rows"
    assert set(seen.values()) == {""}
    means = {line["cell"]: line["seen"] for line in lines if line["of"] == "mean over clusters"}
    assert means == {"untuned": "", "clusters-1": "", "clusters-2": "product_reviews seen"}


def test_there_is_no_spread_over_templates_where_the_results_have_none(done: Path) -> None:
    title = "std over templates,<br>mean over tasks"
    assert title in write_sweep_page(read_sweep(done)).read_text(encoding="utf-8")
    for key in KEYS.values():
        change(done.parent / "cells" / key, lambda r: [row.pop("std", None) for row in r["scores"]])
    assert title not in write_sweep_page(read_sweep(done)).read_text(encoding="utf-8")


def test_the_best_template_on_dev_stands_beside_the_mean(done: Path) -> None:
    def choose(content: dict[str, Any], tasks: Sequence[str], variant: str) -> None:
        for place, task in enumerate(tasks):
            (row,) = rows_of(content, task=task, metric="accuracy", variant=variant)
            content["scores"].append({**row, "template": "best on dev", "mean": 0.825 + place / 10, "low": 0.5, "high": 1.0})

    both = ("product_reviews", "visitor_comments")
    assert "best template on dev" not in plain(write_sweep_page(read_sweep(done)))
    change(done.parent / "cells" / "bb", lambda content: choose(content, both, "instruction"))
    change(done.parent / "cells" / "aa", lambda content: choose(content, both[:1], "chat"))
    page = plain(write_sweep_page(read_sweep(done)))
    # Of the mean over both tasks; the untuned cell lacks one.
    assert re.findall(r"best template on dev ([\d.]+)", page) == ["87.5"]
    assert "“Best template on dev” is" in page
    lines = list(csv.DictReader(io.StringIO((done / "scores.csv").read_text(encoding="utf-8"))))
    found = {(one["cell"], one["variant"], one["of"], one["task"]): one["best_on_dev"] for one in lines if one["best_on_dev"]}
    assert {key: float(score) for key, score in found.items()} == pytest.approx(
        {
            ("clusters-1", "instruction", "task", "product_reviews"): 0.825,
            ("clusters-1", "instruction", "task", "visitor_comments"): 0.925,
            ("clusters-1", "instruction", "cluster", ""): 0.875,
            ("clusters-1", "instruction", "mean over clusters", ""): 0.875,
            ("untuned", "chat", "task", "product_reviews"): 0.825,
        }
    )


def plain(page: Path) -> str:
    return re.sub(r"</?data[^>]*>", "", page.read_text(encoding="utf-8"))


def test_a_cell_of_several_seeds_is_their_mean(tmp_path: Path) -> None:
    right = {"untuned": 3, "clusters-1": 5, "clusters-2": 4, "clusters-2-seed-1": 6, "clusters-2-seed-2": 8}
    sweep = read_sweep(make_sweep(tmp_path, {name: {"instruction": tenths} for name, tenths in right.items()}))
    cell = sweep.cells["clusters-2"]
    score = cell.mean("instruction")
    assert score.mean == pytest.approx(0.6)
    assert score.seeds == 3
    shares = [share or 0 for share in (score.rows_share, score.templates_share, score.seeds_share)]
    assert sum(shares) == pytest.approx(1)
    assert shares[2] > 0.5, "the seeds differ by 20 points"
    low, high = sweep.cells["clusters-1"].mean("instruction").interval
    assert score.interval[0] < low < high < score.interval[1]
    # Each training is paired with the one training of the other cell.
    assert sweep.pairs[0].over_clusters.difference == pytest.approx(0.1)
    page = write_sweep_page(sweep).read_text(encoding="utf-8")
    assert "3 seeds" in page
    assert "trained once" not in page
    assert f"{shares[0]:.0%} / {shares[1]:.0%} / {shares[2]:.0%}" in page
    assert page.count("the cell clusters-2-seed-1") == 1, "in the list of cells only"


def test_a_missing_seed_is_left_out_of_a_pair(tmp_path: Path) -> None:
    right = {"clusters-1": 5, "clusters-1-seed-1": 6, "clusters-2": 6, "clusters-2-seed-1": 7, "clusters-2-seed-2": 10}
    sweep = read_sweep(make_sweep(tmp_path, {name: {"instruction": tenths} for name, tenths in right.items()}))
    assert sweep.pairs[0].over_clusters.difference == pytest.approx(0.1)


def test_no_difference_is_not_called_one(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"clusters-1": {"instruction": 5}, "clusters-2": {"instruction": 5}})
    [first] = verdict(read_sweep(sweep))
    assert "no clear difference on any of 2 tasks" in first
    assert "which includes zero" in first


def test_a_single_column_of_scores_is_aligned_like_its_title(tmp_path: Path) -> None:
    scores = Table("scores", ["sentiment"], [Row("tuned", [Cell(text="one")])])
    write_page(Page("ablation", "title", ["verdict"], {"Scores": [scores]}, ""), tmp_path / "page.html")
    assert "colspan=" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_opens_offline_and_offers_its_data(done: Path) -> None:
    page = write_sweep_page(read_sweep(done)).read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!\.\./|data:|#)', page)
    downloads = re.findall(r'href="data:([\w/+]+);base64,([^"]+)" download="([\w.-]+)"', page)
    assert [name for _, _, name in downloads] == ["clusters-1.svg", "clusters-2.svg", "clusters.csv"]
    for kind, text, _ in downloads[:2]:
        assert kind == "image/svg+xml"
        drawn = base64.b64decode(text).decode()
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
        assert "var(--" not in drawn
    assert (done / "scores.csv").read_text(encoding="utf-8") == base64.b64decode(downloads[2][1]).decode()
    assert (done / "figure-2.svg").is_file()
    labels = re.findall(r'role="img" aria-label="([^"]+)"', page)
    assert "80.0 at 2" in labels[0]
    assert "50.0 dashed" in labels[0]
    assert "3 min" in page  # 60 s each


def test_only_what_is_there_is_linked(done: Path) -> None:
    report = done.parent / "cells" / "cc" / "report.html"
    assert "../cells/cc/" not in write_sweep_page(read_sweep(done)).read_text(encoding="utf-8")
    report.write_text("a report", encoding="utf-8")
    page = write_sweep_page(read_sweep(done)).read_text(encoding="utf-8")
    assert '<a href="../cells/cc/report.html">report</a>' in page


def test_the_models_of_the_cells_are_named(done: Path) -> None:
    assert "Base recipe: base, model some/model." in write_sweep_page(read_sweep(done)).read_text(encoding="utf-8")
    results = done.parent / "cells" / "cc" / "results.json"
    results.write_text(results.read_text(encoding="utf-8").replace("some/model", "larger/model, tuned"), encoding="utf-8")
    page = write_sweep_page(read_sweep(done)).read_text(encoding="utf-8")
    assert "Base recipe: base, models some/model and larger/model." in page


def test_the_table_has_every_cell_and_variant(done: Path) -> None:
    write_sweep_page(read_sweep(done))
    lines = list(csv.DictReader(io.StringIO((done / "scores.csv").read_text(encoding="utf-8"))))
    means = {(line["cell"], line["variant"]): float(line["score"]) for line in lines if line["of"] == "mean over clusters"}
    assert means == pytest.approx(
        {
            ("untuned", "instruction"): 0.3,
            ("untuned", "chat"): 0.5,
            ("clusters-1", "instruction"): 0.5,
            ("clusters-2", "instruction"): 0.8,
        }
    )
    assert {line["task"] for line in lines if line["of"] == "task"} == {"product_reviews", "visitor_comments"}


def test_cells_that_are_not_done_are_told(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"untuned": {"instruction": 3}, "clusters-1": None, "clusters-2": {"instruction": 8}})
    first, second = verdict(read_sweep(sweep))
    assert first == "1 cell of 3 is not done yet."
    assert "clusters-2” against “the cell untuned" in second
    assert "waiting" in write_sweep_page(read_sweep(sweep)).read_text(encoding="utf-8")


def test_a_failed_cell_is_told_with_its_error(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"untuned": {"instruction": 3}, "clusters-1": None})
    facts = read_sweep(sweep).facts.model_dump(mode="json")
    facts["cells"][1]["title"] = HOSTILE
    write_json(sweep / "sweep.json", facts)
    write_text(tmp_path / "cells" / "bb" / "error.txt", f"out of memory {HOSTILE}")
    page = write_sweep_page(read_sweep(sweep)).read_text(encoding="utf-8")
    assert "1 cell failed" in page
    assert "out of memory" in page
    assert "<script" not in page
    assert 'src="https' not in page


def test_nothing_done_is_a_page_too(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"untuned": None, "clusters-1": None})
    assert "nothing to draw" in write_sweep_page(read_sweep(sweep)).read_text(encoding="utf-8")


def test_columns_gathered_from_several_cells_are_told_by_task(tmp_path: Path) -> None:
    series = [
        {"title": "untuned", "points": [[0, "untuned"]], "dashed": False},
        {"title": "tuned", "points": [[0, "clusters-1"]], "dashed": False},
    ]
    panel = {"title": "Dots", "kind": "dots", "series": series, "axis": "", "reference": None, "by_cluster": True}
    rights = {"untuned": {"instruction": 3, "chat": 5}, "clusters-1": {"instruction": 7}}
    tasks = ("product_reviews", "everyday_entailment", "visitor_comments")
    folder = make_sweep(tmp_path, rights, tasks, panels=[panel])
    page = write_sweep_page(read_sweep(folder)).read_text(encoding="utf-8")
    assert "untuned, chat prompt" in page
    assert "product_<wbr>reviews" in page
    # A drawing for each cluster, with a mean where it has several tasks.
    inference, sentiment = re.findall(r'role="img" aria-label="Dots, ([^"]+)"', page)
    assert sentiment.startswith("sentiment, main metric, times 100, with 95 % intervals. product_reviews: untuned")
    assert "visitor_comments" in sentiment
    assert "mean over tasks: untuned" in sentiment
    assert inference.startswith(
        "natural language inference, main metric, times 100, with 95 % intervals. everyday_entailment: untuned"
    )
    assert "mean over tasks" not in inference
    assert len(list(folder.glob("figure-*.svg"))) == 2
    assert re.findall(r'download="([\w.-]+)"', page) == ["clusters-1.svg", "clusters-2.svg", "clusters.csv"]


def test_the_mean_of_a_task_in_parts_is_no_mean_over_tasks(tmp_path: Path) -> None:
    series = [
        {"title": "untuned", "points": [[0, "untuned"]], "dashed": False},
        {"title": "supervised", "points": [[0, "clusters-1"]], "dashed": False},
    ]
    panel = {"title": "Dots", "kind": "dots", "series": series, "axis": "", "reference": None, "by_cluster": True}
    tasks = ("product_reviews", "visitor_comments")
    folder = make_sweep(tmp_path, {"untuned": {"instruction": 3}, "clusters-1": {"instruction": 9}}, tasks, panels=[panel])

    def divide(content: dict[str, Any]) -> None:
        names = dict(zip(content["tasks"], ("old", "new"), strict=True))
        content["tasks"] = {f"product_reviews.{names[name]}": task for name, task in content["tasks"].items()}
        for row in content["scores"] + content["differences"]:
            if row["level"] == "task":
                row["subtask"] = names[row["task"]]
                row["task"] = "product_reviews"

    change(folder.parent / "cells" / "bb", divide)
    page = write_sweep_page(read_sweep(folder)).read_text(encoding="utf-8")
    [drawn] = re.findall(r'role="img" aria-label="Dots, ([^"]+)"', page)
    assert drawn.split(". ")[1] == "mean over tasks: untuned 30.0"


def test_comparisons_that_share_no_cell_are_not_said_to(tmp_path: Path) -> None:
    rights = {"untuned": {"instruction": 3}, "clusters-1": {"instruction": 5}, "clusters-2": {"instruction": 8}}
    folder = make_sweep(tmp_path, rights)
    sweep = read_sweep(folder)
    apart = replace(sweep.pairs[1], before=replace(sweep.cells["untuned"]), after=replace(sweep.cells["clusters-2"]))
    assert "Of the 2 comparisons below, 2 show" in list(verdict(replace(sweep, pairs=[sweep.pairs[0], apart])))[1]


def test_comparisons_task_by_task_are_counted_together(tmp_path: Path) -> None:
    """As prompt tuning has them: the same tasks with few rows, and with all."""
    rights = {"untuned": {"instruction": 3}, "clusters-1": {"instruction": 5}, "clusters-2": {"instruction": 8}}
    folder = make_sweep(tmp_path, rights)
    sweep = read_sweep(folder)
    whole = sweep.pairs[1]
    assert whole.found is not None
    pairs = []
    for _ in ("few", "all"):
        for task in ("product_reviews", "visitor_comments"):
            facts = {**dict(whole.found), "tasks": {task: whole.found.tasks[task]}}
            facts["scores"] = [row for row in whole.found.scores if row.level != "task" or row.name == task]
            facts["differences"] = [row for row in whole.found.differences if row.level != "task" or row.name == task]
            pairs.append(replace(whole, found=Results(**facts)))
    few, everything = verdict(replace(sweep, pairs=pairs))
    assert few == everything
    assert few == (
        "“the cell clusters-2” against “the cell untuned”, and 1 comparison like it: clearly better on 2 of 2 tasks,"
        " clearly worse on 0."
    )
    [alone] = verdict(replace(sweep, pairs=pairs[:2]))
    assert alone.startswith("Over 2 comparisons")


def test_a_damaged_file_is_told(done: Path) -> None:
    (done / "sweep.json").write_text("{}", encoding="utf-8")
    assert is_sweep(done)
    with pytest.raises(FlanlabError, match=r"sweep\.json: is damaged"):
        write_sweep_page(read_sweep(done))
