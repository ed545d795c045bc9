"""Two folders compared: the right pairs, the right words, and a page that is safe to open."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.cli.tables import print_results
from flanlab.errors import FlanlabError
from flanlab.evaluation.comparison import compare_sides
from flanlab.evaluation.sides import open_side
from flanlab.report.comparison import counts_told, outcomes, verdict, write_comparison
from flanlab.report.views import difference_cell, seen_by
from flanlab.report.wording import unclear_told
from flanlab.results.schema import MAIN_METRIC, Difference, Results
from tests.evaluation.test_paired import compared as compared_predictions
from tests.evaluation.test_results import prediction
from tests.report.synthetic import HOSTILE, change, make_run, mark_seen
from tests.report.test_report import Page

TASKS = ("product_reviews", "visitor_comments", "everyday_french")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A run whose tuned model has 5 of 10 right, its chat prompt 9; and an evaluation with 8 of 10."""
    run = make_run(tmp_path / "run", {"untuned_instruction": 3, "untuned_chat": 9, "tuned": 5}, tasks=TASKS)
    return run, make_run(tmp_path / "eval", {"instruction": 8}, tasks=TASKS, trained=False)


def compared(*folders: Path | str) -> Results:
    first, second = (open_side(str(folder)) for folder in folders)
    return compare_sides(first, second)


def difference(results: Results, task: str, metric: str = "accuracy") -> Difference:
    row = results.difference("task", task, metric)
    assert row is not None
    return row


def asked(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of an evaluation's variant."""
    settings: dict[str, Any] = content["variants"]["instruction"]["settings"]
    return settings


def test_tuned_variant_of_a_run_against_an_evaluation(folders: tuple[Path, Path]) -> None:
    found = compared(*folders)
    assert {name: side.variant for name, side in found.variants.items()} == {"a": "tuned", "b": "instruction"}
    assert found.variants["a"].folder == str(folders[0])
    assert list(found.tasks) == sorted(TASKS)
    one = difference(found, "visitor_comments")
    assert one.difference == pytest.approx(0.3)
    assert one.is_clear
    family = [difference(found, name, task.main_metric) for name, task in found.tasks.items()]
    smallest = min(family, key=lambda row: row.p_value)
    assert smallest.p_holm == pytest.approx(min(1, 3 * smallest.p_value))
    assert difference(found, "visitor_comments", "exact_match").p_holm is None, "only main metrics are the family"
    assert set(found.clusters) == {"sentiment", "translation"}
    over = found.difference("clusters", None, MAIN_METRIC)
    parts = [found.difference("cluster", name, MAIN_METRIC) for name in found.clusters]
    assert over is not None
    assert over.difference == pytest.approx(sum(part.difference for part in parts if part) / 2)


def test_another_variant_after_a_colon(folders: tuple[Path, Path]) -> None:
    found = compared(f"{folders[0]}:untuned_chat", folders[1])
    assert difference(found, "visitor_comments").difference == pytest.approx(-0.1)
    assert not found.variants["a"].stamped
    with pytest.raises(FlanlabError, match="no variant chat") as caught:
        open_side(f"{folders[0]}:chat")
    assert "untuned_chat" in caught.value.hint


def test_same_folder_twice_is_no_difference(folders: tuple[Path, Path]) -> None:
    found = compared(folders[0], folders[0])
    for row in found.differences:
        assert (row.difference, row.p_value) == (0.0, 1.0)
        assert row.low < 0 < row.high
    assert "On all of them no difference is clear, which does not make the two equal." in verdict(found)
    sizes = [difference(found, name, task.main_metric).detectable or 0 for name, task in found.tasks.items()]
    told = f"A difference of {100 * max(sizes):.1f} points would have been detected there"
    assert any(sentence.startswith(told) for sentence in verdict(found)), verdict(found)


def test_one_task_without_a_clear_difference_says_what_would_have_been_seen(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"instruction": 8}, tasks=TASKS[:1], trained=False)
    found = compared(one, one)
    size = difference(found, TASKS[0]).detectable
    assert size is not None
    assert f"A difference of {100 * size:.1f} points would have been detected (80 % power)." in verdict(found)
    shown = CliRunner().invoke(app, ["compare", str(one), str(one), "--out", str(tmp_path / "page.html")]).output
    for told in (f"{100 * size:.1f} detectable", f"rows: 0 better, 0 worse, {found.tasks[TASKS[0]].rows} equal"):
        assert told in " ".join(shown.split())
        assert told in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_intervals_that_cannot_be_estimated_are_said_and_others_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ends of a single row's interval are those of everything there could be, which would look like an estimate."""
    first, second = ([prediction(row, 1, row % 2 == side) for row in range(20)] for side in range(2))
    alone = compared_predictions(tmp_path / "one", first[:1], second[:1], split="test")
    several = compared_predictions(tmp_path / "several", first, second, split="test")
    pages = []
    for results in (alone, several):
        write_comparison(results, tmp_path / "page.html")
        print_results(results)
        told = " ".join(capsys.readouterr().out.split())
        cannot = f"{3 * len(results.metrics('task', 'comments'))} intervals cannot be estimated: too few rows."
        for place in (told, " ".join(verdict(results))):
            assert (cannot in place) == (results is alone), "of both sides and the difference, and not of means over one task"
        pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "be estimated: too few rows." in pages[0]
    assert "intervals: one template: over rows alone." in pages[1]


