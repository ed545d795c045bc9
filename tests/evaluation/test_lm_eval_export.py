"""The export for lm-evaluation-harness: its files, and, where it is installed, its own scores of them against ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flanlab.data.encoding import ANSWER_SEPARATOR
from flanlab.data.sources import load_rows
from flanlab.evaluation.lm_eval_export import NORMALIZATION, export_lm_eval
from flanlab.evaluation.metrics.answers import exact_match, normalize_answer
from flanlab.evaluation.metrics.options import accuracy
from flanlab.evaluation.planning import EvaluationSettings, Setup, plan_task
from flanlab.evaluation.predict import predict_tasks
from flanlab.models.loading import LoadedModel
from flanlab.results.files import read_predictions
from flanlab.tasks.schema import Task
from tests.task_files import refusal
from tests.tiny import stock_model, tiny_tasks

SETTINGS = EvaluationSettings(rows=6, new_tokens=8)
SEED = 0


def export(tasks: Sequence[Task], folder: Path, settings: EvaluationSettings = SETTINGS) -> dict[str, Any]:
    units = [plan_task(task, load_rows(task, settings.split), settings, SEED) for task in tasks]
    return export_lm_eval(units, settings, SEED, folder)


def predictions(tasks: Sequence[Task], model: LoadedModel, folder: Path) -> dict[tuple[str, int, int], Mapping[str, Any]]:
    """Ours, by task, template and row."""
    units = [plan_task(task, load_rows(task, SETTINGS.split), SETTINGS, SEED) for task in tasks]
    predict_tasks(Setup(model, SETTINGS, SEED), units, folder, "")
    found = {}
    for task in tasks:
        for record in read_predictions(folder / task.name).to_pylist():
            found[task.name, record["template"], record["row"]] = record
    return found


def rows_of(folder: Path, task: str, template: int) -> list[dict[str, Any]]:
    path = folder / f"flanlab_{task}" / f"flanlab_{task}_t{template}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_files_hold_the_very_prompts_that_are_evaluated(tiny: LoadedModel, tmp_path: Path) -> None:
    tasks = tiny_tasks(tmp_path / "tasks")
    facts = export(tasks, tmp_path / "out")
    assert facts["tasks"]["comments"]["templates"] == ["flanlab_comments_t1", "flanlab_comments_t2", "flanlab_comments_t3"]
    assert facts["tasks"]["counting"]["templates"] == ["flanlab_counting_t1", "flanlab_counting_t2"], "no inverted ones"
    ours = predictions(tasks, tiny, tmp_path / "predictions")
    exported = {
        (name, template, record["row"]): record
        for name, templates in (("comments", 3), ("counting", 2))
        for template in range(1, templates + 1)
        for record in rows_of(tmp_path / "out", name, template)
    }
    assert exported.keys() == ours.keys()
    for key, record in exported.items():
        if record.get("options"):
            assert (record["prompt"], record["options"]) == (ours[key]["prompt"], ours[key]["options"])
            assert record["answer"] == ours[key]["answer"]
        else:
            assert record["prompt"] == ours[key]["prompt"] + ANSWER_SEPARATOR
            assert record["answer"] == ours[key]["references"]


def test_groups_name_their_members(tmp_path: Path) -> None:
    export(tiny_tasks(tmp_path / "tasks"), tmp_path / "out")
    contents = [yaml.safe_load(path.read_text()) for path in (tmp_path / "out").rglob("*.yaml")]
    groups = {content["group"]: content["task"] for content in contents if "group" in content}
    assert groups == {
        "flanlab_comments": [f"flanlab_comments_t{number}" for number in (1, 2, 3)],
        "flanlab_counting": [f"flanlab_counting_t{number}" for number in (1, 2)],
        "flanlab_sentiment": ["flanlab_comments"],
        "flanlab_miscellaneous": ["flanlab_counting"],
    }
    assert {content["task"] for content in contents if "group" not in content} == {
        *groups["flanlab_comments"],
        *groups["flanlab_counting"],
    }


def test_several_right_options_are_lists_in_every_row(tmp_path: Path) -> None:
    comments, _ = tiny_tasks(tmp_path / "tasks")
    both = comments.model_copy(update={"references": "{{ options if 'lovely' in text else [options[label]] }}"})
    export([both], tmp_path / "out", EvaluationSettings(rows=10))
    answers = {tuple(record["answer"]) for record in rows_of(tmp_path / "out", "comments", 1)}
    assert {len(answer) for answer in answers} == {1, 2}


def test_an_export_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    comments, counting = tiny_tasks(tmp_path / "tasks")
    export([comments], tmp_path / "out")
    export([counting], tmp_path / "out")
    assert not (tmp_path / "out" / "flanlab_comments").exists()
    assert "is not empty" in refusal(lambda: export([comments], tmp_path / "tasks")).message
    assert (tmp_path / "tasks" / "comments.yaml").exists()


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    comments, _ = tiny_tasks(tmp_path / "tasks")
    part = comments.model_copy(update={"name": "a.b"})
    assert (
        "flanlab_a_b" in refusal(lambda: export([part, comments.model_copy(update={"name": "a_b"})], tmp_path / "out")).message
    )
    assert not (tmp_path / "out").exists()


@given(st.text("aAnthe tTHE-.,1 _x'\"é/", max_size=30))
def test_normalization_is_that_of_our_exact_match(text: str) -> None:
    theirs = text
    for pattern in NORMALIZATION:
        theirs = re.sub(pattern, "", theirs)
    ours = normalize_answer(text).replace("\N{MINUS SIGN}", "-").replace("\N{MIDDLE DOT}", ".")
    # An answer of articles and punctuation alone is kept here; lm-eval cannot be told so.
    assert not theirs or theirs.lower() == ours


def test_lm_eval_gives_the_scores_that_flanlab_gives(tiny: LoadedModel, tiny_folder: Path, tmp_path: Path) -> None:
    """Log-likelihoods row by row without the end token, which lm-eval does not know, generated answers, and both metrics."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed; pip install -c constraints.txt '.[dev]' brings it")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = tiny_tasks(tmp_path / "tasks")
    export(tasks, tmp_path / "out")
    harness = HFLM(pretrained=stock_model(tiny_folder), tokenizer=tiny.encoder.tokenizer, batch_size=1)
    manager = TaskManager(include_path=str(tmp_path / "out"), include_defaults=False)
    groups = ["flanlab_sentiment", "flanlab_miscellaneous"]
    theirs = simple_evaluate(harness, tasks=groups, task_manager=manager, bootstrap_iters=0)
    ours = predictions(tasks, tiny, tmp_path / "predictions")

    assert set(theirs["samples"]) == {f"flanlab_comments_t{n}" for n in (1, 2, 3)} | {f"flanlab_counting_t{n}" for n in (1, 2)}
    right: dict[str, list[float]] = {"comments": [], "counting": []}
    for name, samples in theirs["samples"].items():
        _, task, template = name.split("_")
        assert len(samples) == 6
        for sample in samples:
            own = ours[task, int(template[1:]), sample["doc"]["row"]]
            if task == "comments":
                # lm-eval counts the separator to every option alike, so differences between options are what agrees.
                scores = [float(score) for score, _ in sample["filtered_resps"]]
                expected = own["option_scores_without_end"]
                assert [score - scores[0] for score in scores] == pytest.approx(
                    [score - expected[0] for score in expected], abs=1e-3
                )
                assert sample["acc"] == accuracy({**own, "option_scores": own["option_scores_without_end"]})
                right[task].append(sample["acc"])
            else:
                # flanlab cuts an answer longer than any reference, by tokens, and here perhaps within a character.
                assert sample["filtered_resps"][0].startswith(own["generated"].rstrip("\N{REPLACEMENT CHARACTER}"))
                assert sample["exact_match"] == exact_match(own)
                right[task].append(sample["exact_match"])
    mean = {task: sum(values) / len(values) for task, values in right.items()}
    assert theirs["results"]["flanlab_sentiment"]["acc,none"] == pytest.approx(mean["comments"])
    assert theirs["results"]["flanlab_miscellaneous"]["exact_match,first_line"] == pytest.approx(mean["counting"])
