from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flanlab.data import sources
from flanlab.data.mirror import MIRROR_VARIABLE, MissingDataError
from flanlab.data.rendering import prepare_row, render
from flanlab.data.sources import CONVERSION, Rows, label_names, load_rows, load_splits
from flanlab.tasks.loading import load_task
from flanlab.tasks.printing import TemplatingError
from flanlab.tasks.schema import Task
from tests.task_files import is_fine_or_refused, refusal, task_content, write_task_file

MakeTask = Callable[..., Task]


def read(make_task: MakeTask, name: str, content: bytes, **changes: Any) -> list[dict[str, Any]]:
    task = make_task(source={"files": {"train": name}}, **changes)
    assert task.path is not None
    (task.path.parent / name).write_bytes(content)
    return [dict(row) for row in load_rows(task, "train")]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ("a.jsonl", '{"a": 1}\r\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ("a.jsonl", '\ufeff{"a": 1}\n', [{"a": 1}]),
        ("a.jsonl", '\n{"a": 1}\n\n \n{"a": 2}\n\n', [{"a": 1}, {"a": 2}]),
        ("a.jsonl", '{"a": "x"}\n{"b": [1, 2]}\n', [{"a": "x", "b": None}, {"a": None, "b": [1, 2]}]),
        ("a.jsonl", '{"a": 1}\n{"a": 2.5}\n{"a": null}\n', [{"a": 1}, {"a": 2.5}, {"a": None}]),
        ("a.jsonl", '{"a": "2020-01-01"}\n{"a": "2020-01-02T10:00:00"}\n', [{"a": "2020-01-01"}, {"a": "2020-01-02T10:00:00"}]),
        ("a.jsonl", '{"a": "one\u2028two\u0085three"}\n', [{"a": "one\u2028two\u0085three"}]),
        ("a.jsonl", '{"a": {"b": ["c"]}}\n', [{"a": {"b": ["c"]}}]),
        ("a.csv", "a,b\n1,x\n2,y\n", [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        ("a.csv", "\ufeffa,b\r\n1,x\r\n", [{"a": 1, "b": "x"}]),
        ("a.csv", 'a,b\n"one\ntwo, three","say ""x"""\n', [{"a": "one\ntwo, three", "b": 'say "x"'}]),
        ("a.csv", "a,b\nNone,NA\nnull,\n", [{"a": "None", "b": "NA"}, {"a": "null", "b": None}]),
        ("a.csv", "a,b,c\ntrue,10:30,2020-01-01\nfalse,11:00,2020-01-02\n",
         [{"a": "true", "b": "10:30", "c": "2020-01-01"}, {"a": "false", "b": "11:00", "c": "2020-01-02"}]),
        ("a.csv", "a,b,c,d\n02108,0,0.5,x\n90210,10,1.5,\n",
         [{"a": "02108", "b": 0, "c": 0.5, "d": "x"}, {"a": "90210", "b": 10, "c": 1.5, "d": None}]),
        ("a.tsv", "a\tb\n1,5\tx\n", [{"a": "1,5", "b": "x"}]),
        ("a.tsv", 'a\tb\n"one\ttwo"\t"say ""x"""\n', [{"a": "one\ttwo", "b": 'say "x"'}]),
        ("a.tsv", 'a\tb\n"x" said\t1\n"y\t0\n"z"\t1\n', [{"a": '"x" said', "b": 1}, {"a": '"y', "b": 0}, {"a": '"z"', "b": 1}]),
        ("a.csv", " a, b\n1, x\n", [{"a": 1, "b": " x"}]),
        ("a.csv", "a\n1\n\n-2\n", [{"a": 1}, {"a": -2}]),
        ("A.JSONL", '{"a": 1}\n', [{"a": 1}]),
        ("a.json", '[{"a": 1},\n {"a": 2}]\n', [{"a": 1}, {"a": 2}]),
        ("a.json", '{"a":\n 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
    ],
)  # fmt: skip
def test_files_are_read_as_they_are_written(name: str, content: str, rows: list[dict[str, Any]], make_task: MakeTask) -> None:
    assert read(make_task, name, content.encode()) == rows


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.jsonl", b'{"a": 1}\n{"a": "x\n{"a": 3}\n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": 2\n{"a": 3}\n', "line 3: not valid JSON"),
        ("a.jsonl", b'{"a": 1} {"a": 2}\n', "line 1: not valid JSON"),
        ("a.jsonl", b'[{"a": 1},\n{"a": 2}]\n', "line 1: not valid JSON"),
        ("a.jsonl", b'[{"a": 1}]\n', "line 1: is not a JSON object"),
        ("a.jsonl", b'{"a": 1}\nnull\n', "line 2: is not a JSON object"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000 + b"\n", "line 1: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2}\n{"a": "x"}\n{"a": 4}\n', "line 3: the column a has the value 'x'"),
        ("a.jsonl", b'{"a": "x"}\n{"b": 1}\n{"a": 4}\n', "line 3: the column a has the value 4"),
        ("a.jsonl", b'{"a": [1]}\n{"a": 1}\n', "line 2: the column a"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2, "b": {"c": 1, "c": 2}}\n', "line 2: the key 'c' occurs twice"),
        ("a.json", b'[{"a": 1}, {"a": 2, "a": 3}]', "the key 'a' occurs twice"),
        ("a.json", b'[{"a": 1},\n{"a": 2]', "not valid JSON"),
        ("a.json", b"[[1]]", "row 0: is not a JSON object"),
        ("a.json", b"[]", "holds no rows"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', "line 1: the column a"),
        ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', "line 2: is not UTF-8"),
        ("a.csv", b"", "holds no rows"),
        ("a.csv", b"a,b\n", "leaves no row for"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3: has 3 cells, but the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "the column a occurs twice"),
        ("a.csv", b"a,b\ncaf\xe9,2\n", "line 2: is not UTF-8"),
        ("a.csv", b"caf\xe9,b\na,2\n", "line 1: is not UTF-8"),
        ("a.csv", b'a,b\n1,2\n"x,2\n', "line 3: a quotation mark opens a cell in the row that begins here and never closes"),
        ("a.csv", b'a,b\n"x,2\ny,"3" z\n', "line 2: a quotation mark opens a cell"),
        ("a.tsv", b'a\tb\n1\t2\n"x\t1\n5\'10"\t0\n', "line 3: a quotation mark opens a cell here that continues in line 4"),
        ("a.csv.gz", b"no gzip", "a.csv.gz"),
        ("a.arrow", b"no arrow", "a.arrow"),
        ("a.parquet", b"", "Parquet"),
        ("a.parquet", b"PAR1" + b"\x15\x04" * 50 + b"\x10\x00\x00\x00PAR1", "a.parquet: cannot be read"),
        ("a.jsonl", b'{"a": 1.5}\n{"a": true}\n', "line 2: the column a has the value True"),
        ("a.jsonl", b'{"a": [{"b": 2}]}\n{"a": [{"b": 1.0}, {"b": false}]}\n', "line 2: the column a"),
        ("a.txt", b"a", "this file type cannot be read"),
    ],
)
def test_damaged_files_are_named_with_the_line(name: str, content: bytes, told: str, make_task: MakeTask) -> None:
    message = refusal(lambda: read(make_task, name, content)).message
    assert told in message
    assert (name if "leaves no row" not in told else "reviews.yaml") in message


def test_a_csv_with_other_separators_is_told_what_separates_columns(make_task: MakeTask) -> None:
    fault = refusal(lambda: read(make_task, "a.csv", b"id|text|label\n1|Good, cheap|yes\n"))
    assert "line 2: has 2 cells, but the header has 1" in fault.message
    assert "Separate columns by commas or semicolons" in fault.hint


def test_a_csv_of_a_spreadsheet_has_semicolons_where_the_decimal_mark_is_a_comma(make_task: MakeTask) -> None:
    rows = read(make_task, "a.csv", '\ufeffid;text;"price; net"\r\n1;"Größe; ""groß"", gut";2,5\r\n2;gut, billig;\r\n'.encode())
    assert rows == [
        {"id": 1, "text": 'Größe; "groß", gut', "price; net": "2,5"},
        {"id": 2, "text": "gut, billig", "price; net": None},
    ]
    assert read(make_task, "b.csv", b"id,text;note\n1,good;cheap\n") == [{"id": 1, "text;note": "good;cheap"}]


_PIECES = [b'{"a": 1}', b"\n", b"{", b"}", b'"', b"a", b":", b"1", b"null", b",", b"[", b"]", b"\xe9", b"\x00", b"\r"]
_PIECES += [b"\xc3\xa9", b"\\ud800", b"NaN", b"1e999", b"true", b" ", b'""', b"\xef\xbb\xbf", b"9" * 30, b"-", b"\t"]


@settings(max_examples=80)
@given(
    st.sampled_from(["a.jsonl", "a.csv", "a.tsv"]),
    st.lists(
        st.sampled_from(_PIECES),
        max_size=12,
    ).map(b"".join),
)
@example("a.jsonl", b"null\n")
def test_no_content_raises_anything_but_a_flanlab_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = write_task_file(folder, task_content(source={"files": {"train": name}}))
    (folder / name).write_bytes(content)
    assert is_fine_or_refused(lambda: list(load_rows(load_task(path), "train")))


ROWS = [{"text": f"row {number}", "label": number % 3 - 1} for number in range(10)]
TEXTS = [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    ("specification", "texts"),
    [
        ("all", TEXTS),
        ("all[:3]", TEXTS[:3]),
        ("all[-3:]", TEXTS[-3:]),
        ("all[:20%]+all[-1:]", [*TEXTS[:2], TEXTS[-1]]),
    ],
)
def test_slices(specification: str, texts: list[str], make_task: MakeTask) -> None:
    task = make_task(ROWS, source={"files": "reviews.jsonl", "splits": {"train": specification}})
    assert [row["text"] for row in load_rows(task, "train")] == texts


_END = st.none() | st.integers(-14, 14)


@settings(max_examples=200)
@given(st.lists(st.tuples(_END, _END, st.sampled_from(["", "%"])), min_size=1, max_size=3), st.integers(0, 13))
def test_slices_are_those_of_hugging_face(cuts: list[tuple[int | None, int | None, str]], length: int) -> None:
    def end(number: int | None, unit: str) -> str:
        return "" if number is None else f"{number * (7 if unit else 1)}{unit}"

    table = pa.table({"n": list(range(length))})
    specification = "+".join(f"all[{end(start, unit)}:{end(stop, unit)}]" for start, stop, unit in cuts)
    theirs = datasets.ReadInstruction.from_spec(specification).to_absolute({"all": length})
    ours = sources._slices(Task.model_validate(task_content()), specification, {"all": table})
    assert [cut["n"].to_pylist() for cut in ours] == [list(range(cut.from_, max(cut.to, cut.from_))) for cut in theirs]


@pytest.mark.parametrize(
    "specification",
    ["train", "all+dev", "all[a:]", "all[:200%]", "all[1:2:3]", " all", "all+", "", "all[", "all[9:2]", "all[20:]"],
)  # fmt: skip
def test_impossible_slices_are_refused(specification: str, make_task: MakeTask) -> None:
    task = make_task(ROWS, source={"files": "reviews.jsonl", "splits": {"train": specification}})
    message = refusal(lambda: load_rows(task, "train")).message
    assert str(task.path) in message
    assert specification in message


@settings(max_examples=80)
@given(st.text("al+[]:%-0123 d", max_size=14).map("all[".__add__))
def test_no_slice_raises_anything_but_a_flanlab_error(tmp_path_factory: pytest.TempPathFactory, specification: str) -> None:
    source = {"files": "reviews.jsonl", "splits": {"train": specification}}
    task = load_task(write_task_file(tmp_path_factory.getbasetemp(), task_content(source=source), ROWS))
    assert is_fine_or_refused(lambda: load_rows(task, "train"))


def test_a_split_the_task_does_not_have(make_task: MakeTask) -> None:
    error = refusal(lambda: load_rows(make_task(), "dev"))
    assert "has no dev split" in error.message
    assert "reviews.yaml" in error.message


def test_a_missing_file_is_named(make_task: MakeTask) -> None:
    error = refusal(lambda: load_rows(make_task(source={"files": {"train": "nowhere.jsonl"}}), "train"))
    assert isinstance(error, MissingDataError)
    assert "nowhere.jsonl" in error.message


def test_parts_of_different_types_are_refused(make_task: MakeTask) -> None:
    source = {"files": {"one": "reviews.jsonl", "two": "two.jsonl"}, "splits": {"train": "one+two"}}
    task = make_task(source=source)
    assert task.path is not None
    (task.path.parent / "two.jsonl").write_text('{"text": "a", "label": "negative"}\n')
    assert "one+two" in refusal(lambda: load_rows(task, "train")).message


def test_the_filter_keeps_the_rows_for_which_it_is_true(make_task: MakeTask) -> None:
    rows = load_rows(make_task(ROWS, filter="{{ label >= 0 }}"), "train")
    assert [row["label"] for row in rows] == [0, 1, 0, 1, 0, 1]
    assert rows[-1] == ROWS[8]


def test_what_passes_a_filter_of_many_rows_is_found_out_once(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLANLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "_MANY_ROWS", len(ROWS))
    found = sources._passing
    asked: list[str] = []

    def passing(task: Task, rows: Rows) -> list[int]:
        asked.append(str(task.filter))
        return found(task, rows)

    monkeypatch.setattr(sources, "_passing", passing)
    source = {"files": "reviews.jsonl", "splits": {"train": "all", "test": "all"}}
    task = make_task(ROWS, filter="{{ label >= 0 }}", source=source)
    first = load_rows(task, "train")
    assert list(load_rows(task, "train")) == list(first)
    assert len(asked) == 1

    load_rows(task, "test")
    others = make_task(ROWS, filter="{{ label >= 1 }}", source=source)
    assert list(load_rows(others, "train")) != list(first)
    load_rows(make_task([*ROWS, ROWS[0]], filter="{{ label >= 0 }}", source=source), "train")
    assert len(asked) == 4, "another split, filter or file is asked again"

    task = make_task(ROWS, filter="{{ label >= 0 }}", source=source)
    for path in (tmp_path / "cache" / "filters").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert list(load_rows(task, "train")) == list(first)
    assert len(asked) == 5, "a damaged file is no answer"
    for count, damaged in enumerate((b"", [1, 0], [0, 99]), start=6):
        for path in (tmp_path / "cache" / "filters").iterdir():
            if isinstance(damaged, bytes):
                path.write_bytes(damaged)
            else:
                np.save(path, np.asarray(damaged))
        assert list(load_rows(task, "train")) == list(first)
        assert len(asked) == count

    monkeypatch.setenv("FLANLAB_CACHE", str(task.path))
    assert list(load_rows(task, "train")) == list(first), "a cache folder that cannot be written is no obstacle"


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("{{ lable >= 0 }}", "row 0: filter: 'lable' is undefined"),
        ("{{ label >= 'a' }}", "row 0: filter: TypeError"),
        ("{{ 1 // label }}", "row 1: filter: ZeroDivisionError"),
    ],
)
def test_a_filter_that_fails_names_the_row(expression: str, told: str, make_task: MakeTask) -> None:
    error = refusal(lambda: load_rows(make_task(ROWS, filter=expression), "train"))
    assert isinstance(error, TemplatingError)
    assert told in error.message
    assert "reviews.yaml" in error.message


