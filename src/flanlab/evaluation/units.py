"""Units of predictions: rows that belong together are chosen, scored and resampled together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from flanlab.evaluation.metrics.metric import Prediction


def units_of(predictions: Iterable[Prediction]) -> dict[Hashable, list[Prediction]]:
    """Predictions by unit (a group, or a row that stands alone), in the order of each unit's first row."""
    units: dict[Hashable, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda prediction: prediction["row"]):
        key = prediction["row"] if prediction["group"] is None else prediction["group"]
        units.setdefault(key, []).append(prediction)
    return units
