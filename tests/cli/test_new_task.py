"""`flan tasks new`: from rows to a file that the other commands take."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from rich.console import Console

from flanlab import progress
from flanlab.cli.new_task import new_task
from flanlab.data.mirror import MIRROR_VARIABLE
from flanlab.data.sources import load_rows
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import load_task
from tests.command import flan
from tests.task_files import refusal

REVIEWS = "Review Text,stars\n" + "".join(
    f"Dish number {n} was {'fine' if n % 2 else 'cold'}.,{n % 5 + 1}\n" for n in range(20)
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    (tmp_path / "reviews.csv").write_text(REVIEWS, encoding="utf-8")
    return tmp_path


def new(rows: str, cluster: str = Cluster.SENTIMENT, **options: Any) -> None:
    defaults = {"name": None, "answer": None, "config": None, "revision": None, "out": Path("my_tasks"), "mirror": None}
    new_task(rows, cluster, **{**defaults, "force": False, **options})


def test_a_file_becomes_a_task_that_lints_and_shows(folder: Path) -> None:
    made = flan("tasks", "new", "reviews.csv", "--cluster", "sentiment", "--name", "our_reviews", folder=folder)
    assert made.returncode == 0, made.stderr
    assert "Wrote my_tasks/our_reviews.yaml" in made.stdout
    for line in (
        "  answer    `stars` (going by its name): 5 labels, the numbers themselves",
        "  inputs    `review_text`",
        "  flan tasks lint our_reviews --tasks my_tasks",
        "  flan eval our_reviews --tasks my_tasks --model smollm2-135m-instruct --out runs/our_reviews",
    ):
        assert line in made.stdout
    lint = flan("tasks", "lint", "our_reviews", "--tasks", "my_tasks", folder=folder)
    assert lint.returncode == 0, lint.stdout
    assert "0 errors" in lint.stdout
    shown = flan("tasks", "show", "our_reviews", "--tasks", "my_tasks", "--row", "1", folder=folder)
    assert "Dish number 1 was fine." in shown.stdout
    again = flan("tasks", "new", "reviews.csv", "--cluster", "sentiment", "--name", "our_reviews", folder=folder)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert "--force" in again.stderr


def test_the_draft_is_written_again_with_another_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "two.csv").write_text("text,label,rating\n" + "".join(f"Dish {n}.,{n % 2},{n % 3}\n" for n in range(12)))
    new("two.csv")
    told = capsys.readouterr().out
    assert "`label` (not sure: going by its name it could also be `rating`)" in told
    assert "If another column is the answer, run the same command with --answer COLUMN --force." in told
    assert "exists already" in refusal(lambda: new("two.csv", answer="rating")).message
    new("two.csv", answer="rating", force=True)
    assert load_task(folder / "my_tasks" / "two.yaml").options == ["0", "1", "2"]
    assert "--answer" not in capsys.readouterr().out


def test_a_person_on_a_terminal_chooses_the_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "two.csv").write_text("text,first,second\n" + "".join(f"Dish {n}.,{n % 2},{n % 3}\n" for n in range(12)))
    for answers, options in (("3\n", ["0", "1", "2"]), ("4\nno\n2\n", ["0", "1"]), ("first\n", ["0", "1"])):
        typed = io.StringIO(answers)
        monkeypatch.setattr(typed, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", typed)
        monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=True, highlight=False))
        new("two.csv", force=True)
        assert load_task(folder / "my_tasks" / "two.yaml").options == options
        assert "  1  text: Dish 0." in capsys.readouterr().err
    typed = io.StringIO("")
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", typed)
    assert "--answer" in refusal(lambda: new("two.csv", force=True)).hint


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_any_kind_of_file_in_any_folder(suffix: str, folder: Path) -> None:
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(8)]
    path = folder / "data" / f"Our Rows-2.{suffix}"
    path.parent.mkdir()
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        path.write_text("".join(f'{{"text": "{row["text"]}", "label": "{row["label"]}"}}\n' for row in rows))
    else:
        tab = "\t" if suffix == "tsv" else ","
        path.write_text(f"text{tab}label\n" + "".join(f"{row['text']}{tab}{row['label']}\n" for row in rows))
    new(str(path), out=Path("here/tasks"))
    task = load_task(folder / "here" / "tasks" / "our_rows_2.yaml")
    assert task.source is not None
    assert task.source.files == f"../../data/Our Rows-2.{suffix}"
    assert len(load_rows(task, "train")) == 4


def mirrored(folder: Path, hub: str, config: str = "default") -> None:
    for split in ("train", "validation"):
        path = folder / "mirror" / hub / config / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{"premise": f"text {n}", "label": "ab"[n % 2]} for n in range(20)]), path)


def test_a_data_set_of_the_hub_comes_from_the_mirror(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mirrored(folder, "our/sets", "de-en")
    new("our/sets", config="de-en", revision="main", mirror=folder / "mirror")
    task = load_task(folder / "my_tasks" / "sets_de_en.yaml")
    assert task.source is not None
    assert (task.source.hub, task.source.config, task.source.revision) == ("our/sets", "de-en", "main")
    assert task.source.splits == {"train": "train[:-2]", "dev": "train[-2:]", "test": "validation"}
    assert task.derived_from == {}
    assert f"--tasks my_tasks --mirror {folder / 'mirror'}" in capsys.readouterr().out


def test_rows_that_a_task_of_the_library_has_too_are_named_in_its_lineage(folder: Path) -> None:
    mirrored(folder, "nyu-mll/glue", "mrpc")
    new("nyu-mll/glue", Cluster.PARAPHRASE, config="mrpc", mirror=folder / "mirror")
    assert load_task(folder / "my_tasks" / "glue_mrpc.yaml").derived_from == {"mrpc": "the same rows"}


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ("no_such.csv", {}, "no such file"),
        ("no such data set", {}, "not a Hub id"),
        ("my_folder", {}, "is a folder"),
        ("rows.xlsx", {}, "this file type cannot be read"),
        ("empty.csv", {}, "holds no rows"),
        ("empty.jsonl", {}, "holds no rows"),
        ("header.csv", {}, "header.csv: There are column names but no rows"),
        ("twice.csv", {}, "the column text occurs twice"),
        ("reviews.csv", {"config": "rte"}, "are for data sets of the Hub"),
        ("reviews.csv", {"name": "Our Reviews"}, "is not a valid name of a task"),
        ("reviews.csv", {"name": "rte"}, "flanlab has a task called `rte`"),
        ("reviews.csv", {"name": "sentiment"}, "the name of a cluster"),
        ("reviews.csv", {"out": Path("reviews.csv")}, "is not a folder"),
        ("reviews.csv", {"answer": "star"}, "no column called `star`"),
        ("our/sets", {"mirror": Path("no_mirror")}, "no mirror folder"),
        ("our/sets", {"mirror": Path("mirror")}, "does not have our/sets"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(rows: str, options: dict[str, Any], told: str, folder: Path) -> None:
    (folder / "my_folder").mkdir()
    (folder / "rows.xlsx").write_bytes(b"PK")
    (folder / "empty.csv").touch()
    (folder / "empty.jsonl").touch()
    (folder / "header.csv").write_text("text,label\n")
    (folder / "twice.csv").write_text("text,text\na,b\n")
    mirrored(folder, "our/sets", "de-en")
    error = refusal(lambda: new(rows, **options))
    assert told in error.message
    assert "de-en" in error.hint or told != "does not have our/sets"
    assert not list(folder.rglob("*.yaml"))


def test_a_lone_shard_is_refused(folder: Path) -> None:
    table = pa.table({"text": [f"Dish {n} was served." for n in range(18)], "label": [1, 0] * 9})
    pq.write_table(table, folder / "train-00001-of-00005.parquet")
    error = refusal(lambda: new("train-00001-of-00005.parquet", name="dishes"))
    assert "one of 5 shards of the split train" in error.message
    assert not (folder / "my_tasks").exists()
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    new("train-00000-of-00001.parquet", name="dishes")
    assert len(load_rows(load_task(folder / "my_tasks" / "dishes.yaml"), "train")) > 0


def test_a_cluster_is_named_as_people_type_it(folder: Path) -> None:
    new("reviews.csv", "Sent", name="typed")
    assert load_task(folder / "my_tasks" / "typed.yaml").clusters == (Cluster.SENTIMENT,)
    with pytest.raises(typer.BadParameter, match="There is no cluster called 'mood'"):
        new("reviews.csv", "mood", name="other")
