"""Results of a comparison of wordings, typed: beside the scores and differences, which rows score otherwise in which words."""

from __future__ import annotations

from pydantic import Field

from flanlab.results.schema import Count, Difference, Frozen, Name, Rate, Results, Score


class ShownAnswer(Frozen):
    """What a model was asked in one wording, and answered."""

    prompt: str
    answer: str
    """The option ranked first; the generated text, where nothing was ranked."""
    score: Rate
    """Of this row by the pair's `flip_metric`."""


class Flip(Frozen):
    """A row that scores otherwise in the other wording: right before and wrong now, say."""

    row: Count
    a: ShownAnswer
    b: ShownAnswer
    references: list[str]
    """Right answers, in the words of B."""


class TemplatePair(Frozen):
    """One template of A against one of B, on the rows that were asked through both."""

    task: Name
    template_a: int
    template_b: int
    wording_a: str
    wording_b: str
    """The templates as the task files had them, with whatever else of the files differs (fields, options)."""
    rows: Count
    main_metric: str
    scores: list[Score]
    """By metric and variant, over the rows in common."""
    differences: list[Difference]
    """B minus A by each metric. The interval is over rows, for these two wordings. `p_holm` is corrected over all pairs, by the
    main metric."""
    flip_metric: str
    """Empty, with no flips, where a single row has no score (a correlation)."""
    flips: list[Flip]
    """First those that got worse, the largest change first; then those that got better."""

    @property
    def main(self) -> Difference:
        """B minus A by the main metric."""
        return next(row for row in self.differences if row.metric == self.main_metric)

    @property
    def worse(self) -> list[Flip]:
        """The rows that B does worse: right before and wrong now, by a metric of right and wrong."""
        return [flip for flip in self.flips if flip.b.score < flip.a.score]

    @property
    def better(self) -> list[Flip]:
        """The rows that B does better."""
        return [flip for flip in self.flips if flip.b.score > flip.a.score]


class Wordings(Frozen):
    """What a comparison of wordings gives: two sets of wordings on the same rows."""

    results: Results
    """With the variants `a` and `b`: each task over all its pairs, with intervals over rows and templates."""
    pairs: list[TemplatePair]
    unchanged: dict[str, Count] = Field(default_factory=dict)
    """Task to its number of templates that are the same in both, and are not compared."""
    only: dict[str, dict[str, list[int]]] = Field(default_factory=dict)
    """Task to side to the templates that the other side has no counterpart of."""
