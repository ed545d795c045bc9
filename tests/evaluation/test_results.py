"""Results from predictions on disk, and before against after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.predict import PREDICTION_SCHEMA
from flanlab.evaluation.results import averages, compare, task_results
from flanlab.results.statistics import mean_of
from flanlab.tasks.schema import Task
from tests.tiny import tiny_tasks

SETTINGS = EvaluationSettings()


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
        pq.write_table(table.replace_schema_metadata({"key": str(number)}), folder / f"part-{number:05d}.parquet")
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


def test_entry_by_hand(comments: Task, tmp_path: Path) -> None:
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
    entry, found = task_results(comments, {"tuned": write(tmp_path / "tuned", predictions, parts=3)}, SETTINGS)
    assert entry["clusters"] == ["sentiment"]
    assert entry["rows"] == 4
    assert entry["templates"] == [1, 2]
    assert entry["shortened"] == 1
    assert entry["main_metric"] == "accuracy"
    assert list(entry["metrics"])[:4] == ["accuracy", "exact_match", "valid_answers", "answer_probability"]
    assert entry["chance"] == 0.5
    assert entry["majority"] == 0.75
    assert entry["levels"]["accuracy_pmi"] == {"chance": 0.5, "majority": 0.75}
    assert entry["levels"]["answer_probability"] == {"chance": 0.5}
    assert "valid_answers" not in entry["levels"]
    assert entry["groups"] is None
    assert set(entry["definitions"]) == set(entry["metrics"]) == set(entry["scores"])
    assert entry["signatures"] == {}
    score = entry["scores"]["accuracy"]["tuned"]
    assert score["by_template"] == {"1": 0.75, "2": 0.25}
    assert (score["mean"], score["min"], score["max"], score["std"]) == (0.5, 0.25, 0.75, 0.25)
    assert score["interval"] == [found.estimate("accuracy", "tuned").low, found.estimate("accuracy", "tuned").high]
    assert entry["scores"]["valid_answers"]["tuned"]["by_template"] == {"1": 0.75, "2": 1.0}
    assert entry["scores"]["exact_match"]["tuned"]["by_template"] == {"1": 0.75, "2": 0.25}
    share = 1 / (1 + np.exp(-1))
    assert entry["scores"]["answer_probability"]["tuned"]["by_template"]["2"] == pytest.approx((share + 3 * (1 - share)) / 4)


def test_there_is_a_spread_over_templates_only_where_all_were_asked_the_same_rows(comments: Task, tmp_path: Path) -> None:
    apart = write(tmp_path / "apart", [prediction(row, 1 + row % 2, row < 3) for row in range(4)])
    alone = write(tmp_path / "alone", [prediction(row, 1, row < 3) for row in range(4)])
    scores = task_results(comments, {"apart": apart}, SETTINGS)[0]["scores"]["accuracy"]
    scores |= task_results(comments, {"alone": alone}, SETTINGS)[0]["scores"]["accuracy"]
    assert scores["apart"]["by_template"] == {"1": 1.0, "2": 0.5}
    assert not {"std", "min", "max"} & (set(scores["apart"]) | set(scores["alone"]))


def test_end_token_setting_decides_which_scores_count(comments: Task, tmp_path: Path) -> None:
    """The scores without the end token rank the other way round here."""
    folder = write(tmp_path / "tuned", [prediction(row, 1, True) for row in range(4)])
    without = EvaluationSettings(end_token=False)
    assert task_results(comments, {"tuned": folder}, SETTINGS)[0]["scores"]["accuracy"]["tuned"]["mean"] == 1.0
    assert task_results(comments, {"tuned": folder}, without)[0]["scores"]["accuracy"]["tuned"]["mean"] == 0.0


def test_results_are_the_same_twice(comments: Task, tmp_path: Path) -> None:
    folders = {"tuned": write(tmp_path / "tuned", random_predictions(1))}
    assert task_results(comments, folders, SETTINGS)[0] == task_results(comments, folders, SETTINGS)[0]


def test_identical_predictions_differ_by_exactly_nothing(comments: Task, tmp_path: Path) -> None:
    predictions = random_predictions(1)
    folders = {"before": write(tmp_path / "a", predictions), "after": write(tmp_path / "b", predictions)}
    entry, found = task_results(comments, folders, SETTINGS)
    for comparison in compare(entry["scores"], found, ["before"], "after").values():
        assert comparison["difference"] == 0.0
        low, high = comparison["interval"]
        assert low == -high < 0, "40 rows without a difference do not show that there is none"
        assert comparison["excludes_zero"] is False


def test_comparison_is_paired_by_row_and_template(comments: Task, tmp_path: Path) -> None:
    """Rows differ wildly, but every row of `after` is as good or better: unpaired intervals would overlap."""
    before = [one for one in random_predictions(1) if one["template"] == 1]
    after = [prediction(one["row"], one["template"], is_right(one) or one["row"] % 4 == 0, one["answer"]) for one in before]
    folders = {"before": write(tmp_path / "a", before), "after": write(tmp_path / "b", after[::-1])}
    entry, found = task_results(comments, folders, SETTINGS)
    compared = compare(entry["scores"], found, ["before"], "after")["accuracy"]
    by_hand = np.mean([is_right(one) for one in after]) - np.mean([is_right(one) for one in before])
    assert compared["difference"] == pytest.approx(by_hand)
    assert compared["interval"][0] > 0
    unpaired = np.hypot(*(found.estimate("accuracy", name).standard_error for name in folders))
    assert found.difference("accuracy", "before", "after").standard_error < 0.7 * unpaired


def test_clear_difference_excludes_zero(comments: Task, tmp_path: Path) -> None:
    folders = {
        "before": write(tmp_path / "a", random_predictions(1, chance=0.3)),
        "after": write(tmp_path / "b", random_predictions(2, chance=0.95)),
    }
    entry, found = task_results(comments, folders, SETTINGS)
    assert compare(entry["scores"], found, ["before"], "after")["accuracy"]["excludes_zero"] is True
    worse = compare(entry["scores"], found, ["after"], "before")["accuracy"]
    assert worse["excludes_zero"] is True
    assert worse["difference"] < 0


def test_untuned_model_is_given_the_better_of_its_prompt_styles_by_metric(comments: Task, tmp_path: Path) -> None:
    chat = [prediction(row, 1, True, generated="no idea") for row in range(10)]
    plain = [prediction(row, 1, row < 5) for row in range(10)]
    folders = {
        "plain": write(tmp_path / "a", plain),
        "chat": write(tmp_path / "b", chat),
        "tuned": write(tmp_path / "c", [prediction(row, 1, row < 9) for row in range(10)]),
    }
    entry, found = task_results(comments, folders, SETTINGS)
    compared = compare(entry["scores"], found, ["plain", "chat"], "tuned")
    assert compared["accuracy"]["before"] == "chat"
    assert compared["accuracy"]["difference"] == pytest.approx(-0.1)
    assert compared["exact_match"]["before"] == "plain"
    assert compared["exact_match"]["difference"] == pytest.approx(0.4)


def test_incomplete_design_and_generation_task(tmp_path: Path) -> None:
    counting = tiny_tasks(tmp_path / "tasks")[1]
    predictions = [
        free_answer(row, 1 + (row + turn) % 3, str(row) if row % 2 else f"the number {row}", str(row))
        for row in range(9)
        for turn in range(2)
    ]
    entry, _ = task_results(counting, {"tuned": write(tmp_path / "tuned", predictions)}, SETTINGS)
    assert entry["main_metric"] == "exact_match"
    assert entry["chance"] is None
    assert entry["majority"] is None
    for template, score in entry["scores"]["exact_match"]["tuned"]["by_template"].items():
        chosen = [p for p in predictions if p["template"] == int(template)]
        assert len(chosen) == 6
        assert score == pytest.approx(np.mean([p["row"] % 2 for p in chosen]))
    low, high = entry["scores"]["f1"]["tuned"]["interval"]
    assert 0 <= low < entry["scores"]["f1"]["tuned"]["mean"] < high <= 1


def changed(task: Task, **changes: Any) -> Task:
    return task.model_copy(update=changes)


def test_several_right_options_raise_chance_and_majority(comments: Task, tmp_path: Path) -> None:
    options = ["Ann", "Ben", "Cleo", "Dan"]
    right = [["Ann"], ["Ann", "Ben"], ["Ben", "Cleo", "Dan"], ["Ben"]]
    predictions = [
        prediction(row, 1, True, options.index(names[0]), options=options, references=names) for row, names in enumerate(right)
    ]
    for one in predictions:
        one |= {name: [-1.0] * 4 for name in PREDICTION_SCHEMA.names if name.startswith("option_scores")}
        one |= {"option_tokens": [2] * 4, "generated": "Ben"}
    entry, _ = task_results(comments, {"tuned": write(tmp_path / "tuned", predictions)}, SETTINGS)
    assert entry["chance"] == pytest.approx((1 + 2 + 3 + 1) / 16)
    assert entry["majority"] == 0.75, "Ben, three of four times"
    assert entry["scores"]["exact_match"]["tuned"]["mean"] == 0.75
    assert entry["scores"]["answer_probability"]["tuned"]["mean"] == pytest.approx((1 + 2 + 3 + 1) / 16)


def test_questions_of_several_rows(comments: Task, tmp_path: Path) -> None:
    task = changed(comments, metrics=["multirc_f1a", "multirc_exact_match", "matthews", "accuracy"], group="{{ text }}")
    answers, right = [1, 0, 0, 0, 1, 1, 0], [True, True, True, False, True, True, True]
    groups = ["q", "q", "r", "r", "s", "s", "q"]
    predictions = [
        prediction(row, template, is_right, answer, group=group)
        for template in (1, 2)
        for row, (answer, is_right, group) in enumerate(zip(answers, right, groups, strict=True))
    ]
    entry, found = task_results(task, {"tuned": write(tmp_path / "tuned", predictions, parts=2)}, SETTINGS)
    assert (entry["rows"], entry["groups"], entry["main_metric"]) == (7, 3, "multirc_f1a")
    assert entry["scores"]["multirc_exact_match"]["tuned"]["mean"] == pytest.approx(2 / 3)
    assert entry["scores"]["multirc_f1a"]["tuned"]["mean"] == pytest.approx(6 / 7)
    assert entry["levels"]["multirc_f1a"] == pytest.approx({"chance": 6 / 13, "majority": 0.6})
    assert entry["levels"]["multirc_exact_match"] == pytest.approx({"chance": (1 / 8 + 1 / 4 + 1 / 4) / 3, "majority": 1 / 3})
    assert entry["levels"]["matthews"] == {"chance": 0.0, "majority": 0.0}
    assert found.estimate("multirc_exact_match", "tuned").units == 3


def test_commonest_answer_of_a_task_without_options(tmp_path: Path) -> None:
    counting = changed(tiny_tasks(tmp_path / "tasks")[1], metrics=["exact_match"])
    predictions = [free_answer(row, 1, "4", text) for row, text in enumerate(["The 4.", "-4", "4", "five"])]
    entry, _ = task_results(counting, {"tuned": write(tmp_path / "tuned", predictions)}, SETTINGS)
    assert entry["levels"] == {"exact_match": {"majority": 0.5}}
    assert entry["scores"]["exact_match"]["tuned"]["mean"] == 0.5


def test_signatures_stand_in_the_entry(tmp_path: Path) -> None:
    counting = changed(tiny_tasks(tmp_path / "tasks")[1], metrics=["rouge", "bleu"])
    entry, _ = task_results(counting, {"tuned": write(tmp_path / "tuned", [free_answer(0, 1, "a b", "a b")])}, SETTINGS)
    assert set(entry["signatures"]) == {"rouge", "bleu"}
    assert entry["signatures"]["bleu"].startswith("nrefs:1|")
    assert entry["levels"] == {}


def test_average_over_tasks(tmp_path: Path) -> None:
    comments, counting = tiny_tasks(tmp_path / "tasks")
    first = task_results(comments, {"tuned": write(tmp_path / "a", random_predictions(1))}, SETTINGS)
    answers = [free_answer(row, 1, "x" if row < 3 else "y", "x") for row in range(4)]
    second = task_results(counting, {"tuned": write(tmp_path / "b", answers)}, SETTINGS)
    entries, scores = {"comments": first[0], "counting": second[0]}, {"comments": first[1], "counting": second[1]}
    found = averages(entries, scores)
    average = found["average"]
    assert average["tasks"] == 2
    assert list(average["scores"]) == ["exact_match"], "only what both tasks are measured by"
    mean = average["scores"]["exact_match"]["tuned"]["mean"]
    assert mean == pytest.approx((first[0]["scores"]["exact_match"]["tuned"]["mean"] + 0.75) / 2)
    together = mean_of([scores.estimate("exact_match", "tuned") for _, scores in (first, second)])
    low, high = average["scores"]["exact_match"]["tuned"]["interval"]
    assert (low, high) == (together.low, together.high)
    assert low < mean < high


def test_clusters_count_alike_and_so_do_their_tasks(tmp_path: Path) -> None:
    """`one` has two parts; `two` has another main metric; a task of two clusters counts in its first."""
    shares = {"one.r1": 2, "one.r2": 4, "two": 8, "three": 5}
    clusters = {"one.r1": ["x"], "one.r2": ["x"], "two": ["x"], "three": ["y", "x"]}
    comments = tiny_tasks(tmp_path / "tasks")[0]
    entries, scores = {}, {}
    for name, share in shares.items():
        # Of `two`, four right options are not the answer generated, which is its main metric.
        unsaid = 4 if name == "two" else 0
        task = changed(comments, name=name, metrics=["exact_match", "accuracy"] if unsaid else ["accuracy"])
        folders = {
            variant: write(
                tmp_path / name / variant,
                [prediction(row, 1, row < right, **({"generated": "?"} if row < unsaid else {})) for row in range(10)],
            )
            for variant, right in (("plain", share), ("tuned", share + 1))
        }
        entries[name], scores[name] = task_results(task, folders, SETTINGS)
        entries[name]["clusters"] = clusters[name]
    found = averages(entries, scores, ["plain"], "tuned")
    x, y = found["clusters"]["x"], found["clusters"]["y"]
    assert (x["tasks"], y["tasks"], found["cluster_average"]["clusters"]) == (2, 1, 2)
    assert x["scores"]["accuracy"]["plain"]["mean"] == pytest.approx((0.3 + 0.8) / 2)
    assert x["scores"]["main_metric"]["plain"]["mean"] == pytest.approx((0.3 + 0.4) / 2)
    assert y["scores"]["main_metric"]["plain"]["mean"] == pytest.approx(0.5)
    over = found["cluster_average"]
    assert over["scores"]["main_metric"]["plain"]["mean"] == pytest.approx((0.35 + 0.5) / 2)
    assert over["comparison"]["main_metric"]["difference"] == pytest.approx(0.1)
    assert found["average"]["scores"]["accuracy"]["plain"]["mean"] == pytest.approx((0.3 + 0.8 + 0.5) / 3)
    assert "main_metric" not in found["average"]["scores"]