def test_a_filter_that_keeps_nothing(make_task: MakeTask) -> None:
    assert "no row of the train split" in refusal(
        lambda: load_rows(make_task(ROWS, filter="{{ label > 7 }}"), "train")
    ).message  # fmt: skip


def test_the_hash_follows_the_bytes_read(make_task: MakeTask) -> None:
    first = load_rows(make_task(ROWS), "train").source_hash
    assert load_rows(make_task(ROWS), "train").source_hash == first
    assert load_rows(make_task(ROWS[:-1]), "train").source_hash != first


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    for config in ("default", "rte"):
        folder = tmp_path / "mirror" / "owner" / "data" / config
        folder.mkdir(parents=True)
        for split in ("train", "validation"):
            texts = [f"{config} {split} {number}" for number in range(4)]
            pq.write_table(pa.table({"text": texts, "label": [0, 1, 0, 1]}), folder / f"{split}.parquet")
    return tmp_path / "mirror"


HUB = {"hub": "owner/data", "splits": {"train": "train[:-1]", "dev": "train[-1:]", "test": "validation"}}


def test_a_mirror_is_read_by_id_config_and_split(mirror: Path, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(source={**HUB, "config": "rte"})
    assert [row["text"] for row in load_rows(task, "train", mirror)] == [f"rte train {number}" for number in range(3)]
    assert [row["text"] for row in load_rows(task, "dev", mirror)] == ["rte train 3"]
    monkeypatch.setenv(MIRROR_VARIABLE, str(mirror))
    assert load_rows(make_task(source=HUB), "test")[2] == {"text": "default validation 2", "label": 0}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({**HUB, "hub": "owner/other"}, "owner/other"),
        ({**HUB, "config": "cola"}, "owner/data (cola)"),
        ({**HUB, "hub": "a" * 5000}, "does not have aaa"),
        ({**HUB, "config": "a" * 5000}, "owner/data (aaa"),
    ],
)
def test_what_the_mirror_does_not_hold(source: dict[str, Any], told: str, mirror: Path, make_task: MakeTask) -> None:
    error = refusal(lambda: load_rows(make_task(source=source), "train", mirror))
    assert isinstance(error, MissingDataError)
    assert told in error.message


