"""Tables of how a classifier errs, against scikit-learn and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from flanlab.errors import FlanlabError
from flanlab.evaluation.classification import accuracy_by, calibration, calibration_error, confusion, per_class
from tests.evaluation.predictions import ranked

CLASSES = ["low", "medium", "high"]


def judged(gold: str | None, *shares: float, **columns: Any) -> dict[str, Any]:
    probabilities = dict(zip(CLASSES, shares, strict=True))
    said = max(probabilities, key=probabilities.__getitem__)
    return {"gold": gold, "prediction": said, "probability": max(shares), "probabilities": probabilities, **columns}


@pytest.fixture
def some() -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    shares = random.dirichlet([1, 1, 1], 200)
    gold = [str(random.choice(CLASSES, p=share)) if number % 10 else None for number, share in enumerate(shares)]
    teams = random.choice(["a", "b"], 200)
    return [judged(one, *share, team=str(team)) for one, share, team in zip(gold, shares, teams, strict=True)]


def test_confusion_and_classes_are_those_of_scikit_learn(some: list[dict[str, Any]]) -> None:
    known = [one for one in some if one["gold"] is not None]
    truth, said = [one["gold"] for one in known], [one["prediction"] for one in known]
    counts = np.array(confusion(some).column("count")).reshape(3, 3)
    assert counts.tolist() == confusion_matrix(truth, said, labels=CLASSES).tolist()
    precision, recall, f1, rows = precision_recall_fscore_support(truth, said, labels=CLASSES)
    found = per_class(some)
    assert found.column("class") == CLASSES
    for name, theirs in (("precision", precision), ("recall", recall), ("f1", f1), ("rows", rows)):
        assert found.column(name) == pytest.approx(theirs.tolist())


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    found = {row["class"]: row for row in per_class([judged("low", 0.5, 0.3, 0.2), judged("medium", 0.6, 0.3, 0.1)])}
    assert (found["medium"]["precision"], found["medium"]["recall"]) == (None, 0)
    assert (found["high"]["recall"], found["high"]["f1"]) == (None, None)


def test_calibration_by_hand() -> None:
    rows = [judged("low", 0.95, 0.05, 0), judged("high", 0.91, 0, 0.09), judged("low", 0.8, 0.2, 0), judged("low", 1, 0, 0)]
    first, last = calibration(rows)
    assert first == {"low": 0.7, "high": 0.8, "rows": 1, "confidence": 0.8, "accuracy": 1}
    assert (last["low"], last["high"], last["rows"]) == (0.9, 1, 3)
    assert (last["confidence"], last["accuracy"]) == pytest.approx(((0.95 + 0.91 + 1) / 3, 2 / 3))
    assert calibration_error(rows) == pytest.approx((0.2 + 3 * ((0.95 + 0.91 + 1) / 3 - 2 / 3)) / 4)
    assert calibration(rows, bins=1).column("rows") == [4]


def test_probabilities_that_are_true_have_a_small_calibration_error() -> None:
    random = np.random.default_rng(1)
    rows = [judged(str(random.choice(CLASSES, p=share)), *share) for share in random.dirichlet([1, 1, 1], 4000)]
    assert calibration_error(rows) < 0.03
    powers = [np.array(list(one["probabilities"].values())) ** 4 for one in rows]
    sharper = [judged(one["gold"], *(power / power.sum())) for one, power in zip(rows, powers, strict=True)]
    assert calibration_error(sharper) > 0.15


def test_accuracy_by_a_column(some: list[dict[str, Any]]) -> None:
    found = {row["value"]: row for row in accuracy_by(some, "team")}
    for team in ("a", "b"):
        own = [one for one in some if one["team"] == team and one["gold"] is not None]
        right = sum(one["gold"] == one["prediction"] for one in own)
        assert (found[team]["rows"], found[team]["accuracy"]) == (len(own), right / len(own))
        # Wilson 1927: (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
        n, p, z = len(own), right / len(own), 1.959964
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        ends = [(p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
        assert [found[team]["low"], found[team]["high"]] == pytest.approx(ends, abs=1e-6)
    assert accuracy_by(some).column("rows") == [180]
    with pytest.raises(FlanlabError, match="no column `taem`") as told:
        accuracy_by(some, "taem")
    assert "team" in told.value.hint


def test_predictions_of_an_evaluation_are_taken_in_the_tasks_words() -> None:
    rows = [
        {**ranked([-1.0, -2.0], 0, options=["bad", "good"]), "own_options": ["negative", "positive"]},
        {**ranked([-1.0, -2.0], 1, options=["bad", "good"]), "own_options": ["negative", "positive"]},
    ]
    assert [tuple(row.values()) for row in confusion(rows) if row["count"]] == [
        ("negative", "negative", 1),
        ("positive", "negative", 1),
    ]
    [part] = calibration(rows)
    assert part["confidence"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_where_several_options_are_right_any_of_them_is() -> None:
    [row] = [row for row in confusion([ranked([-3.0, -1.0, -2.0], 0, 1)]) if row["count"]]
    assert (row["gold"], row["prediction"]) == ("b", "b")


def test_a_file_is_read(some: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in some), encoding="utf-8")
    assert confusion(path).rows() == confusion(some).rows()
    assert calibration_error(path) == pytest.approx(calibration_error(some))


def test_what_cannot_be_judged_is_told() -> None:
    with pytest.raises(FlanlabError, match="comes with its right answer"):
        confusion([judged(None, 0.5, 0.3, 0.2)])
    with pytest.raises(FlanlabError, match="are no predictions"):
        confusion([{"text": "Good"}])
    apart = [judged("low", 0.5, 0.3, 0.2), {"gold": "x", "prediction": "x", "probabilities": {"x": 0.6, "y": 0.4}}]
    with pytest.raises(FlanlabError, match="options differ"):
        per_class(apart)
    assert calibration(apart).column("rows") == [1, 1]
    with pytest.raises(FlanlabError, match="has probabilities"):
        calibration([judged("low", 0.5, 0.3, 0.2) | {"probabilities": None}])
