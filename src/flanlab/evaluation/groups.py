"""Groups of predictions: rows that belong together are chosen, scored and resampled together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from flanlab.evaluation.metrics.metric import Prediction


def groups_of(predictions: Iterable[Prediction]) -> dict[Hashable, list[Prediction]]:
    """Predictions by group (or row that stands alone), in the order of each group's first row."""
    groups: dict[Hashable, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda prediction: prediction["row"]):
        key = prediction["row"] if prediction["group"] is None else prediction["group"]
        groups.setdefault(key, []).append(prediction)
    return groups
