"""The page of a comparison: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flanlab.evaluation.paired import SIDES
from flanlab.evaluation.results import MAIN_METRIC
from flanlab.files import write_text
from flanlab.report.comparison import seen_by, verdict
from flanlab.report.page import page_environment
from flanlab.report.plots import DifferenceRow, difference_panel
from flanlab.report.wording import MEAN_OVER_CLUSTERS, cluster_title, counted, explanation_of, signed


def write_comparison(comparison: Mapping[str, Any], path: Path) -> None:
    """Write the page of `compare_sides`' result to `path`, whole or not at all."""
    page = (
        page_environment()
        .get_template("comparison.html.j2")
        .render(
            comparison=comparison,
            sides=SIDES,
            main_metric=MAIN_METRIC,
            sentences=verdict(comparison),
            plot=_plot(comparison),
            averages=_averages(comparison),
            other_metrics=_other_metrics(comparison),
        )
    )
    write_text(path, page)


def _averages(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The mean of the main metric over each cluster, and over the clusters; empty where that would repeat the one task."""
    if sum(part["tasks"] for part in comparison["clusters"].values()) < 2:
        return []
    rows = [
        {
            "name": f"{cluster_title(name)}, {counted(part['tasks'], 'task')}",
            "seen": seen_by(comparison, name),
            **_main(part),
        }
        for name, part in comparison["clusters"].items()
    ]
    if len(rows) > 1:
        rows.append({"name": MEAN_OVER_CLUSTERS, "seen": seen_by(comparison), **_main(comparison["cluster_average"])})
    return rows


def _main(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"scores": part["scores"][MAIN_METRIC], "comparison": part["comparison"][MAIN_METRIC]}


def _plot(comparison: Mapping[str, Any]) -> Markup:
    shown = [(name, entry["comparison"][entry["main_metric"]], False) for name, entry in comparison["tasks"].items()]
    shown += [(row["name"], row["comparison"], True) for row in _averages(comparison)]
    rows = [DifferenceRow(name, one["difference"], tuple(one["interval"]), strong) for name, one, strong in shown]
    told = " ".join(f"{row.name}: {signed(row.difference)}." for row in rows[-6:])
    label = f"B minus A by each task's main metric, points, with 95 % intervals. {told} All numbers stand in the tables below."
    return difference_panel("B minus A, points", rows, label)


def _other_metrics(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each metric the tasks that have it, and their average where all do."""
    tasks: Mapping[str, Any] = comparison["tasks"]
    found = []
    for metric in dict.fromkeys(metric for entry in tasks.values() for metric in entry["scores"]):
        having = {name: entry for name, entry in tasks.items() if metric in entry["scores"]}
        first = next(iter(having.values()))
        average = comparison["average"]
        rows = [
            {"name": name, "scores": entry["scores"][metric], "comparison": entry["comparison"][metric], "seen": entry["seen"]}
            for name, entry in having.items()
        ]
        found.append(
            {
                "title": first["metrics"][metric],
                "explanation": explanation_of(metric) or first["definitions"][metric],
                "rows": rows,
                "average": {
                    "scores": average["scores"][metric],
                    "comparison": average["comparison"][metric],
                    "seen": seen_by(comparison),
                }
                if metric in average["scores"] and len(rows) > 1
                else None,
            }
        )
    return found
