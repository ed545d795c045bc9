"""Intervals and p-values: right on data whose truth is known."""

from __future__ import annotations

import pytest

from flanlab.results.statistics import holm


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
