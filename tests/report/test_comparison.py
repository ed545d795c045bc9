"""Two folders compared: the right pairs, the right words, and a page that is safe to open."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.files import read_json, write_json
from flanlab.report.comparison import compare_sides, open_side, verdict
from flanlab.report.comparison_page import write_comparison
from tests.report.synthetic import HOSTILE, make_run
from tests.report.test_report import Page

TASKS = ("product_reviews", "visitor_comments", "everyday_french")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A run whose tuned model has 5 of 10 right, its chat prompt 9; and an evaluation with 8 of 10."""
    run = make_run(tmp_path / "run", {"untuned_instruction": 3, "untuned_chat": 9, "tuned": 5}, tasks=TASKS)
    return run, make_run(tmp_path / "eval", {"instruction": 8}, tasks=TASKS, trained=False)


def compared(*folders: Path | str) -> dict[str, Any]:
    first, second = (open_side(str(folder)) for folder in folders)
    return compare_sides(first, second)


def change(folder: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    results = read_json(folder / "results.json")
    how(results)
    write_json(folder / "results.json", results)


def test_tuned_variant_of_a_run_against_an_evaluation(folders: tuple[Path, Path]) -> None:
    found = compared(*folders)
    assert (found["a"]["variant"], found["b"]["variant"]) == ("tuned", "instruction")
    assert found["family"] == list(found["tasks"]) == sorted(TASKS)
    one = found["tasks"]["visitor_comments"]["comparison"]["accuracy"]
    assert one["difference"] == pytest.approx(0.3)
    assert one["excludes_zero"]
    assert one["p_holm"] == pytest.approx(3 * one["p_value"])
    assert "p_holm" not in found["tasks"]["visitor_comments"]["comparison"]["exact_match"], "only main metrics are the family"
    assert set(found["clusters"]) == {"sentiment", "translation"}
    over = found["cluster_average"]["comparison"]["main_metric"]["difference"]
    assert over == pytest.approx(
        sum(part["comparison"]["main_metric"]["difference"] for part in found["clusters"].values()) / 2
    )


def test_another_variant_after_a_colon(folders: tuple[Path, Path]) -> None:
    found = compared(f"{folders[0]}:untuned_chat", folders[1])
    assert found["tasks"]["visitor_comments"]["comparison"]["accuracy"]["difference"] == pytest.approx(-0.1)
    assert not found["a"]["stamped"]
    with pytest.raises(FlanlabError, match="no variant chat") as caught:
        open_side(f"{folders[0]}:chat")
    assert "untuned_chat" in caught.value.hint


def test_same_folder_twice_is_no_difference(folders: tuple[Path, Path]) -> None:
    found = compared(folders[0], folders[0])
    for entry in found["tasks"].values():
        for one in entry["comparison"].values():
            assert (one["difference"], one["interval"], one["p_value"]) == (0.0, [0.0, 0.0], 1.0)
    assert "On all of them no difference is clear, which does not make the two equal." in verdict(found)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda r: r["evaluation"].update(seed=4), r"seed: 0 in A, 4 in B"),
        (lambda r: r["evaluation"]["settings"].update(options="none"), r"options: shuffled in A, none in B"),
        (lambda r: r["evaluation"]["settings"].update(truncate="middle"), r"truncate: end in A, middle in B"),
        (lambda r: r["evaluation"]["settings"].update(end_token=False), r"end_token: True in A, False in B"),
        (
            lambda r: r["tasks"]["product_reviews"]["hashes"].update(rows="x"),
            r"product_reviews: the rows come from other content",
        ),
        (lambda r: r["tasks"]["product_reviews"]["hashes"].update(task="x"), r"product_reviews: the task's file differs"),
    ],
)
def test_what_was_not_asked_alike_is_not_paired(folders: tuple[Path, Path], how: Any, told: str) -> None:
    change(folders[1], how)
    with pytest.raises(FlanlabError, match=told) as caught:
        compared(*folders)
    assert caught.value.hint


def test_how_much_was_asked_may_differ(folders: tuple[Path, Path]) -> None:
    change(folders[1], lambda r: r["evaluation"]["settings"].update(rows=7, templates_per_row=2, token_budget=1))
    change(folders[1], lambda r: r["tasks"].pop("everyday_french"))
    found = compared(*folders)
    assert found["only"] == {"a": ["everyday_french"], "b": []}


