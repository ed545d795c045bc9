"""A model and how it is asked: the one object that goes through an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flanlab.data.encoding import PromptStyle
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.models.answering import Model
from flanlab.results.schema import Variant


@dataclass(frozen=True)
class Setup:
    """What decides, with a row and a template, a question and its answer. Its results stand under its name as a variant."""

    model: Model
    settings: EvaluationSettings
    seed: int = 0
    style: PromptStyle = "instruction"
    name: str = ""
    """Of the variant, in files."""
    title: str = ""
    """Of the variant, for people."""

    def variant(self, **facts: Any) -> Variant:
        """What results say of it; `facts` take the place of the model's own."""
        stamp = self.model.stamp
        found = {
            "title": self.title,
            "model": self.model.name,
            "identity": self.model.identity,
            "parameters": self.model.parameters,
            "dtype": self.model.dtype,
            "trained_in": (stamp or {}).get("recipe", {}).get("training", {}).get("compute_dtype"),
            "stamped": stamp is not None,
            "trained_on": None if stamp is None else {name: one["clusters"][0] for name, one in stamp["tasks"].items()},
            "scoring": self.model.scoring,
            "style": self.style,
            "seed": self.seed,
            "settings": self.settings.model_dump(mode="json"),
        }
        return Variant(**found | facts)
