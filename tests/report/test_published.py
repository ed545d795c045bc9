"""Published figures stand beside ours only where task, metric and rows are the same, and are in no average."""

from __future__ import annotations

from pathlib import Path

from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.report.html import write_report
from flanlab.report.published import Kind, figures, published
from flanlab.results.schema import RowSource, TaskFacts
from flanlab.tasks.loading import load_collections
from tests.evaluation.test_results import free_answer, prediction
from tests.report.synthetic import change, make_run
from tests.report.test_report import Page

CB = {"hub": "aps/super_glue", "config": "cb", "split": "validation"}
RTE = CB | {"config": "rte"}


def test_every_figure_is_for_rows_and_a_metric_of_the_library() -> None:
    evaluated = {}
    counts = {}
    for task in load_collections(["library"]):
        some = prediction(0, 1, True) if task.is_classification else free_answer(0, 1, "a", "a")
        computed = {metric.name for metric in metrics_for(task.metrics, [some])}
        for source in task.sources.values():
            evaluated[source.hub, source.config, source.split_spec("test")] = computed
            counts[source.hub, source.config, source.split_spec("test")] = set(task.published_rows.values())
    assert len(published().figures) > 15
    for figure in published().figures:
        assert figure.metric in evaluated[figure.hub, figure.config, figure.split], figure
        assert figure.rows in counts[figure.hub, figure.config, figure.split], figure
        assert any(getattr(figure, model) is not None for model in published().models)


def page_with(folder: Path, source: dict[str, str], rows: int) -> Page:
    change(folder, lambda r: r["tasks"]["visitor_comments"].update(source=source, rows=rows))
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_figures_stand_in_a_column_of_their_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9})
    page = page_with(folder, CB, 56)
    assert [value for value in page.values if value in (0.641, 0.464)] == [0.641, 0.464], "in one row of one table"
    table = page.source[page.source.index('aria-label="Ranking accuracy, all tasks"') :]
    table = table[: table.index("</table>")]
    row = table[table.index("visitor_") : table.index("</tr>", table.index("visitor_"))]
    assert row.index("0.641") > row.rindex('class="score')
    assert "Wei et al. 2022" in page.text
    assert "on full test sets" in page.text
    average = table[table.index('class="total"') :]
    assert "0.641" not in average
    assert '<td class=" other first"></td>' in average


def test_other_rows_have_no_figure(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9})
    for changes, rows in (({"split": "train"}, 56), ({"config": "cb2"}, 56), ({"hub": "my/cb"}, 56), ({}, 55)):
        page = page_with(folder, CB | changes, rows)
        assert "other model" not in page.text
        assert "Wei et al." not in page.text


def facts(source: dict[str, str], rows: int) -> TaskFacts:
    return TaskFacts(
        clusters=["natural_language_inference"], rows=rows, templates=[1], main_metric="accuracy", metrics={},
        source=RowSource(**{"config": None, **source}),
    )  # fmt: skip


def test_a_figure_stands_only_beside_ours_of_the_same_kind() -> None:
    """RTE's is FLAN's best dev template, CB's its mean; what WNLI's is, is not known. GPT-3 was asked one prompt."""
    rte, cb, wnli = facts(RTE, 277), facts(CB, 56), facts({"hub": "nyu-mll/glue", "config": "wnli", "split": "validation"}, 71)
    kinds: tuple[Kind, Kind] = ("mean", "best dev template")
    assert [figures(rte, "accuracy", kind) for kind in kinds] == [{"gpt3_175b": 0.635}, {"flan_137b": 0.841}]
    assert [figures(cb, "accuracy", kind) for kind in kinds] == [{"flan_137b": 0.641, "gpt3_175b": 0.464}, {}]
    assert [figures(wnli, "accuracy", kind) for kind in kinds] == [{}, {}]