def test_where_no_difference_could_be_seen_it_is_said(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"instruction": 8}, tasks=TASKS[:1], trained=False)
    found = compared(one, one)
    row = difference(found, TASKS[0]).model_copy(update={"detectable": None})
    assert difference_cell(row).marks == ["nothing detectable"]
    tested = [row.model_copy(update={"margin": 0.5, "p_equivalence": p_value}) for p_value in (0.04, 0.06)]
    assert [difference_cell(one).marks[1:] for one in tested] == [["equivalent within 50.0"], []]
    assert unclear_told(row) == " No difference, however large, would have been detected with 80 % power."
    blind = Results.model_validate(found.model_dump() | {"differences": [row.model_dump()]})
    assert "On 1 of 1 task no difference, however large, would have been detected." in verdict(blind)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda r: r["variants"]["instruction"].update(seed=4), r"seed: 0 in A, 4 in B"),
        (lambda r: asked(r).update(options="none"), r"options: shuffled in A, none in B"),
        (lambda r: asked(r).update(truncate="middle"), r"truncate: end in A, middle in B"),
        (lambda r: asked(r).update(end_token=False), r"end_token: True in A, False in B"),
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


def test_one_model_asked_in_two_ways(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "ways", {"instruction": 3, "chat": 9}, tasks=TASKS, trained=False)

    def same_model(results: dict[str, Any]) -> None:
        for variant in results["variants"].values():
            variant.update(identity="one", title="instruction prompt")
        results["variants"]["chat"]["settings"].update(options="none")

    change(run, same_model)
    found = compared(run, f"{run}:chat")
    assert [side.title for side in found.variants.values()] == [
        "instruction prompt, options shuffled",
        "instruction prompt, options none",
    ]
    told = "A and B are one model, asked in two ways: options (shuffled, none). Differences are between these ways."
    assert told in verdict(found)
    write_comparison(found, tmp_path / "page.html")
    assert "some/model, instruction prompt, options none" in (tmp_path / "page.html").read_text(encoding="utf-8")
    change(run, lambda r: r["variants"]["chat"]["settings"].update(split="dev"))
    with pytest.raises(FlanlabError, match="split: test in A, dev in B"):
        compared(run, f"{run}:chat")
    assert "Not only the model differs, but also shots (0, 4): the difference is of both together." in verdict(
        compared(folders[0], with_shots(folders[1]))
    )


