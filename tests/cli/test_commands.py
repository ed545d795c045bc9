"""The command line as a person meets it: run in a process of its own, judged by exit code and output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flanlab.tasks.clusters import Cluster


def flan(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flanlab", *arguments], capture_output=True, text=True, cwd=folder, timeout=300
    )


@pytest.mark.parametrize(
    "command",
    ["quickstart", "run", "train", "eval", "mix", "report", "tasks list", "tasks show", "tasks lint", "tasks schema"],
)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = flan(*command.split(), "--help")
    assert result.returncode == 0
    assert f"flan {command}" in result.stdout


def test_tasks_list_prints_json_for_programs() -> None:
    result = flan("tasks", "list", "--json", "--tasks", "sampler")
    found = json.loads(result.stdout)
    assert {cluster for task in found for cluster in task["clusters"]} == set(Cluster)


def test_tasks_list_keeps_to_a_cluster() -> None:
    result = flan("tasks", "list", "--json", "--cluster", "sentiment")
    assert {cluster for task in json.loads(result.stdout) for cluster in task["clusters"]} == {"sentiment"}


def test_tasks_show_renders_every_template_of_a_row() -> None:
    result = flan("tasks", "show", "product_reviews", "--row", "2")
    assert result.returncode == 0
    assert all(f"template {number}," in result.stdout for number in range(1, 11))
    assert "OPTIONS:" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tasks", "show", "product_review"], "Did you mean product_reviews"),
        (["tasks", "show", "sentiment"], "is a cluster"),
        (["tasks", "show", "product_reviews", "--row", "9999"], "not 9999"),
        (["tasks", "show", "product_reviews", "--split", "validation"], "Use train, dev or test"),
        (["tasks", "list", "--tasks", "no_such_folder"], "no folder of tasks"),
        (["run", "no_such_recipe.yaml"], "cannot be read"),
        (["report", "no_such_run"], "no_such_run"),
        (["mix", "quickstart", "--out", "mixture.xlsx"], ".parquet or a .jsonl"),
    ],
)
def test_bad_input_is_one_message_with_its_mend_and_no_traceback(arguments: list[str], expected: str, tmp_path: Path) -> None:
    result = flan(*arguments, folder=tmp_path)
    assert result.returncode == 1
    assert expected in result.stderr
    assert "To mend it:" in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_use_exits_with_two() -> None:
    assert flan("tasks", "list", "--no-such-option").returncode == 2


def test_lint_exits_with_one_where_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": f"row number {n}", "label": n % 2}) + "\n" for n in range(20)), encoding="utf-8"
    )
    (tmp_path / "leaky.yaml").write_text(
        """
name: leaky
cluster: sentiment
source: {files: rows.jsonl, splits: {train: "all[:10]", dev: "all[10:15]", test: "all[15:]"}}
licence: CC0-1.0
options: ["bad", "good"]
answer: "{{ ['bad', 'great'][label] }}"
fields: {text: "{{ text }}"}
metrics: [accuracy]
templates: [{prompt: "Is this good or bad? {{ text }}"}]
""",
        encoding="utf-8",
    )
    result = flan("tasks", "lint", "--tasks", str(tmp_path), "--json")
    assert result.returncode == 1
    (report,) = json.loads(result.stdout)
    assert any(finding["level"] == "error" for finding in report["findings"])


def test_published_schema_is_current() -> None:
    published = Path(__file__).parents[2] / "docs" / "task.schema.json"
    assert json.loads(flan("tasks", "schema").stdout) == json.loads(published.read_text(encoding="utf-8"))
