"""Adaptive choice of templates: what is planned, what the results carry, and what is refused."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flanlab as fl
from flanlab.data.sources import load_rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, balanced_turns, plan_task
from flanlab.evaluation.scores import build_results, score_task
from flanlab.models.loading import LoadedModel
from flanlab.results.schema import QUANTILES, Variant
from flanlab.tasks.schema import Task
from tests.evaluation.test_results import prediction
from tests.tiny import tiny, tiny_folder, tiny_folders, tiny_tasks

__all__ = ["tiny", "tiny_folder", "tiny_folders"]


@pytest.fixture
def comments(tmp_path: Path) -> Task:
    return tiny_tasks(tmp_path / "tasks")[0]


def planned(task: Task, seed: int = 0, **settings: Any) -> PlannedTask:
    return plan_task(task, load_rows(task, "test"), EvaluationSettings(templates_per_row="adaptive", **settings), seed)


def test_all_templates_take_equal_turns_and_meet_each_other() -> None:
    for templates, counts in ((8, [2] * 200), (7, [2] * 200), (10, [1, 2] * 150), (30, [3] * 40)):
        turns = list(balanced_turns(range(templates), counts, ("key",)))
        assert [len(turn) for turn in turns] == counts
        assert all(len(set(turn)) == len(turn) for turn in turns)
        asked = Counter(template for turn in turns for template in turn)
        assert len(asked) == templates
        assert max(asked.values()) - min(asked.values()) <= 1
        met = Counter(frozenset(pair) for turn in turns for pair in combinations(turn, 2))
        assert len(met) > 0.8 * min(len(list(combinations(range(templates), 2))), met.total() / 2)


def test_the_plan_keeps_to_the_budget(comments: Task) -> None:
    unit = planned(comments, rows=10, answer_budget=1.5)
    assert len(unit.pairs) == 15
    assert Counter(template for _, template in unit.pairs) == {1: 5, 2: 5, 3: 5}
    assert len(planned(comments, rows=10).pairs) == 20, "two answers a row, where no budget is given"
    assert Counter(planned(comments, rows=10, answer_budget=99).pairs) == Counter(
        (row, template) for row in range(10) for template in (1, 2, 3)
    )
    assert unit.pairs == planned(comments, rows=10, answer_budget=1.5).pairs
    assert any(one.pairs != other.pairs for one, other in pairwise(planned(comments, seed, rows=10) for seed in range(4)))


@pytest.mark.parametrize(
    ("settings", "metrics", "message"),
    [
        ({"rows": 2, "answer_budget": 1}, None, "2 answers (1 to each of 2 rows or groups) are fewer than the 3 wordings"),
        ({"instructions": "none"}, None, "comments has one forward template"),
        ({}, ["bleu"], "accuracy or exact_match), but the task comments has bleu"),
    ],
)
def test_what_cannot_be_estimated_is_refused(comments: Task, settings: Any, metrics: list[str] | None, message: str) -> None:
    task = comments if metrics is None else comments.model_copy(update={"metrics": metrics})
    with pytest.raises(FlanlabError) as caught:
        planned(task, **settings)
    assert message in str(caught.value)
    assert caught.value.hint


def test_a_budget_that_nothing_uses_is_refused() -> None:
    with pytest.raises(ValueError, match="templates_per_row: adaptive"):
        EvaluationSettings(answer_budget=3)


def test_quantiles_stand_in_the_table(comments: Task) -> None:
    asked = [(row, template) for row in range(60) for template in ((row % 3) + 1, ((row + 1 + row // 3 % 2) % 3) + 1)]
    # Template 1 is always right, 2 always wrong, 3 right on half of the rows.
    half = set(np.random.default_rng(0).permutation(60)[:30])
    right = [prediction(row, template, template == 1 or (template == 3 and row in half)) for row, template in asked]
    one_prompt = [prediction(row, 0, True) for row in range(60)]
    scored = score_task(comments, {"tuned": right, "baseline": one_prompt}, over_wordings=True)
    variants = {name: Variant(title=name, model="m") for name in ("tuned", "baseline")}
    found = build_results([scored], variants, name="test").over_wordings("comments")
    assert set(found) == {"tuned"}, "a baseline is one prompt"
    assert [one.template for one in found["tuned"]] == list(QUANTILES)
    assert {(one.metric, one.rows) for one in found["tuned"]} == {("accuracy", 60)}
    assert [one.mean for one in found["tuned"]] == pytest.approx([0.05, 0.5, 0.95], abs=0.15)
    assert all(0 <= one.interval[0] < one.mean < one.interval[1] <= 1 for one in found["tuned"])
    assert score_task(comments, {"tuned": right}).scores[-1].template not in QUANTILES, "not asked for"


def test_evaluation_with_wordings_made_by_rule(tiny: LoadedModel, comments: Task, tmp_path: Path) -> None:
    settings = {"rows": 10, "templates_per_row": "adaptive", "wordings": 12, "new_tokens": 2, "generate": False, "pmi": False}
    run = fl.evaluate(tiny, comments, out=tmp_path / "out", **settings)
    assert run is not None
    facts = run.results.tasks["comments"]
    assert len(facts.templates) == 12
    assert len(facts.wordings) == 9
    assert set(facts.templates) == {1, 2, 3} | set(map(int, facts.wordings))
    quantiles = run.scores.where(task="comments", metric="accuracy")
    assert set(QUANTILES) < set(quantiles.column("template"))
    prompts = run.predictions("comments").column("prompt")
    assert any("Options: " in prompt or "Choices:" in prompt for prompt in prompts)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Over wordings" in page