def with_shots(folder: Path) -> Path:
    """An evaluation, changed to have been asked after four exemplars."""
    change(folder, lambda r: asked(r).update(shots=4))
    return folder


def test_what_a_side_was_trained_on_is_in_domain_and_has_no_part_in_averages(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"tuned": 5}, tasks=TASKS, in_domain=["product_reviews"])
    other = make_run(tmp_path / "other", {"instruction": 8}, tasks=TASKS, trained=False)
    found = compared(run, other)
    assert found.in_domain == ["product_reviews"]
    assert found.clusters["sentiment"] == ["visitor_comments"]
    assert "A was trained on train rows of product_reviews: its scores there are in-domain, not zero-shot." in verdict(found)
    write_comparison(found, tmp_path / "page.html")
    shown = " ".join(Page((tmp_path / "page.html").read_text(encoding="utf-8")).text.split())
    assert "product_reviews Ranking accuracy in-domain for A" in shown
    assert "mean over in-domain tasks" in shown
    assert compared(other, other).in_domain == []


def test_how_much_was_asked_may_differ(folders: tuple[Path, Path]) -> None:
    change(folders[1], lambda r: asked(r).update(rows=7, templates_per_row=2, token_budget=1))
    other = make_run(folders[0].parent / "more", {"instruction": 8}, tasks=TASKS[:2], trained=False)
    found = compared(folders[1], other)
    assert found.only == {"a": ["everyday_french"], "b": []}


def test_results_without_hashes_are_refused(folders: tuple[Path, Path]) -> None:
    change(folders[0], lambda r: r["tasks"]["product_reviews"].pop("hashes"))
    with pytest.raises(FlanlabError, match="product_reviews: the hashes of task and rows are not known of both"):
        compared(*folders)


