"""A run or an evaluation, opened from its folder; and two of them compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from flanlab.errors import FlanlabError
from flanlab.evaluation.comparison import compare_sides
from flanlab.evaluation.metrics.options import with_counted_scores
from flanlab.evaluation.sides import open_side
from flanlab.report.predictions import prediction_text, which_are_right
from flanlab.results.files import PREDICTIONS, difference_table, read_predictions, read_results, score_table
from flanlab.results.schema import Results
from flanlab.results.table import Table


@dataclass(frozen=True)
class Run:
    """The folder of `run` or `evaluate`: results, predictions, a report, and for a run the tuned model.

    Examples:
        >>> import flanlab as fl
        >>> run = fl.evaluate(example_model, "visitor_comments", rows=8, templates_per_row=1, out=folder)
        >>> run.scores.where(metric="accuracy", template="mean", level="task").select("task", "rows")
        task              rows
        visitor_comments  8
    """

    folder: Path

    def __repr__(self) -> str:
        results = self.results
        main = [
            {"task": name, "variant": variant} | score.model_dump(include={"metric", "mean", "low", "high"})
            for name in results.tasks
            for variant, score in results.main_scores(name).items()
        ]
        return f"{results.name}, in {self.folder}\n{Table.from_rows(main)}"

    @cached_property
    def results(self) -> Results:
        """Everything that results.json says, typed."""
        return read_results(self.folder)

    @property
    def scores(self) -> Table:
        """The score table: a row for each task (or mean), variant, metric and template; scores are 0 to 1.

        Columns: `task`, `subtask`, `cluster`, `level`, `variant`, `metric`, `template` ("mean", a number, or "best on dev"),
        `mean`, `low` and `high` (95 % interval), `std` over templates, `rows`, `seen`, and what was asked of which model.
        """
        return Table(score_table(self.results))

    @property
    def differences(self) -> Table:
        """Tuned minus untuned, paired: a row for each task (or mean) and metric, with its interval and p-value."""
        return Table(difference_table(self.results))

    @property
    def model_folder(self) -> Path | None:
        """Folder of the tuned model; None for an evaluation."""
        folder = self.folder / "model"
        return folder if folder.is_dir() else None

    def predictions(self, task: str, variant: str | None = None) -> Table:
        """One row for each question that was asked of a task.

        `option_scores` are those that the metrics judge by: without end tokens, where the settings do not count these.

        Args:
            task: name of the task or subtask.
            variant: one of `results.variants`. Default: all of them.

        Returns:
            Columns: `variant`, `template` and `row` (its number within the split); `right`, whether `prediction` is a right
            answer (free text: an exact match); `prediction`, the option ranked first, or the generated text if there are no
            options; `references`, the right answers; `prompt`; `options` in this template's words, with `option_scores`
            (natural logarithms); `answer`, the position of the right option; `generated`, what the model wrote; and others
            (`docs/reference/results.md`).

        Raises:
            FlanlabError: there is no such task or variant.

        Examples:
            >>> import flanlab as fl
            >>> run = fl.evaluate(example_model, "visitor_comments", rows=8, templates_per_row=1, out=folder)
            >>> wrong = run.predictions("visitor_comments").where(right=False)
            >>> wrong.select("prompt", "prediction", "references").columns
            ['prompt', 'prediction', 'references']
        """
        for what, name, known in (("task", task, self.results.tasks), ("variant", variant, self.results.variants)):
            if name is not None and name not in known:
                raise FlanlabError(f"{self.folder}: there is no {what} {name}.", hint=f"There are: {', '.join(known)}.")
        tables = []
        for name in [variant] if variant else list(self.results.variants):
            table = read_predictions(self.folder / PREDICTIONS / name / task)
            if not self.results.variants[name].end_token:
                table = pa.Table.from_pylist(with_counted_scores(table.to_pylist(), end_token=False), schema=table.schema)
            right = which_are_right(table, self.results.tasks[task].declared_metrics)
            said = map(prediction_text, table.select(["option_scores", "options", "generated"]).to_pylist())
            table = table.add_column(0, "variant", pa.array([name] * len(table), pa.string()))
            table = table.add_column(4, "right", pa.array(right))
            tables.append(table.add_column(5, "prediction", pa.array(said, pa.string())))
        return Table(pa.concat_tables(tables))

    def compare(self, other: Run | str | Path) -> Comparison:
        """Compare with another run or evaluation; see `flanlab.compare`."""
        return compare(self, other)

    def write_report(self, *, examples: bool = True) -> Path:
        """Write report.html into the folder.

        Args:
            examples: show example predictions. Leave them out if the data must not be passed on.

        Returns:
            The file, which opens offline in any browser.

        Raises:
            FlanlabError: a file of the run is missing or damaged.
        """
        from flanlab.report.html import write_report

        return write_report(self.folder, examples=examples)


@dataclass(frozen=True)
class Comparison:
    """Two models on the questions that both were asked: B minus A."""

    results: Results
    """With the variants `a` and `b`."""

    def __repr__(self) -> str:
        found = [self.results.difference("task", name, task.main_metric) for name, task in self.results.tasks.items()]
        shown = ["task", "subtask", "metric", "difference", "low", "high", "p_value", "p_holm"]
        rows = [one.model_dump(include=set(shown)) for one in found if one is not None]
        return "\n".join([*self.verdict, *([repr(Table.from_rows(rows).select(*shown))] if rows else [])])

    @property
    def scores(self) -> Table:
        """Scores of both sides; columns as those of a run."""
        return Table(score_table(self.results))

    @property
    def differences(self) -> Table:
        """B minus A: a row for each task (or mean) and metric, with its interval and p-values."""
        return Table(difference_table(self.results))

    @property
    def verdict(self) -> Sequence[str]:
        """What the numbers allow to say, in sentences."""
        from flanlab.report.comparison import verdict

        return list(verdict(self.results))

    def write_page(self, path: str | Path) -> Path:
        """Write the comparison as one HTML file that opens offline."""
        from flanlab.report.comparison import write_comparison

        write_comparison(self.results, Path(path))
        return Path(path)


def open_run(folder: str | Path) -> Run:
    """Open the folder of a run or of an evaluation.

    Raises:
        FlanlabError: it holds no results, or results of another format.

    Examples:
        >>> import flanlab as fl
        >>> fl.evaluate(example_model, "visitor_comments", rows=8, templates_per_row=1, out=folder).folder == folder
        True
        >>> list(fl.open_run(folder).results.tasks)
        ['visitor_comments']
    """
    run = Run(Path(folder))
    _ = run.results  # refuses what is no run
    return run


def compare(first: Run | str | Path, second: Run | str | Path, *, margin: float | None = None) -> Comparison:
    """Compare two runs or evaluations, question by question: `second` minus `first`.

    Both must have been asked the same rows with the same seed and settings. p-values of the tasks' main metrics are corrected
    by Holm (1979).

    Args:
        first: a run, its folder, or `folder:variant`. Without a variant: the tuned one of a run, else the first.
        second: the same.
        margin: how far apart two scores may be and still count as the same (0.02: two points of accuracy). Then two one-sided
            tests (Schuirmann 1987) say where the two are equivalent: `p_equivalence` below 0.05.

    Raises:
        FlanlabError: the two were not asked the same, or have no task in common.

    Examples:
        >>> import flanlab as fl
        >>> settings = {"rows": 8, "templates_per_row": 1}
        >>> plain = fl.evaluate(example_model, "visitor_comments", **settings, out=folder / "plain")
        >>> chat = fl.evaluate(example_model, "visitor_comments", **settings, styles=["chat"], out=folder / "chat")
        >>> fl.compare(plain, chat).differences.where(level="task", metric="accuracy").column("after")
        ['b']
    """
    sides = (open_side(str(side.folder if isinstance(side, Run) else side)) for side in (first, second))
    return Comparison(compare_sides(*sides, margin=margin))
