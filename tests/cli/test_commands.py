"""The command line as a person meets it, judged by exit code and output."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from flanlab.cli.main import app, main
from flanlab.data import sources
from flanlab.data.reader import rows_within_reach
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import load_task
from tests.command import flan
from tests.report.synthetic import make_run
from tests.task_files import REVIEWS, task_content, write_task_file


@pytest.mark.parametrize(
    "command",
    [
        "quickstart",
        "run",
        "train",
        "eval",
        "mix",
        "report",
        "contamination",
        "export lm-eval",
        "tasks list",
        "tasks show",
        "tasks lint",
        "tasks schema",
        "tasks new",
        "recipe new",
        "recipe check",
        "recipe schema",
    ],
)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = flan(*command.split(), "--help")
    assert result.returncode == 0
    assert f"flan {command}" in result.stdout


def test_no_help_has_brackets_which_a_terminal_takes_for_markup_and_leaves_out() -> None:
    def check(command: object) -> int:
        if isinstance(command, TyperGroup):
            return sum(check(below) for below in command.commands.values())
        assert isinstance(command, TyperCommand)
        for parameter in command.params:
            assert not re.search(r"\[[a-z]", getattr(parameter, "help", None) or ""), f"{command.name}: {parameter.name}"
        return 1

    assert check(get_command(app)) > 20


def test_tasks_list_prints_json_for_programs() -> None:
    result = flan("tasks", "list", "--json", "--tasks", "sampler")
    found = json.loads(result.stdout)
    assert {cluster for task in found for cluster in task["clusters"]} == set(Cluster)


def test_tasks_list_keeps_to_a_cluster() -> None:
    result = flan("tasks", "list", "--json", "sentiment")
    assert {cluster for task in json.loads(result.stdout) for cluster in task["clusters"]} == {"sentiment"}


def test_tasks_show_renders_every_template_of_a_row() -> None:
    result = flan("tasks", "show", "product_reviews", "--row", "2")
    assert result.returncode == 0
    assert all(f"template {number}," in result.stdout for number in range(1, 11))
    assert "OPTIONS:" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tasks", "show", "product_revews"], "Did you mean product_reviews"),
        (["tasks", "show", "sentiment"], "Name one of them: "),
        (["tasks", "show", "product_reviews", "--row", "9999"], "not 9999"),
        (["tasks", "list", "--tasks", "no_such_folder"], "no folder of tasks"),
        (["run", "no_such_recipe.yaml"], "cannot be read"),
        (["report", "no_such_run"], "no_such_run/results.json"),
        (["mix", "quickstart", "--out", "mixture.xlsx"], ".parquet or .jsonl"),
        (["contamination", "--corpus", "quickstart", "--out", "out"], "whose rows"),
        (["contamination", "rte", "--corpus", "nothing.txt", "--out", "out"], "nothing.txt"),
        (["contamination", "--predictions", ".", "--corpus", "quickstart", "--out", "out", "rte", "--rows", "3"], "--rows and"),
        (["export", "lm-eval", "sentimental", "--out", "out"], "Did you mean sentiment"),
    ],
)
def test_bad_input_is_one_message_with_its_mend_and_no_traceback(arguments: list[str], expected: str, tmp_path: Path) -> None:
    result = flan(*arguments, folder=tmp_path)
    assert result.returncode == 1
    assert expected in result.stderr
    assert "Hint:" in result.stderr


@pytest.mark.parametrize("out", ["notes.txt", "notes.txt/deeper"])
@pytest.mark.parametrize("command", ["run quickstart", "ablate clusters quickstart", "eval some/model sst2", "export model x"])
def test_a_file_in_the_place_of_a_folder_is_refused_at_once(command: str, out: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    result = CliRunner().invoke(app, [*command.split(), "--out", str(tmp_path / out)])
    assert result.exit_code == 2
    assert "is a file; name a folder" in " ".join(re.sub(r"[^\w.;/-]+", " ", result.output).split())
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_what_the_system_refuses_is_told_without_a_traceback(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"instruction": 3}, trained=False)
    (folder / "report.html").mkdir()
    result = flan("report", str(folder))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"flan: {folder / 'report.html'}: Is a directory. What was done before is kept."


def test_the_list_of_tasks_in_the_documentation_is_current() -> None:
    published = Path(__file__).parents[2] / "docs" / "tasks.md"
    current = flan("tasks", "list", "--markdown").stdout
    assert published.read_text(encoding="utf-8") == current, "update it with: flan tasks list --markdown > docs/tasks.md"


TASK = """
name: {name}
cluster: sentiment
{source}
licence: CC0-1.0 | or so
derived_from: {{{derived}}}
fields: {{text: "{{{{ text }}}}"}}
options: ["bad", "good"]
answer: "{{{{ options[label] }}}}"
metrics: [accuracy]
templates: [{{prompt: "Good or bad? {{{{ text }}}}"}}]
baseline: {{prompt: "{{{{ text }}}} It was"}}
"""


def test_a_task_is_shown_with_its_subtasks_its_whole_lineage_and_its_baseline(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"row number {n}", "label": n % 2}) + "\n" for n in range(4))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    subtasks = 'subtasks: {first: {files: {train: rows.jsonl}}, second: {files: rows.jsonl, splits: {test: "all[:2]"}}}'
    texts = {
        "young": TASK.format(name="young", source=subtasks, derived="middle: said so, qnli: as known"),
        "middle": TASK.format(name="middle", source="source: {files: {train: rows.jsonl}}", derived="old: in its paper"),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    shown = flan("tasks", "show", "young", "--tasks", str(tmp_path)).stdout
    for line in (
        "subtask first files next to the task file; train: train",
        "subtask second files next to the task file; test: all[:2]",
        "derived from middle: said so",
        "derived from old: through middle",
        "derived from squad: through qnli",
    ):
        assert line in shown
    assert "baseline, for untuned models" in shown
    assert "row number 0 It was bad" in shown
    subtask = flan("tasks", "show", "young.second", "--tasks", str(tmp_path))
    assert (subtask.returncode, "row number 0 It was bad" in subtask.stdout) == (0, True), "it has a test split alone"
    table = flan("tasks", "list", "--markdown", "--tasks", str(tmp_path)).stdout
    (line,) = (line for line in table.splitlines() if "`young`" in line)
    assert "`young`: first, second | CC0-1.0 \\| or so |" in line
    assert line.endswith("| 1 + 0 *b* | accuracy | middle, old, qnli, squad |"), (
        "what no task has, such as a place of rows, has no column"
    )


def test_a_process_has_the_exit_code_and_a_terminal_that_knows_only_ascii_shows_escapes(tmp_path: Path) -> None:
    """The other tests of commands stay in this process, since one of its own takes a second."""
    rows = [{"text": "\u4eca\u5929", "label": 1}]
    write_task_file(tmp_path, task_content(), rows)

    def show(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flanlab", "tasks", "show", name, "--tasks", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})

    shown, refused = show("reviews"), show("revews")
    assert shown.returncode == 0, shown.stderr
    assert "\\u4eca\\u5929" in shown.stdout
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Hint: " in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tasks", "list", "--no-such-option"], "No such option"),
        (["tasks", "show", "product_reviews", "--split", "validation"], "'train', 'dev', 'test'"),
        (["contamination", "rte", "--corpus", "quickstart", "--out", "out", "--split", "validation"], "'train', 'dev', 'test'"),
        (["contamination", "rte", "--corpus", "quickstart", "--out", "out", "--frequent-in", "x"], "'evaluation', 'corpus'"),
        (["export", "lm-eval", "product_reviews", "--out", "out", "--split", "validation"], "'train', 'dev', 'test'"),
        (["train", "quickstart", "--device", "H100"], "--plan"),
    ],
)
def test_wrong_use_exits_with_two(arguments: list[str], expected: str, tmp_path: Path) -> None:
    result = flan(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert expected in " ".join(result.stderr.replace("│", " ").split())


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


def test_lint_goes_on_past_a_task_whose_rows_fail(tmp_path: Path) -> None:
    for name, faulty in (("one", {"filter": "{{ labl >= 0 }}"}), ("two", {})):
        write_task_file(tmp_path, task_content(name=name, **faulty))
    result = flan("tasks", "lint", "--tasks", str(tmp_path), "--json")
    assert result.returncode == 1
    one, two = json.loads(result.stdout)
    assert "labl" in one["findings"][0]["message"]
    assert two["rows_checked"]


def test_lint_fails_for_a_file_of_rows_that_is_not_there(tmp_path: Path) -> None:
    path = write_task_file(tmp_path, task_content(source={"files": "nowhere.jsonl", "splits": {"train": "all"}}))
    result = flan("tasks", "lint", str(path))
    assert result.returncode == 1
    assert "nowhere.jsonl: there is no such file" in result.stdout.replace("\n", "")
    assert "relative to the task file" in result.stdout


def test_an_export_of_nothing_leaves_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    content = task_content(source={"files": {"train": "reviews.jsonl", "test": "nowhere.jsonl"}})
    write_task_file(tmp_path / "tasks", content)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.yaml").write_text("kept")
    result = flan("export", "lm-eval", "--tasks", "tasks", "--out", "out", folder=tmp_path)
    assert result.returncode == 1
    assert "No task has rows that are available" in result.stderr
    assert (tmp_path / "out" / "kept.yaml").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_without_a_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a file's `write` raises it, without a name; and as safetensors does."""

    def full() -> None:
        raise error

    monkeypatch.setattr("flanlab.cli.main.app", full)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "flan: A disk is full. What was done before is kept.\n"