def test_results_that_do_not_say_what_was_asked_are_refused(folders: tuple[Path, Path]) -> None:
    change(folders[0], lambda r: r.pop("evaluation"))
    with pytest.raises(FlanlabError, match="older version"):
        compared(*folders)


def test_no_common_task_and_damaged_predictions(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", {"instruction": 8}, tasks=["short_facts"], trained=False)
    with pytest.raises(FlanlabError, match="no task in common"):
        compared(folders[0], other)
    next(folders[1].glob("predictions/*/*/part-00000.parquet")).write_text("no parquet")
    with pytest.raises(FlanlabError, match="is damaged"):
        compared(*folders)


def test_verdict_says_what_the_numbers_say(folders: tuple[Path, Path]) -> None:
    found = compared(*folders)
    names = list(found["tasks"])
    found["counts"] = {"tests": 7, "better": 3, "better_holm": 2, "worse": 1, "worse_holm": 0}
    found["tasks"][names[1]]["seen"]["a"] = "the model was trained on it"
    text = " ".join(verdict(found))
    assert text.startswith(
        "B is better on 3 of 7 tasks with intervals that exclude zero, and worse on 1; after Holm's correction over the 7,"
        " better on 2 and worse on 0. On the other 3 no difference is clear"
    )
    assert f"Training has shown A {names[1]}, or what is close" in text
    assert text.count("unknown") == 1
    assert "Whether B has seen these tasks is unknown: it carries no stamp." in text


def test_counts_follow_from_the_tests(folders: tuple[Path, Path]) -> None:
    assert compared(*folders)["counts"] == {"tests": 3, "better": 3, "better_holm": 3, "worse": 0, "worse_holm": 0}
    assert compared(*folders[::-1])["counts"] == {"tests": 3, "better": 0, "better_holm": 0, "worse": 3, "worse_holm": 3}


def test_seen_counts_for_the_variant_that_has_a_stamp(folders: tuple[Path, Path]) -> None:
    change(folders[0], lambda r: r["tasks"]["product_reviews"].update(seen="the model was trained on it"))
    assert compared(*folders)["tasks"]["product_reviews"]["seen"] == {"a": "the model was trained on it", "b": None}
    untuned = compared(f"{folders[0]}:untuned_chat", folders[1])
    assert untuned["tasks"]["product_reviews"]["seen"] == {"a": None, "b": None}


def test_page_holds_the_numbers_and_obeys_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    change(folders[1], lambda r: r.update(name=HOSTILE, model=HOSTILE))
    change(folders[0], lambda r: r["tasks"]["product_reviews"].update(seen="the model was trained on it"))
    found = compared(*folders)
    write_comparison(found, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    shown = set(page.values)
    for entry in found["tasks"].values():
        for metric, one in entry["comparison"].items():
            assert {one["difference"], *one["interval"], one["p_value"], entry["scores"][metric]["a"]["mean"]} <= shown
        assert entry["comparison"][entry["main_metric"]]["p_holm"] in shown
    assert found["cluster_average"]["comparison"]["main_metric"]["difference"] in shown
    assert "A saw it in training" in page.text
    assert "sentiment, 2 tasks with tasks seen by A" in page.text
    assert "translation, 1 task with" not in page.text
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert re.findall(r"@import|url\((?!#)", page.source) == []
    assert "a family of 3 tests" in page.text
    assert len(page.ids) == len(set(page.ids))


def test_command_prints_a_table_or_json(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = map(str, folders)
    result = CliRunner().invoke(app, ["report", "--compare", first, second, "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "B is better on 3 of 3 tasks" in " ".join(result.output.split())
    assert (tmp_path / "page.html").exists()
    result = CliRunner().invoke(app, ["report", "--compare", first, second, "--json"])
    assert json.loads(result.output) == compared(*folders)
    assert CliRunner().invoke(app, ["report", "--compare", first]).exit_code == 2
    assert CliRunner().invoke(app, ["report", first, "--json"]).exit_code == 2


def test_two_precisions_are_flagged(folders: tuple[Path, Path]) -> None:
    assert not any("scored in" in sentence for sentence in verdict(compared(*folders)))
    for folder, dtype in zip(folders, ("float32", "bfloat16"), strict=True):
        change(folder, lambda results, dtype=dtype: results.update(precision={"scoring": dtype}))  # type: ignore[misc]
    assert any("A was scored in float32 and B in bfloat16" in sentence for sentence in verdict(compared(*folders)))
