"""The twelve task clusters of FLAN (Wei et al. 2022, Figure 3) and which of them are too close to each other."""

from __future__ import annotations

import re
from enum import StrEnum


class Cluster(StrEnum):
    """A group of data sets of one task type."""

    NATURAL_LANGUAGE_INFERENCE = "natural_language_inference"
    COMMONSENSE = "commonsense"
    SENTIMENT = "sentiment"
    PARAPHRASE = "paraphrase"
    CLOSED_BOOK_QA = "closed_book_qa"
    STRUCT_TO_TEXT = "struct_to_text"
    READING_COMPREHENSION = "reading_comprehension"
    READING_COMPREHENSION_WITH_COMMONSENSE = "reading_comprehension_with_commonsense"
    COREFERENCE = "coreference"
    MISCELLANEOUS = "miscellaneous"
    TRANSLATION = "translation"
    SUMMARIZATION = "summarization"

    @classmethod
    def _missing_(cls, value: object) -> Cluster | None:
        """Also accepts what people type: `NLI`, `Natural language inference`, `closed-book QA`."""
        name = plain_name(str(value))
        name = _ABBREVIATIONS.get(name, name)
        return next((cluster for cluster in cls if cluster.value == name), None)

    @property
    def label(self) -> str:
        """The name in plain words."""
        return {
            Cluster.CLOSED_BOOK_QA: "closed-book QA",
            Cluster.STRUCT_TO_TEXT: "struct-to-text",
        }.get(self, self.value.replace("_", " "))


def plain_name(name: str) -> str:
    """A name of a task or cluster as files write it: lower case, with underscores."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def related_clusters(cluster: Cluster) -> frozenset[Cluster]:
    """Clusters that must not be trained on when `cluster` is evaluated, the cluster itself included.

    The others are the paper's two exceptions (section 2.2). Inference and paraphrase exclude each other. Reading comprehension
    with commonsense and each of its two parents (reading comprehension, commonsense) exclude each other.
    """
    return frozenset({cluster}.union(*(pair for pair in _EXCLUDE_EACH_OTHER if cluster in pair)))


_ABBREVIATIONS = {"nli": "natural_language_inference", "summarisation": "summarization"}

_EXCLUDE_EACH_OTHER = (
    (Cluster.NATURAL_LANGUAGE_INFERENCE, Cluster.PARAPHRASE),
    (Cluster.READING_COMPREHENSION_WITH_COMMONSENSE, Cluster.READING_COMPREHENSION),
    (Cluster.READING_COMPREHENSION_WITH_COMMONSENSE, Cluster.COMMONSENSE),
)
