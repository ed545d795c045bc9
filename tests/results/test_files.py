"""results.json and scores.parquet: one truth, readable by people and by other programs, refused where it is not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flanlab.errors import FlanlabError
from flanlab.files import read_json, write_json
from flanlab.results.files import read_results, score_table, write_results
from flanlab.results.schema import BEST_ON_DEV, Difference, MetricFacts, Results, Score, TaskFacts, Variant

PLACE: dict[str, Any] = {"level": "task", "task": "anli", "subtask": "r1", "cluster": "natural_language_inference"}


def some_results(**changes: Any) -> Results:
    """An evaluation of one subtask, by an untuned model without exemplars and with two."""
    variants = {
        name: Variant(title=f"{shots} shots", model="some/model", seed=3, settings={"shots": shots, "split": "test"})
        for name, shots in (("plain", 0), ("two", 2))
    }
    scores = [
        Score(**PLACE, metric="accuracy", variant=name, template=template, mean=mean, rows=40, **rest)
        for name in variants
        for template, mean, rest in (
            ("mean", 0.5, {"low": 0.4, "high": 0.6, "std": 0.1, "min": 0.4, "max": 0.6}),
            ("1", 0.4, {}),
            ("2", 0.6, {}),
        )
    ]
    scores.append(
        Score(**PLACE, metric="accuracy", variant="plain", template=BEST_ON_DEV, mean=0.6, low=0.5, high=0.7, rows=40)
    )
    metrics = {"accuracy": MetricFacts(title="accuracy", definition="Share of right answers.", chance=1 / 3)}
    task = TaskFacts(
        clusters=["natural_language_inference"], rows=40, templates=[1, 2], main_metric="accuracy", metrics=metrics
    )
    difference = Difference(
        **PLACE, metric="accuracy", before="plain", after="two", difference=0.0, low=-0.1, high=0.1, p_value=1.0
    )
    facts = {"name": "some", "variants": variants, "tasks": {"anli.r1": task}, "scores": scores, "differences": [difference]}
    return Results.model_validate(facts | changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    results = some_results()
    write_results(results, tmp_path)
    assert read_results(tmp_path) == results
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert sum('"template": "1"' in line for line in text.splitlines()) == 2, "a line for each score"
    assert json.loads(text)["format"] == 2


def test_the_table_says_in_each_row_what_was_asked(tmp_path: Path) -> None:
    write_results(some_results(), tmp_path)
    table = pq.read_table(tmp_path / "scores.parquet").to_pandas()
    assert list(table.columns[:7]) == ["task", "subtask", "cluster", "level", "variant", "metric", "template"]
    chosen = table[(table.template == "mean") & (table.shots == 2)]
    assert chosen[["task", "subtask", "mean", "low", "split", "seed", "model"]].values.tolist() == [
        ["anli", "r1", 0.5, 0.4, "test", 3, "some/model"]
    ]
    assert table.seen.isna().all(), "nothing is known of a model without a stamp"
    assert len(table) == len(score_table(some_results()))


def test_scores_are_found_by_what_they_are_of() -> None:
    results = some_results()
    assert {name: score.mean for name, score in results.scored("task", "anli.r1", "accuracy", "2").items()} == {
        "plain": 0.6,
        "two": 0.6,
    }
    assert results.metrics("task", "anli.r1") == ["accuracy"]
    assert results.difference("task", "anli.r1", "accuracy") is not None
    assert results.scored("clusters", None, "accuracy") == {}


@pytest.mark.parametrize(("number", "hint"), [(1, "Run the command that wrote it again"), (3, "Update flanlab")])
def test_another_format_is_refused(tmp_path: Path, number: int, hint: str) -> None:
    write_results(some_results(), tmp_path)
    write_json(tmp_path / "results.json", read_json(tmp_path / "results.json") | {"format": number})
    with pytest.raises(FlanlabError, match=f"has format {number}, and this version of flanlab reads format 2") as raised:
        read_results(tmp_path)
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found["scores"][0].update(mean=float("nan")), "`scores.1.mean`"),
        (lambda found: found["scores"].pop(0), "expected plain, two, found two"),
        (lambda found: found["scores"][0].update(variant="../up"), "`scores.1.variant`"),
        (lambda found: found["scores"][0].update(metric="bleu"), "anli.r1, bleu: the task or its metric has no facts"),
        (lambda found: found["tasks"]["anli.r1"].update(main_metric="bleu"), "bleu has no scores"),
        (lambda found: found["differences"][0].update(after="gone"), "compares what has no scores"),
        (lambda found: found.pop("variants"), "the field `variants` is missing"),
        (lambda found: found["scores"][0].update(mean=50.0), "`scores.1.mean` should be less than or equal to 1"),
        (lambda found: found["scores"][1].update(mean=-1.5), "`scores.2.mean` should be greater than or equal to -1"),
        (lambda found: found["scores"][0].update(mean=0.7), "`scores.1`: the interval from 0.4 to 0.6 does not contain 0.7"),
        (lambda found: found["scores"][0].update(low=0.6, high=0.4), "the interval from 0.6 to 0.4 does not contain 0.5"),
        (lambda found: found["scores"][0].pop("low"), "`scores.1`: `low` and `high` are missing"),
        (lambda found: found["scores"][0].update(rows=-1), "`scores.1.rows` should be greater than or equal to 0"),
        (lambda found: found["scores"].append(found["scores"][1]), "scores: anli.r1, accuracy, plain, 1: is given twice"),
        (lambda found: found["differences"].append(found["differences"][0]), "differences: anli.r1, accuracy: is given twice"),
        (
            lambda found: found["differences"][0].update(p_value=1.5),
            "`differences.1.p_value` should be less than",
        ),
        (lambda found: found["differences"][0].update(difference=0.2), "from -0.1 to 0.1 does not contain 0.2"),
        (lambda found: found["differences"][0].update(wins=-1), "`differences.1.wins` should be greater than or equal to 0"),
        (lambda found: found["tasks"]["anli.r1"].update(rows=-40), "`tasks.anli.r1.rows` should be greater than or equal to 0"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: Any, message: str) -> None:
    write_results(some_results(), tmp_path)
    content = read_json(tmp_path / "results.json")
    change(content)
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FlanlabError, match=message):
        read_results(tmp_path)
