"""`flan report --merge`: the table, the page, JSON, and wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.cli.tables import print_results
from flanlab.report.merged import merge
from flanlab.results.files import read_results
from tests.report.synthetic import change, make_run

TASKS = ("product_reviews", "visitor_comments")


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    run = make_run(tmp_path / "run", {"untuned_instruction": 3, "untuned_chat": 6, "tuned": 5}, tasks=TASKS)
    evaluation = make_run(tmp_path / "[red]eval", {"instruction": 8}, tasks=TASKS, trained=False)
    change(evaluation, lambda r: r["variants"]["instruction"].update(seed=4))
    return [str(run), str(evaluation)]


def test_the_table_and_the_page(folders: list[str], tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["report", "--merge", *folders], env={"COLUMNS": "60"})
    assert told.exit_code == 0, told.output
    assert "D: [red]eval; " in told.stdout
    lines = [line.split() for line in told.stdout.splitlines()]
    # No more columns at a time than there is room for.
    assert [line for line in lines if line in (["A", "B"], ["C", "D"])] == [["A", "B"], ["C", "D"]]
    assert ["visitor_comments", "30.0", "60.0"] in lines
    assert ["visitor_comments", "50.0", "80.0"] in lines
    assert ["≠", "seed"] in [line[-2:] for line in lines]
    assert "in column D scores marked ≠ differ in seed" in " ".join(told.stdout.split())
    assert not list(tmp_path.glob("*.html"))
    page = tmp_path / "all.html"
    written = CliRunner().invoke(app, ["report", "--merge", *folders, "--out", str(page)])
    assert f"Page: {page}" in written.stdout
    assert page.is_file()
    assert page.with_suffix(".csv").is_file()


def test_json_for_programs(folders: list[str], tmp_path: Path) -> None:
    page = tmp_path / "all.html"
    told = CliRunner().invoke(app, ["report", "--merge", *folders, "--json", "--out", str(page)])
    assert json.loads(told.stdout) == merge(folders).model_dump(mode="json")
    assert page.is_file()


def test_wrong_use(folders: list[str], tmp_path: Path) -> None:
    table = tmp_path / "all.csv"
    assert CliRunner().invoke(app, ["report", "--merge", *folders, "--out", str(table)]).exit_code == 2
    assert not table.exists()
    assert CliRunner().invoke(app, ["report", *folders, "--out", str(tmp_path / "all.html")]).exit_code == 2


def test_results_on_a_terminal_of_eighty_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    right = {"untuned_instruction": 3, "untuned_chat": 6, "tuned": 9}
    print_results(read_results(make_run(tmp_path / "run", right, tasks=TASKS)))
    told = capsys.readouterr().out
    assert max(map(len, told.partition("  Scores times 100")[0].splitlines())) <= 80
    assert "…" not in told, "nothing is cut off"
    lines = [line.split() for line in told.splitlines()]
    assert ["n", "40,", "guessing", "50.0"] in lines
    place = lines.index(["accuracy", "90.0", "+30.0", "30.0", "60.0"])
    assert "[70.2, 97.2]" in told.splitlines()[place + 1]
    assert told.splitlines()[place + 1].count("[") == 4, "each number has its interval"
    assert told.splitlines()[place + 1].count("*") == 1, "and the difference excludes zero"
    assert ["average"] in lines
    print_results(read_results(make_run(tmp_path / "one", right, tasks=TASKS[:1])))
    alone = capsys.readouterr().out
    assert "average" not in alone
    assert "by cluster" not in alone