def test_no_common_task_and_damaged_predictions(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", {"instruction": 8}, tasks=["short_facts"], trained=False)
    with pytest.raises(FlanlabError, match="no task in common"):
        compared(folders[0], other)
    next(folders[1].glob("predictions/*/*/shard-00000.parquet")).write_text("no parquet")
    with pytest.raises(FlanlabError, match="cannot be read"):
        compared(*folders)


def test_verdict_says_what_the_numbers_say(folders: tuple[Path, Path]) -> None:
    mark_seen(folders[0], "product_reviews", "tuned")
    found = compared(*folders)
    # One clearly better before the correction alone, one clearly worse, one not clear.
    changes: dict[str, dict[str, float]] = {
        "product_reviews": {"low": 0.1, "high": 0.2, "difference": 0.15, "p_holm": 0.2},
        "visitor_comments": {"low": -0.2, "high": -0.1, "difference": -0.15, "p_holm": 0.01},
        "everyday_french": {"low": -0.1, "high": 0.1, "difference": 0.0},
    }
    rows = [
        row.model_copy(update=changes[str(row.name)]) if row.level == "task" and row.p_holm is not None else row
        for row in found.differences
    ]
    found = Results(**{**dict(found), "differences": rows})
    assert outcomes(found) == {"tests": 3, "better": 1, "better_holm": 0, "worse": 1, "worse_holm": 1, "unclear": 1}
    text = " ".join(verdict(found))
    assert text.startswith(
        "B is clearly better on 1 of 3 tasks and clearly worse on 1 (95 % intervals that exclude zero);"
        " after Holm's correction over the 3, better on 0 and worse on 1. On the other 1 no difference is clear"
    )
    assert "A was trained on product_reviews, or on something close: its scores there are not zero-shot." in text
    assert text.count("unknown") == 1
    assert "Whether B has seen these tasks is unknown: it carries no stamp." in text


def test_counts_follow_from_the_tests(folders: tuple[Path, Path]) -> None:
    assert outcomes(compared(*folders)) == Counter(tests=3, better=3, better_holm=3)
    assert outcomes(compared(*folders[::-1])) == Counter(tests=3, worse=3, worse_holm=3)


def test_the_headline_counts_every_metric(folders: tuple[Path, Path]) -> None:
    found = compared(*folders)
    told = counts_told(found)
    assert told.startswith(
        "B is clearly better on 0 and worse on 0 of 2 tasks by valid answers; clearly better on 2 and worse on 0"
    )
    assert "of 2 tasks by exact match, ranking accuracy, probability of right," in told
    assert "clearly better on 1 and worse on 0 of 1 task by BLEU" in told


def test_seen_counts_for_the_variant_that_has_a_stamp(folders: tuple[Path, Path]) -> None:
    mark_seen(folders[0], "product_reviews", "tuned")
    found = compared(*folders)
    assert (found.seen_tasks("a"), found.seen_tasks("b")) == (["product_reviews"], [])
    assert (seen_by(found, found.tasks), seen_by(found, ["visitor_comments"])) == ("A", "")
    untuned = compared(f"{folders[0]}:untuned_chat", folders[1])
    assert untuned.seen_tasks("a") == []


def test_the_title_names_a_model_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    change(folders[1], lambda r: (r.update(name="evaluation of one"), r["variants"]["instruction"].update(model="one")))
    write_comparison(compared(*folders), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "B: one, " in page
    assert "(evaluation of one)" not in page


def test_page_holds_the_numbers_and_obeys_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    change(folders[1], lambda r: (r.update(name=HOSTILE), r["variants"]["instruction"].update(model=HOSTILE)))
    mark_seen(folders[0], "product_reviews", "tuned")
    found = compared(*folders)
    write_comparison(found, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    shown = set(page.values)
    for row in found.differences:
        if row.level == "task":
            assert {row.difference, *row.interval, row.p_value} <= shown
            assert found.scored("task", row.name, row.metric)["a"].mean in shown
            assert row.p_holm is None or row.p_holm in shown
    over = found.difference("clusters", None, MAIN_METRIC)
    assert over is not None
    assert over.difference in shown
    text = " ".join(page.text.split())
    assert "product_reviews Ranking accuracy seen in training by A" in text
    assert "sentiment, 2 tasks seen in training by A" in text
    assert "translation, 1 task seen" not in text
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert re.findall(r"@import|url\((?!#)", page.source) == []
    assert "correction is over 3 tests" in page.text
    assert re.findall(r"<h1>(.*?)</h1>", page.source) == [
        f"A: some/model, tuned (synthetic)<br>B: {html.escape(HOSTILE, quote=False)}, instruction prompt"
        f" ({html.escape(HOSTILE, quote=False)})".replace('"', "&#34;")
    ]
    assert next(iter(verdict(found))) in page.text
    assert len(page.ids) == len(set(page.ids))


def test_command_prints_a_table_or_json(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = map(str, folders)
    result = CliRunner().invoke(app, ["compare", first, second, "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "B is clearly better on 3 of 3 tasks" in " ".join(result.output.split())
    assert (tmp_path / "page.html").exists()
    result = CliRunner().invoke(app, ["compare", first, second, "--json"])
    assert Results.model_validate(json.loads(result.stdout)) == compared(*folders)
    assert CliRunner().invoke(app, ["compare", first]).exit_code == 2
    assert CliRunner().invoke(app, ["report", first, "--json"]).exit_code == 2


def test_two_precisions_are_flagged(folders: tuple[Path, Path]) -> None:
    change(folders[0], lambda r: [variant.update(dtype="float32") for variant in r["variants"].values()])
    change(folders[1], lambda r: r["variants"]["instruction"].update(dtype="bfloat16"))
    assert any("A was scored in float32 and B in bfloat16" in sentence for sentence in verdict(compared(*folders)))
    change(folders[1], lambda r: r["variants"]["instruction"].update(dtype="float32"))
    assert not any("scored in" in sentence for sentence in verdict(compared(*folders)))
