"""Results from predictions on disk, and before against after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flanlab.evaluation.metrics.options import with_counted_scores
from flanlab.evaluation.scores import ScoredTask, build_results, score_task
from flanlab.results.files import PREDICTION_SCHEMA
from flanlab.results.schema import MAIN_METRIC, Level, Results, Score, Variant
from flanlab.results.statistics import mean_of
from flanlab.tasks.schema import Task
from tests.tiny import tiny_tasks

Predictions = dict[str, list[dict[str, Any]]]
"""By variant."""


@pytest.fixture
def comments(tmp_path: Path) -> Task:
    return tiny_tasks(tmp_path / "tasks")[0]


def prediction(row: int, template: int, right: bool, answer: int = 0, **changes: Any) -> dict[str, Any]:
    """A prediction that ranks the right option first, or last."""
    best = answer if right else 1 - answer
    scores = [-1.0 if option == best else -2.0 for option in range(2)]
    return {
        "task": "comments",
        "template": template,
        "row": row,
        "group": None,
        "prompt": "?",
        "options": ["negative", "positive"],
        "own_options": ["negative", "positive"],
        "option_scores": scores,
        "option_scores_without_end": [-score - 3 for score in scores],
        "option_scores_alone": [-2.0, -2.0],
        "option_scores_alone_without_end": [-1.0, -1.0],
        "option_tokens": [2, 2],
        "answer": answer,
        "references": [["negative", "positive"][answer]],
        "gold_value": None,
        "generated": ["negative", "positive"][best],
        "shortened": False,
    } | changes


def free_answer(row: int, template: int, generated: str, reference: str) -> dict[str, Any]:
    """A prediction of a task without options."""
    nothing: dict[str, list[Any]] = {name: [] for name in PREDICTION_SCHEMA.names if "option" in name}
    given = prediction(row, template, True, generated=generated, references=[reference])
    return {**given, **nothing, "answer": None}


def write(folder: Path, predictions: list[dict[str, Any]], parts: int = 1) -> Path:
    folder.mkdir(parents=True)
    for number in range(parts):
        table = pa.Table.from_pylist(predictions[number::parts], schema=PREDICTION_SCHEMA)
        pq.write_table(table.replace_schema_metadata({"key": str(number)}), folder / f"shard-{number:05d}.parquet")
    return folder


def is_right(one: dict[str, Any]) -> bool:
    return bool(np.argmax(one["option_scores"]) == one["answer"])


def random_predictions(seed: int, rows: int = 40, chance: float = 0.6) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    answers = np.random.default_rng(99).integers(0, 2, rows)
    return [
        prediction(row, template, bool(generator.random() < chance), int(answers[row]))
        for row in range(rows)
        for template in (1, 2, 3)
    ]


def scored(task: Task, end_token: bool = True, seen: str | None = None, **predictions: list[dict[str, Any]]) -> ScoredTask:
    counted = {name: with_counted_scores(rows, end_token) for name, rows in predictions.items()}
    return score_task(task, counted, seen=seen)


def built(*tasks: ScoredTask, before: Sequence[str] = (), after: str = "", stamped: Sequence[str] = ()) -> Results:
    names = dict.fromkeys(score.variant for task in tasks for score in task.scores)
    variants = {name: Variant(title=name, model="some/model", stamped=name in stamped) for name in names}
    return build_results(tasks, variants, before=before, after=after, name="test")


def by_template(results: Results, metric: str, variant: str, name: str = "comments") -> dict[str, float]:
    return {
        score.template: score.mean
        for score in results.scores
        if (score.name, score.metric, score.variant) == (name, metric, variant) and score.template != "mean"
    }


def one(results: Results, metric: str, variant: str = "tuned", name: str | None = "comments", level: Level = "task") -> Score:
    return results.scored(level, name, metric)[variant]


def test_a_task_by_hand(comments: Task) -> None:
    predictions = [
        prediction(0, 1, True, 0),
        prediction(1, 1, True, 1),
        prediction(2, 1, True, 1),
        prediction(3, 1, False, 1, generated="no idea", shortened=True),
        prediction(0, 2, False, 0),
        prediction(1, 2, False, 1),
        prediction(2, 2, True, 1),
        prediction(3, 2, False, 1),
    ]
    task = scored(comments, tuned=predictions)
    results = built(task)
    facts = results.tasks["comments"]
    assert (facts.clusters, facts.rows, facts.templates, facts.shortened) == (["sentiment"], 4, [1, 2], 1)
    assert (facts.main_metric, facts.groups) == ("accuracy", None)
    assert list(facts.metrics)[:4] == ["accuracy", "exact_match", "valid_answers", "answer_probability"]
    assert (facts.chance, facts.majority) == (0.5, 0.75)
    pmi, probability = facts.metrics["accuracy_pmi"], facts.metrics["answer_probability"]
    assert (pmi.chance, pmi.majority) == (0.5, 0.75)
    assert (probability.chance, probability.majority) == (0.5, None)
    assert facts.metrics["valid_answers"].chance is None
    assert results.metrics("task", "comments") == list(facts.metrics)
    assert {metric.signature for metric in facts.metrics.values()} == {None}
    score = one(results, "accuracy")
    assert by_template(results, "accuracy", "tuned") == {"1": 0.75, "2": 0.25}
    assert (score.mean, score.min, score.max, score.std, score.rows) == (0.5, 0.25, 0.75, 0.25, 4)
    estimate = task.estimates["accuracy"]["tuned"]
    assert (score.interval, score.standard_error) == ((estimate.low, estimate.high), estimate.standard_error)
    assert by_template(results, "valid_answers", "tuned") == {"1": 0.75, "2": 1.0}
    assert by_template(results, "exact_match", "tuned") == {"1": 0.75, "2": 0.25}
    share = 1 / (1 + np.exp(-1))
    assert by_template(results, "answer_probability", "tuned")["2"] == pytest.approx((share + 3 * (1 - share)) / 4)


def test_there_is_a_spread_over_templates_only_where_all_were_asked_the_same_rows(comments: Task) -> None:
    apart = [prediction(row, 1 + row % 2, row < 3) for row in range(4)]
    alone = [prediction(row, 1, row < 3) for row in range(4)]
    results = built(scored(comments, apart=apart, alone=alone))
    assert by_template(results, "accuracy", "apart") == {"1": 1.0, "2": 0.5}
    for variant in ("apart", "alone"):
        score = one(results, "accuracy", variant)
        assert (score.std, score.min, score.max) == (None, None, None)


def test_end_token_setting_decides_which_scores_count(comments: Task) -> None:
    """The scores without the end token rank the other way round here."""
    predictions = [prediction(row, 1, True) for row in range(4)]
    assert one(built(scored(comments, tuned=predictions)), "accuracy").mean == 1.0
    assert one(built(scored(comments, end_token=False, tuned=predictions)), "accuracy").mean == 0.0


def test_a_single_row_has_an_interval_of_everything_and_says_why(comments: Task) -> None:
    score = one(built(scored(comments, tuned=[prediction(0, 1, True)])), "accuracy")
    assert (score.interval, score.standard_error) == ((0.0, 1.0), None)
    assert "cannot be estimated" in score.note


def test_identical_predictions_differ_by_exactly_nothing(comments: Task) -> None:
    predictions = random_predictions(1)
    results = built(scored(comments, before=predictions, after=predictions), before=["before"], after="after")
    assert len(results.differences) > 7
    for row in results.differences:
        assert row.difference == 0.0
        assert row.low == -row.high < 0, "40 rows without a difference do not show that there is none"
        assert not row.is_clear


def test_comparison_is_paired_by_row_and_template(comments: Task) -> None:
    """Rows differ wildly, but every row of `after` is as good or better: unpaired intervals would overlap."""
    before = [p for p in random_predictions(1) if p["template"] == 1]
    after = [prediction(p["row"], p["template"], is_right(p) or p["row"] % 4 == 0, p["answer"]) for p in before]
    results = built(scored(comments, before=before, after=after[::-1]), before=["before"], after="after")
    found = results.difference("task", "comments", "accuracy")
    assert found is not None
    by_hand = np.mean([is_right(p) for p in after]) - np.mean([is_right(p) for p in before])
    assert found.difference == pytest.approx(by_hand)
    assert found.losses == 0
    assert found.low >= 0
    errors = [one(results, "accuracy", variant).standard_error or 0.0 for variant in ("before", "after")]
    assert found.standard_error is not None
    assert found.standard_error < 0.8 * np.hypot(*errors), "what it would be if they were not paired"


def test_clear_difference_excludes_zero(comments: Task) -> None:
    task = scored(comments, before=random_predictions(1, chance=0.3), after=random_predictions(2, chance=0.95))
    better = built(task, before=["before"], after="after").difference("task", "comments", "accuracy")
    worse = built(task, before=["after"], after="before").difference("task", "comments", "accuracy")
    assert better is not None
    assert worse is not None
    assert better.is_clear
    assert worse.is_clear
    assert worse.difference == -better.difference < 0


def test_untuned_model_is_given_the_better_of_its_prompt_styles_by_metric(comments: Task) -> None:
    task = scored(
        comments,
        plain=[prediction(row, 1, row < 5) for row in range(10)],
        chat=[prediction(row, 1, True, generated="no idea") for row in range(10)],
        tuned=[prediction(row, 1, row < 9) for row in range(10)],
    )
    results = built(task, before=["plain", "chat"], after="tuned")
    accuracy, match = (results.difference("task", "comments", metric) for metric in ("accuracy", "exact_match"))
    assert accuracy is not None
    assert match is not None
    assert (accuracy.before, accuracy.difference) == ("chat", pytest.approx(-0.1))
    assert (match.before, match.difference) == ("plain", pytest.approx(0.4))


def test_incomplete_design_and_generation_task(tmp_path: Path) -> None:
    counting = tiny_tasks(tmp_path / "tasks")[1]
    predictions = [
        free_answer(row, 1 + (row + turn) % 3, str(row) if row % 2 else f"the number {row}", str(row))
        for row in range(9)
        for turn in range(2)
    ]
    results = built(scored(counting, tuned=predictions))
    facts = results.tasks["counting"]
    assert (facts.main_metric, facts.chance, facts.majority) == ("exact_match", None, None)
    assert not facts.is_classification
    for template, mean in by_template(results, "exact_match", "tuned", "counting").items():
        chosen = [p for p in predictions if p["template"] == int(template)]
        assert len(chosen) == results.scored("task", "counting", "exact_match", template)["tuned"].rows == 6
        assert mean == pytest.approx(np.mean([p["row"] % 2 for p in chosen]))
    low, high = one(results, "f1", name="counting").interval
    assert 0 <= low < high <= 1


def changed(task: Task, **changes: Any) -> Task:
    return task.model_copy(update=changes)


def test_several_right_options_raise_chance_and_majority(comments: Task) -> None:
    options = ["Ann", "Ben", "Cleo", "Dan"]
    right = [["Ann"], ["Ann", "Ben"], ["Ben", "Cleo", "Dan"], ["Ben"]]
    predictions = [
        prediction(row, 1, True, options.index(names[0]), options=options, references=names) for row, names in enumerate(right)
    ]
    for given in predictions:
        given |= {name: [-1.0] * 4 for name in PREDICTION_SCHEMA.names if name.startswith("option_scores")}
        given |= {"option_tokens": [2] * 4, "generated": "Ben"}
    results = built(scored(comments, tuned=predictions))
    assert results.tasks["comments"].chance == pytest.approx((1 + 2 + 3 + 1) / 16)
    assert results.tasks["comments"].majority == 0.75, "Ben, three of four times"
    assert one(results, "exact_match").mean == 0.75
    assert one(results, "answer_probability").mean == pytest.approx((1 + 2 + 3 + 1) / 16)


def test_questions_of_several_rows(comments: Task) -> None:
    task = changed(comments, metrics=["multirc_f1a", "multirc_exact_match", "matthews", "accuracy"], group="{{ text }}")
    answers, right = [1, 0, 0, 0, 1, 1, 0], [True, True, True, False, True, True, True]
    groups = ["q", "q", "r", "r", "s", "s", "q"]
    predictions = [
        prediction(row, template, is_right, answer, group=group)
        for template in (1, 2)
        for row, (answer, is_right, group) in enumerate(zip(answers, right, groups, strict=True))
    ]
    results = built(scored(task, tuned=predictions))
    facts = results.tasks["comments"]
    assert (facts.rows, facts.groups, facts.main_metric) == (7, 3, "multirc_f1a")
    assert one(results, "multirc_exact_match").mean == pytest.approx(2 / 3)
    assert one(results, "multirc_f1a").mean == pytest.approx(6 / 7)
    levels = {name: (metric.chance, metric.majority) for name, metric in facts.metrics.items()}
    assert levels["multirc_f1a"] == pytest.approx((6 / 13, 0.6))
    assert levels["multirc_exact_match"] == pytest.approx(((1 / 8 + 1 / 4 + 1 / 4) / 3, 1 / 3))
    assert levels["matthews"] == (0.0, 0.0)


def test_commonest_answer_of_a_task_without_options(tmp_path: Path) -> None:
    counting = changed(tiny_tasks(tmp_path / "tasks")[1], metrics=["exact_match"])
    predictions = [free_answer(row, 1, "4", text) for row, text in enumerate(["The 4.", "-4", "4", "five"])]
    results = built(scored(counting, tuned=predictions))
    metric = results.tasks["counting"].metrics["exact_match"]
    assert (metric.chance, metric.majority) == (None, 0.5)
    assert one(results, "exact_match", name="counting").mean == 0.5


def test_signatures_say_how_a_metric_was_computed(tmp_path: Path) -> None:
    counting = changed(tiny_tasks(tmp_path / "tasks")[1], metrics=["rouge", "bleu"])
    metrics = scored(counting, tuned=[free_answer(0, 1, "a b", "a b")]).facts.metrics
    assert str(metrics["bleu"].signature).startswith("nrefs:1|")
    assert metrics["rougeL"].signature == metrics["rouge1"].signature is not None


def test_average_over_tasks(tmp_path: Path) -> None:
    comments, counting = tiny_tasks(tmp_path / "tasks")
    first = scored(comments, tuned=random_predictions(1))
    second = scored(counting, tuned=[free_answer(row, 1, "x" if row < 3 else "y", "x") for row in range(4)])
    results = built(first, second)
    assert results.metrics("tasks") == ["exact_match"], "only what both tasks are measured by"
    assert results.members("tasks", None, "exact_match") == 2
    score = one(results, "exact_match", name=None, level="tasks")
    assert score.mean == pytest.approx((one(results, "exact_match").mean + 0.75) / 2)
    together = mean_of([task.estimates["exact_match"]["tuned"] for task in (first, second)])
    assert score.interval == (together.low, together.high)
    assert together.low < score.mean < together.high


def test_clusters_count_alike_and_so_do_their_tasks(comments: Task) -> None:
    """`one` has two subtasks; `two` has another main metric; a task of two clusters counts in its first."""
    shares = {"one.r1": 2, "one.r2": 4, "two": 8, "three": 5}
    clusters = {"one.r1": ["x"], "one.r2": ["x"], "two": ["x"], "three": ["y", "x"]}
    tasks = []
    for name, share in shares.items():
        plain, tuned = ([prediction(row, 1, row < share + more) for row in range(10)] for more in (0, 1))
        if name == "two":
            for given in plain + tuned:
                given["generated"] = given["generated"] if given["row"] < 4 else "no idea"
        task = scored(changed(comments, name=name), plain=plain, tuned=tuned)
        main = "exact_match" if name == "two" else "accuracy"
        facts = task.facts.model_copy(update={"clusters": clusters[name], "main_metric": main})
        tasks.append(ScoredTask(name, facts, task.scores, task.grids, task.estimates))
    results = built(*tasks, before=["plain"], after="tuned")

    def mean(level: Level, name: str | None, metric: str = MAIN_METRIC) -> float:
        return one(results, metric, "plain", name, level).mean

    assert results.clusters == {"x": ["one.r1", "one.r2", "two"], "y": ["three"]}
    assert (results.members("cluster", "x"), results.members("cluster", "y"), results.members("clusters")) == (2, 1, 2)
    assert mean("cluster", "x", "accuracy") == pytest.approx((0.3 + 0.8) / 2)
    assert mean("cluster", "x") == pytest.approx((0.3 + 0.4) / 2)
    assert mean("cluster", "y") == pytest.approx(0.5)
    assert mean("clusters", None) == pytest.approx((0.35 + 0.5) / 2)
    assert mean("tasks", None, "accuracy") == pytest.approx((0.3 + 0.8 + 0.5) / 3)
    assert MAIN_METRIC not in results.metrics("tasks")
    over = results.difference("clusters", None, MAIN_METRIC)
    assert over is not None
    assert over.difference == pytest.approx((0.1 / 2 + 0.1) / 2)
    subtasks = {(score.task, score.subtask) for score in results.scores if score.level == "task"}
    assert subtasks == {("one", "r1"), ("one", "r2"), ("two", None), ("three", None)}


def test_seen_is_marked_for_models_that_say_what_they_were_trained_on(tmp_path: Path) -> None:
    comments, counting = tiny_tasks(tmp_path / "tasks")
    both = {"plain": random_predictions(1), "tuned": random_predictions(2)}
    first = scored(comments, seen="the model was trained on its train rows", **both)
    answers = [free_answer(row, 1, "x", "x") for row in range(4)]
    results = built(first, scored(counting, plain=answers, tuned=answers), stamped=["tuned"])
    seen = {(score.level, score.name, score.variant): score.seen for score in results.scores}
    assert seen["task", "comments", "tuned"] is True
    assert seen["task", "counting", "tuned"] is False
    assert seen["tasks", None, "tuned"] is seen["cluster", "sentiment", "tuned"] is True
    assert {mark for (_, _, variant), mark in seen.items() if variant == "plain"} == {None}, "nothing is known of it"
    assert results.seen_tasks("tuned") == ["comments"]
    assert results.seen_tasks("plain") == []
