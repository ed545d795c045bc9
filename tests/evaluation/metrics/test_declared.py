"""Which metrics a task is measured by."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from flanlab.evaluation.metrics.declared import metrics_for, signatures
from flanlab.tasks.schema import Metric as DeclaredMetric
from tests.evaluation.predictions import ranked, said, score


def names(*declared: str, of: dict[str, Any]) -> list[str]:
    return [metric.name for metric in metrics_for(declared, [of])]


def test_metrics_of_a_task() -> None:
    choice, text = ranked([0.0, -1.0], 0), said("a", "a")
    others = ["answer_probability", "accuracy_per_token", "accuracy_per_byte", "accuracy_pmi"]
    assert names("accuracy", of={**choice, "generated": "a"}) == ["accuracy", "exact_match", "valid_answers", *others]
    assert names("accuracy", of=choice) == ["accuracy", *others]
    without = {"option_scores_alone": None, "option_scores_alone_without_end": None}
    assert names("accuracy", of={**choice, **without}) == ["accuracy", *others[:-1]]
    assert names("matthews", "accuracy", of=choice)[:2] == ["matthews", "accuracy"]
    assert names("f1", "exact_match", of=text) == ["f1", "exact_match"]
    assert names("accuracy", "exact_match", of={**choice, "generated": "a"}).count("exact_match") == 1
    assert names("exact_match", "accuracy", of=choice)[0] == "accuracy", "nothing was generated"
    assert names("rouge", of=text) == ["rouge1", "rouge2", "rougeL"]


@pytest.mark.parametrize("name", get_args(DeclaredMetric))
def test_every_metric_that_a_task_may_declare_is_computed_and_defined(name: str) -> None:
    of = {**ranked([0.0, -1.0], 0), "generated": "a", "gold_value": 1.0}
    for metric in metrics_for([name], [of]):
        assert metric.title
        assert metric.definition.endswith(".")
        assert "\n" not in metric.definition
        assert all(isinstance(float(value), float) for value in metric.statistics([of]))
    assert names(name, of=of)


def test_text_metrics_of_a_task_with_options_judge_the_option_ranked_first() -> None:
    """ReCoRD's F1: of the entity chosen, whatever was generated, and in whatever words a template puts it."""
    options = ["New York", "York", "Boston"]
    rows = [
        ranked([0.0, -1.0, -2.0], 1, 2, options=options, references=["York", "Boston"], generated="Boston"),
        ranked([-3.0, -1.0, -2.0], 1, options=options, references=["York"], generated="Boston"),
    ]
    assert score("f1", rows, "accuracy", "f1") == pytest.approx((2 / 3 + 1) / 2)
    sentences = [
        {**row, "options": [f"They met in {name} on Monday" for name in options], "own_options": options} for row in rows
    ]
    for row in sentences:
        row["references"] = [f"They met in {name} on Monday" for name in row["references"]]
    assert score("f1", sentences, "accuracy", "f1") == pytest.approx((2 / 3 + 1) / 2)
    assert score("exact_match", rows, "accuracy", "f1") == 0.5, "this one is of the generated answer; any right option will do"


def test_signatures() -> None:
    rows = [said("a", "a"), said("b", "a", "b")]
    assert list(signatures(["bleu", "rouge"], rows)) == ["bleu", "rouge"]
    assert signatures(["bleu"], rows)["bleu"].startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert signatures(["f1"], rows) == {}