def test_published_schema_is_current() -> None:
    published = Path(__file__).parents[2] / "docs" / "task.schema.json"
    assert json.loads(flan("tasks", "schema").stdout) == json.loads(published.read_text(encoding="utf-8"))


def test_lint_checks_what_is_at_hand_and_says_what_is_not(tmp_path: Path) -> None:
    subtasks = {
        "here": {"files": {"train": "reviews.jsonl", "test": "nowhere.jsonl"}},
        "elsewhere": {"files": {"train": "nowhere.jsonl"}},
    }
    write_task_file(tmp_path, task_content(source=None, subtasks=subtasks))
    result = flan("tasks", "lint", "--tasks", str(tmp_path), "--json")
    assert result.returncode == 0, result.stderr
    [report] = json.loads(result.stdout)
    assert report["checked"]
    assert report["rows_checked"] == {"train": len(REVIEWS)}
    assert len(report["missing"]) == 2
    assert result.stderr.count("checked partly") == 2


def test_lint_reads_no_rows_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subtasks = {name: {"files": {"train": "reviews.jsonl"}} for name in ("one", "other")}
    task = load_task(write_task_file(tmp_path, task_content(source=None, subtasks=subtasks)))
    read: list[Path] = []
    original = sources.read_table
    monkeypatch.setattr(sources, "read_table", lambda path: read.append(path) or original(path))
    rows, missing = rows_within_reach(task, None)
    assert len(rows["train"]) == 2 * len(REVIEWS)
    assert missing == []
    assert len(read) == 2


def test_contamination_prints_a_table_and_json(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("nothing that any row says")
    arguments = ["contamination", "product_reviews", "--corpus", "corpus.txt", "--out", "out", "--ngram", "9", "--rows", "5"]
    table = flan(*arguments, folder=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "product_reviews" in table.stdout
    assert "out/contamination.parquet" in table.stdout
    found = json.loads(flan(*arguments, "--json", folder=tmp_path).stdout)
    assert found["tasks"]["product_reviews"]["9"]["input"]["rows"] == 5


def test_export_for_lm_eval_says_how_to_run_it(tmp_path: Path) -> None:
    result = flan("export", "lm-eval", "product_reviews", "--out", "out", "--rows", "3", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--include_path out --tasks flanlab_sentiment" in result.stdout
    rows = (tmp_path / "out" / "flanlab_product_reviews" / "flanlab_product_reviews_t1.jsonl").read_text()
    assert len(rows.splitlines()) == 3
