"""Saved predictions as pages show them: which are right, and what was ranked where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flanlab.evaluation.metrics.answers import exact_match
from flanlab.evaluation.metrics.declared import normal_form
from flanlab.evaluation.metrics.options import accuracy, option_scores, option_shares, right_options
from flanlab.results.grids import Prediction

_ANSWER = ["options", "option_scores", "references", "generated"]


@dataclass(frozen=True)
class RankedOption:
    """An option with its share of the probability of all options, 0 to 1."""

    option: str
    probability: float
    is_right: bool


def ranked_options(prediction: Prediction) -> list[RankedOption]:
    """The options, the likeliest first; empty where none were ranked."""
    if not prediction["option_scores"]:
        return []
    shares = option_shares(option_scores(prediction)).tolist()
    right = right_options(prediction)
    ranked = [
        RankedOption(option, share, place in right)
        for place, (option, share) in enumerate(zip(prediction["options"], shares, strict=True))
    ]
    return sorted(ranked, key=lambda one: -one.probability)


def is_right(prediction: Prediction, metrics: Sequence[str]) -> bool:
    """Whether the option ranked first is a right one; where nothing was ranked, whether the answer counts as an exact match.

    Args:
        prediction: of a task.
        metrics: that the task declares: each data set has its own rule of what is the same answer.
    """
    if prediction["option_scores"]:
        return accuracy(prediction) == 1
    form = normal_form(metrics, bool(prediction["options"]))
    return prediction["generated"] is not None and exact_match(prediction, form) == 1


def which_are_right(predictions: pa.Table, metrics: Sequence[str]) -> NDArray[np.bool_]:
    """`is_right` of each row of a table of predictions; of 100,000 that rank options, in a moment."""
    is_ranked = pc.list_value_length(predictions["option_scores"]).fill_null(0).to_numpy() > 0
    right = np.zeros(len(predictions), bool)
    right[is_ranked] = _ranked_right_first(predictions.filter(pa.array(is_ranked)))
    others = predictions.select(_ANSWER).filter(pa.array(~is_ranked)).to_pylist()
    right[~is_ranked] = [is_right(one, metrics) for one in others]
    return right


def _ranked_right_first(predictions: pa.Table) -> NDArray[np.bool_]:
    lists = predictions["option_scores"].combine_chunks()
    scores, owners = lists.flatten().to_numpy(), pc.list_parent_indices(lists).to_numpy()
    # By owner, then the highest score, then the first place: as `numpy.argmax`, which takes a NaN for the highest.
    order = np.lexsort((-np.nan_to_num(scores, nan=np.inf), owners))
    chosen = order[np.searchsorted(owners[order], np.arange(len(predictions)))]
    said = predictions["options"].combine_chunks().flatten().take(pa.array(chosen))
    references = predictions["references"].combine_chunks()
    asked = pc.list_parent_indices(references)
    hits = pc.equal(references.flatten(), said.take(asked)).to_numpy(zero_copy_only=False)
    right = np.zeros(len(predictions), bool)
    right[asked.to_numpy()[hits]] = True
    return right
