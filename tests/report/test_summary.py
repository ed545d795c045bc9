"""The summary claims what the intervals allow, and nothing more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flanlab.progress import clock
from flanlab.report.summary import summary
from flanlab.report.training import read_run
from flanlab.report.wording import number, parameters, signed
from tests.report.synthetic import change, make_run, rows_of


def told(folder: Path, **changes: Any) -> str:
    """The summary of a run after changes to the average: metric=(before, after, low, high), chance interval by name."""

    def alter(content: dict[str, Any]) -> None:
        for metric, (before, after, low, high) in changes.items():
            (compared,) = rows_of(content, "differences", level="tasks", metric=metric)
            compared.update(difference=after - before, low=low, high=high)
            for row in rows_of(content, level="tasks", metric=metric):
                mean = after if row["variant"] == "tuned" else before
                row.update(mean=mean, low=mean - 0.1, high=mean + 0.1)
            for row in rows_of(content, "differences", level="task", metric=metric):
                row.update(difference=0.0, low=-0.1, high=0.1)

    change(folder, alter)
    text = " ".join(str(sentence) for sentence in summary(read_run(folder)))
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9})


def test_it_says_what_was_done(folder: Path) -> None:
    text = told(folder)
    assert (
        "The model some/model (135 million parameters) was tuned on 2 tasks of 2 kinds (closed-book QA and"
        " commonsense), on 440 examples in 40 steps. One kind of task was held out, sentiment:"
        " product_reviews and visitor_comments, the same rows before and after."
    ) in text
    assert "NLI" not in text


def test_an_interval_above_zero_is_a_rise(folder: Path) -> None:
    assert (
        "Exact match rose from 30.0 % to 45.0 % on average over 2 tasks (difference +15.0 points, 95 % interval +2.5 to +27.5)"
    ) in told(folder, exact_match=(0.3, 0.45, 0.025, 0.275))


def test_an_interval_below_zero_is_a_fall(folder: Path) -> None:
    assert "Exact match fell from 45.0 % to 30.0 %" in told(folder, exact_match=(0.45, 0.3, -0.275, -0.025))


@pytest.mark.parametrize(
    "numbers", [(0.3, 0.45, -0.02, 0.32), (0.3, 0.45, 0.0, 0.3), (0.45, 0.3, -0.3, 0.0), (0.3, 0.3, 0.0, 0.0)]
)
def test_an_interval_that_includes_zero_is_no_clear_difference(folder: Path, numbers: tuple[float, ...]) -> None:
    text = told(folder, **dict.fromkeys(("valid_answers", "exact_match", "accuracy"), numbers))
    before, after = (f"{100 * number:.1f} %" for number in numbers[:2])
    for title in ("Valid answers", "Exact match", "Ranking accuracy"):
        assert f"{title}: no clear difference on average over 2 tasks: {before} before, {after} after" in text
    assert "rose" not in text
    assert "fell" not in text


def test_an_end_of_an_interval_does_not_round_to_zero_when_it_is_not(folder: Path) -> None:
    assert "interval +0.02 to +30.0" in told(folder, accuracy=(0.3, 0.45, 0.0002, 0.3))


def test_chance_is_beaten_only_where_the_interval_says_so(folder: Path) -> None:

    def said(before: list[float], after: list[float]) -> str:
        def alter(content: dict[str, Any]) -> None:
            for row in rows_of(content, level="tasks", metric="accuracy"):
                low, high = after if row["variant"] == "tuned" else before
                row.update(mean=(low + high) / 2, low=low, high=high)

        change(folder, alter)
        return told(folder)

    told_of = "Guessing would reach 50.0 %: {} it before, {} it after.".format
    assert told_of("not clearly apart from", "not clearly apart from") in said([0.4, 0.6], [0.499, 0.7])
    assert told_of("not clearly apart from", "clearly above") in said([0.4, 0.6], [0.6, 0.7])
    assert told_of("clearly below", "clearly above") in said([0.2, 0.4], [0.6, 0.7])


def test_a_task_that_goes_the_other_way_is_not_hidden(folder: Path) -> None:

    def alter(content: dict[str, Any]) -> None:
        (row,) = rows_of(content, "differences", task="visitor_comments", metric="accuracy")
        row.update(difference=-0.1, low=-0.2, high=-0.01)

    change(folder, alter)
    assert "clearly higher on 1 of 2, clearly lower on 1 (visitor_comments)." in told(folder)


def test_one_task_is_told_without_an_average(tmp_path: Path) -> None:
    text = told(make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9}, tasks=["product_reviews"]))
    assert "average" not in text
    assert "Ranking accuracy rose from 30.0 % to 90.0 % (difference +60.0 points" in text


def test_tasks_without_a_shared_metric_are_told_one_by_one(tmp_path: Path) -> None:
    tasks = ["product_reviews", "everyday_french"]
    text = told(make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9}, tasks=tasks))
    assert "Ranking accuracy rose from 30.0 % to 90.0 % on product_reviews" in text
    assert "BLEU rose from" in text
    assert "on everyday_french (difference" in text


def test_an_evaluation_alone_compares_nothing(tmp_path: Path) -> None:
    text = told(make_run(tmp_path / "run", {"instruction": 8}, trained=False))
    assert text.startswith(
        "The model some/model (135 million parameters) was evaluated on product_reviews and visitor_comments."
    )
    assert "Ranking accuracy on average over 2 tasks: 80.0 % (95 % interval" in text
    assert "clearly above the 50.0 % of guessing" in text
    for word in ("rose", "before", "difference"):
        assert word not in text


def test_overlaps_that_were_trained_on_are_said(tmp_path: Path) -> None:
    overlaps = {"qnli": "shares squad"}
    folder = make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9}, allowed_overlaps=overlaps)
    assert "Not all of that is new to it: it was trained on qnli" in told(folder)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (-0.0, "0.0"), (0.51875, "51.9"), (1.0, "100.0"), (2e-4, "0.02"), (-2e-4, "-0.02"), (1e-9, "0.0")],
)
def test_numbers_are_rounded_for_people(value: float, text: str) -> None:
    assert number(value).replace("\N{MINUS SIGN}", "-") == text


def test_differences_carry_their_sign() -> None:
    assert [signed(value) for value in (0.025, -0.025, 0.0, 1e-9)] == ["+2.5", "\N{MINUS SIGN}2.5", "0.0", "0.0"]


def test_sizes_and_times_are_said_in_words() -> None:
    assert [parameters(134_515_008), parameters(1.71e9), parameters(340)] == ["135 million", "1.7 billion", "340"]
    assert [clock(45), clock(200), clock(5000), clock(float("nan"))] == ["45 s", "3 min", "83 min", "?"]