def test_a_split_the_mirror_does_not_hold(mirror: Path, make_task: MakeTask) -> None:
    error = refusal(lambda: load_rows(make_task(source={**HUB, "splits": {"test": "test"}}), "test", mirror))
    assert isinstance(error, MissingDataError)
    assert "`test`" in error.message
    assert "train, validation" in error.hint


def test_a_slice_that_leaves_no_row_of_a_small_mirror(mirror: Path, make_task: MakeTask) -> None:
    task = make_task(source={**HUB, "splits": {"train": "train[:-200]"}})
    error = refusal(lambda: load_rows(task, "train", mirror))
    assert isinstance(error, MissingDataError)
    assert "'train[:-200]' leaves no row for reviews (train has" in error.message


def test_a_mirror_may_hold_a_data_set_under_its_earlier_name(mirror: Path, make_task: MakeTask) -> None:
    named = load_rows(make_task(source=HUB), "train", mirror)
    renamed = load_rows(make_task(source={**HUB, "hub": "owner/renamed", "formerly": HUB["hub"]}), "train", mirror)
    assert list(map(dict, renamed)) == list(map(dict, named))


def test_the_hubs_own_conversion_is_read_by_configuration(
    tmp_path: Path, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config in ("plain", "other"):
        for split in ("train", "dev"):
            folder = tmp_path / "conversion" / config / split
            folder.mkdir(parents=True)
            table = pa.table({"text": [f"{config} {split} {number}" for number in range(3)], "label": [0, 1, 0]})
            pq.write_table(table, folder / "0000.parquet")
    load_dataset = datasets.load_dataset

    def from_folder(hub: str, *, revision: str, **where: Any) -> Any:
        assert (hub, revision) == ("owner/data", CONVERSION)
        return load_dataset(str(tmp_path / "conversion"), cache_dir=str(tmp_path / "cache"), **where)

    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr("datasets.load_dataset", from_folder)
    monkeypatch.setattr("flanlab.data.sources.may_have_rows", lambda hub: True)
    splits = {"train": "train[1:]", "dev": "dev"}
    task = make_task(source={"hub": "owner/data", "config": "plain", "revision": CONVERSION, "splits": splits})
    assert [row["text"] for row in load_rows(task, "train")] == ["plain train 1", "plain train 2"]
    assert [row["text"] for row in load_rows(task, "dev")] == ["plain dev 0", "plain dev 1", "plain dev 2"]


def test_a_mirror_folder_that_is_not_there(tmp_path: Path, make_task: MakeTask) -> None:
    error = refusal(lambda: load_rows(make_task(source=HUB), "train", tmp_path / "nowhere"))
    assert isinstance(error, MissingDataError)
    assert str(tmp_path / "nowhere") in error.message
    assert MIRROR_VARIABLE in error.hint


def test_a_damaged_mirror_file_is_named(mirror: Path, make_task: MakeTask) -> None:
    path = mirror / "owner" / "data" / "default" / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in refusal(lambda: load_rows(make_task(source=HUB), "train", mirror)).message


def test_an_unreachable_hub_says_how_to_go_on(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    error = refusal(lambda: load_rows(make_task(source=HUB), "train"))
    assert isinstance(error, MissingDataError)
    assert "owner/data" in error.message
    assert "--mirror" in error.hint


DIALOGUES = [
    {"questions": ["Who?", "Where?"], "answers": ["Ann", "At home"]},
    {"questions": ["When?"], "answers": ["Today"]},
    {"questions": [], "answers": []},
]
TURNS = {
    "turns": "{{ questions | length }}",
    "fields": {"question": "{{ questions[turn] }}"},
    "options": None,
    "answer": "{{ answers[turn] }}",
    "metrics": ["exact_match"],
    "templates": [{"prompt": "{{ question }}"}],
}


def test_a_row_with_turns_is_used_once_for_each(make_task: Callable[..., Task]) -> None:
    task = make_task(DIALOGUES, **TURNS)
    rows = load_rows(task, "train")
    assert [(row["questions"][row["turn"]], row["turn"]) for row in rows] == [("Who?", 0), ("Where?", 1), ("When?", 0)]
    assert set(rows[0]) == {"questions", "answers", "turn"}
    assert len(rows[0]) == 3


def test_a_filter_sees_the_turn(make_task: Callable[..., Task]) -> None:
    rows = load_rows(make_task(DIALOGUES, filter="{{ turn > 0 }}", **TURNS), "train")
    assert [row["answers"][row["turn"]] for row in rows] == ["At home"]


def test_turns_must_be_a_number(make_task: Callable[..., Task]) -> None:
    task = make_task(DIALOGUES, **{**TURNS, "turns": "{{ questions }}"})
    assert "`turns` gives ['Who?', 'Where?']" in refusal(lambda: load_rows(task, "train")).message


def test_row_by_itself_reaches_columns_of_any_name(make_task: MakeTask) -> None:
    rows = [{"Review Text": f"text {number}", "answer": number % 2} for number in range(4)]
    task = make_task(
        rows,
        fields={"text": "{{ row['Review Text'] }}"},
        filter="{{ row.answer == 1 }}",
        answer="{{ options[row['answer']] }}",
    )
    kept = load_rows(task, "train")
    examples = [render(task, 1, prepare_row(task, row, index)) for index, row in enumerate(kept)]
    assert [example.prompt.splitlines()[0] for example in examples] == ["text 1", "text 3"]
    assert {example.target for example in examples} == {"positive"}
    assert list(kept[0]) == ["Review Text", "answer"]
    mistaken = make_task(rows, fields={"text": "{{ row['Review'] }}"})
    assert "Review Text" in refusal(lambda: prepare_row(mistaken, load_rows(mistaken, "train")[0], 0)).hint


def test_a_column_called_row_is_that_column(make_task: MakeTask) -> None:
    task = make_task([{"row": "own", "label": 0}], fields={"text": "{{ row }}"})
    assert prepare_row(task, load_rows(task, "train")[0], 0).fields["text"] == "own"


def test_all_splits_of_a_data_set_come_from_the_hub_with_their_label_names(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    split = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    asked: list[Any] = []

    def load(*arguments: Any, **options: Any) -> DatasetDict:
        asked.append((arguments, options))
        return DatasetDict({"train": split, "test": split.select([1])})

    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("flanlab.data.sources.may_have_rows", lambda hub: True)
    tables = load_splits("our/set", "fine", "abc")
    assert asked == [(("our/set",), {"name": "fine", "revision": "abc"})]
    assert {name: table.to_pylist() for name, table in tables.items()} == {
        "train": [{"text": "a", "label": 1}, {"text": "b", "label": 0}],
        "test": [{"text": "b", "label": 0}],
    }
    assert label_names(tables["test"]) == {"label": ["bad", "good"]}


@pytest.mark.parametrize("metadata", ["{}", "not json", '{"info": {}}', "[]", '{"info": {"features": []}}'])
def test_other_metadata_names_no_labels(metadata: str) -> None:
    assert label_names(pa.table({"a": [1]}, metadata={"huggingface": metadata})) == {}
