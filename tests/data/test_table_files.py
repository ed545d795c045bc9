"""What other programs write, read as a person would read it: numbers with their text, texts as texts, files of any size."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlab.data.mirror import MissingDataError
from flanlab.data.rendering import prepare_row, render
from flanlab.data.sources import load_rows, load_splits
from flanlab.data.table_files import read_table
from flanlab.data.written_numbers import WrittenFloat, WrittenInt, read_number
from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task
from flanlab.tasks.templating import compile_source
from tests.task_files import generation_content, refusal, write_task_file

MakeTask = Callable[..., Task]
Write = Callable[[pa.Table, Path], None]

SUMS = ["2.5", "7", "1.10", "1e5", "+4712345678", "12"]


def written(path: Path, content: str) -> list[dict[str, Any]]:
    path.write_text(content, encoding="utf-8")
    return [dict(row) for row in read_table(path).to_pylist()]


@pytest.mark.parametrize(
    "texts",
    [
        SUMS,
        ["2.5", "7"],
        ["0x0F", "0x1F"],
        ["007", "12"],
        ["12345678901234567890123", "12345678901234567890124"],
        ["7.0", "8.0"],
        ["7.00", "8.5"],
        [".5", "5."],
        ["-0", "0"],
        ["1" * 5000, "2"],
        ["9223372036854775808", "1"],
        ["nan", "inf"],
        ["1_000", "2"],
        ["\u0663", "4"],
    ],
)
def test_a_csv_prints_as_it_is_written(texts: list[str], tmp_path: Path) -> None:
    rows = written(tmp_path / "a.csv", "a\n" + "\n".join(texts) + "\n")
    assert [str(row["a"]) for row in rows] == texts
    assert [compile_source("so: {{ a }}")(row) for row in rows] == [f"so: {text}" for text in texts]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [(["0", "-3", "12"], int), (["0.5", "-1.5"], float), (SUMS, (int, float)), (["007", "8"], str), (["1", "x"], str)],
)
def test_numbers_of_a_csv_are_numbers_and_codes_are_texts(texts: list[str], kind: type, tmp_path: Path) -> None:
    rows = written(tmp_path / "a.csv", "a\n" + "\n".join(texts) + "\n")
    assert all(isinstance(row["a"], kind) for row in rows)
    if kind is not str:
        assert [row["a"] for row in rows] == [float(text) for text in texts]


@pytest.mark.parametrize(
    "values",
    [
        ["2.5", "7"],
        ["1.10", "null"],
        ["12345678901234567890123"],
        ["[1, 2.5]", "[3]"],
        ['{"b": 1, "c": [2.50]}', '{"b": 1.5, "c": []}'],
        ["NaN", "2", "1e5"],
    ],
)
def test_numbers_of_json_print_as_they_are_written_within_lists_and_objects_too(values: list[str], tmp_path: Path) -> None:
    rows = written(tmp_path / "a.jsonl", "".join(f'{{"a": {value}}}\n' for value in values))
    printed = [compile_source("{{ a | tojson }}")(row) for row in rows]
    assert printed == values


@given(
    st.one_of(
        st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.decimals(allow_nan=False, allow_infinity=False)
    )
)
def test_a_number_is_what_python_reads_and_prints_as_its_text(value: float | Decimal) -> None:
    text = str(value)
    number = read_number(text)
    assert number is not None
    assert str(number) == repr(number) == text
    assert number == (int(text) if isinstance(number, int) else float(text))
    assert str(pickle.loads(pickle.dumps(number))) == text


def test_written_numbers_compare_and_add_like_numbers() -> None:
    assert WrittenFloat("1.10") + 1 == 2.1
    assert WrittenInt("+47") == 47
    assert compile_source("{{ a > 1 and a * 2 == 2.2 }}")({"a": WrittenFloat("1.10")}) is True


def test_a_label_in_a_csv_still_points_at_an_option(make_task: MakeTask) -> None:
    task = make_task(source={"files": {"train": "a.csv"}})
    assert task.path is not None
    (task.path.parent / "a.csv").write_text("text,label\ngood,1\nbad,0\n")
    rows = load_rows(task, "train")
    assert [render(task, 1, prepare_row(task, row, index)).target for index, row in enumerate(rows)] == ["positive", "negative"]


def test_slices_of_two_files_keep_the_text_of_their_numbers(make_task: MakeTask) -> None:
    source = {"files": {"one": "one.jsonl", "two": "two.csv", "three": "three.csv"}, "splits": {"train": "one+two+three"}}
    task = make_task(source=source)
    assert task.path is not None
    (task.path.parent / "one.jsonl").write_text('{"a": 7}\n')
    (task.path.parent / "two.csv").write_text("a\n2.5\n")
    (task.path.parent / "three.csv").write_text("a\n1.10\n")
    assert [str(row["a"]) for row in load_rows(task, "train")] == ["7", "2.5", "1.10"]


@pytest.mark.parametrize(
    ("one", "two", "joined"),
    [
        ([[7]], [[2.5]], ["[7]", "[2.5]"]),
        ([{"b": 7}], [{"b": 2.5}], ["{'b': 7}", "{'b': 2.5}"]),
        ([7], [Decimal("2.50")], ["7", "2.50"]),
        ([Decimal("2.5")], [Decimal("2.50")], ["2.5", "2.50"]),
        ([7.5], [Decimal("2.50")], ["7.5", "2.50"]),
        ([None], [2.5], ["None", "2.5"]),
        ([{"b": 7, "c": 0.5}], [{"b": 0.5, "c": 7}], ["{'b': 7, 'c': 0.5}", "{'b': 0.5, 'c': 7}"]),
        ([{"b": 7}], [{"c": 7}], ["{'b': 7, 'c': None}", "{'b': None, 'c': 7}"]),
    ],
)
def test_shards_of_different_number_types_keep_the_text_of_their_numbers(
    one: list[Any], two: list[Any], joined: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "some" / "data" / "default"
    folder.mkdir(parents=True)
    for number, cells in enumerate((one, two)):
        pq.write_table(pa.table({"a": cells}), folder / f"train-{number:05}-of-00002.parquet")
    assert [str(cell) for cell in load_splits("some/data", None, mirror=tmp_path)["train"]["a"].to_pylist()] == joined


def test_lists_of_numbers_in_two_json_files_go_together(make_task: MakeTask) -> None:
    task = make_task(source={"files": {"one": "one.jsonl", "two": "two.jsonl"}, "splits": {"train": "one+two"}})
    assert task.path is not None
    (task.path.parent / "one.jsonl").write_text('{"a": [1.10, 2]}\n')
    (task.path.parent / "two.jsonl").write_text('{"a": [3]}\n')
    assert [str(row["a"]) for row in load_rows(task, "train")] == ["[1.10, 2]", "[3]"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow"])
def test_cells_of_several_megabytes(suffix: str, tmp_path: Path) -> None:
    text = "a sentence, of many\n" * 250_000
    rows = [{"a": text, "b": 1}, {"a": "short", "b": 2}]
    path = tmp_path / f"a{suffix}"
    mark = "\t" if suffix == ".tsv" else ","
    if suffix in (".csv", ".tsv"):
        path.write_text(f'a{mark}b\n"{text}"{mark}1\nshort{mark}2\n')
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_arrow_file(pa.Table.from_pylist(rows), path)
    assert read_table(path).to_pylist() == rows


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_text(suffix: str, ending: str, tmp_path: Path) -> None:
    content = (b'{"a": "sea"}\n' if suffix.startswith(".json") else b"a\nsea\n") * 1
    path = tmp_path / f"a{suffix}{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".gz" else pa.Codec("zstd").compress(content, asbytes=True))
    assert read_table(path).to_pylist() == [{"a": "sea"}]
    path.write_bytes(path.read_bytes()[:-5])
    assert "a" + suffix + ending in refusal(lambda: read_table(path)).message


def write_arrow_file(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def write_arrow_stream(table: pa.Table, path: Path) -> None:
    with path.open("wb") as raw, pa.ipc.new_stream(raw, table.schema) as stream:
        stream.write_table(table)


def columns_of_other_writers() -> dict[str, tuple[pa.Array, list[Any]]]:
    """What Polars (views, categories), DuckDB (huge integers, decimals), Spark and ClickHouse (binary, fixed size) write."""
    texts = pa.array(["sea", None, "sky"])
    struct = pa.struct([("name", pa.binary()), ("scores", pa.list_(pa.float32()))])
    floats = pa.struct([("a", pa.float16()), ("b", pa.float32()), ("c", pa.float64())])
    return {
        "binary": (texts.cast(pa.binary()), ["sea", None, "sky"]),
        "large_binary": (texts.cast(pa.large_binary()), ["sea", None, "sky"]),
        "large_string": (texts.cast(pa.large_string()), ["sea", None, "sky"]),
        "dictionary": (texts.dictionary_encode(), ["sea", None, "sky"]),
        "large_dictionary": (texts.cast(pa.large_string()).dictionary_encode(), ["sea", None, "sky"]),
        "fixed": (pa.array([b"ab\0\0", None, b"abcd"], pa.binary(4)), ["ab", None, "abcd"]),
        "float32": (pa.array([0.1, None, 1e20], pa.float32()), [0.1, None, 1e20]),
        "float16": (pa.array([np.float16(0.1), None, np.float16(65504)], pa.float16()), [0.1, None, 65504.0]),
        "list_of_float16": (pa.array([[np.float16(3.14)], None, []], pa.list_(pa.float16())), [[3.14], None, []]),
        "struct_of_floats": (
            pa.array([{"a": np.float16(0.1), "b": 0.1, "c": 0.1}, None, None], floats),
            [{"a": 0.1, "b": 0.1, "c": 0.1}, None, None],
        ),
        "hugeint": (pa.array([Decimal(3), None, Decimal(-1)], pa.decimal128(38, 0)), [3, None, -1]),
        "huge": (pa.array([Decimal(10**30), None, None], pa.decimal128(38, 0)), [Decimal(10**30), None, None]),
        "decimal": (pa.array([Decimal("1.10"), None, None], pa.decimal128(9, 2)), [1.1, None, None]),
        "unsigned": (pa.array([1, None, 2**64 - 1], pa.uint64()), [1, None, 2**64 - 1]),
        "list": (pa.array([[b"a"], None, []], pa.large_list(pa.binary())), [["a"], None, []]),
        "fixed_list": (pa.array([["a", "b"], None, ["c", "d"]], pa.list_(pa.string(), 2)), [["a", "b"], None, ["c", "d"]]),
        "struct": (
            pa.array([{"name": b"a", "scores": [0.1]}, None, {"name": None, "scores": []}], struct),
            [{"name": "a", "scores": [0.1]}, None, {"name": None, "scores": []}],
        ),
        "map": (pa.array([[("k", b"v")], None, []], pa.map_(pa.string(), pa.binary())), [[("k", "v")], None, []]),
        "image": (pa.array([b"\xff\xd8", None, b"\x89"], pa.binary()), [b"\xff\xd8", None, b"\x89"]),
    }


def columns_of_arrow_alone() -> dict[str, tuple[pa.Array, list[Any]]]:
    texts = pa.array(["sea", None, "sky"])
    return {
        "string_view": (texts.cast(pa.string_view()), ["sea", None, "sky"]),
        "binary_view": (texts.cast(pa.binary()).cast(pa.binary_view()), ["sea", None, "sky"]),
        "category": (texts.cast(pa.string_view()).dictionary_encode(), ["sea", None, "sky"]),
        "list_of_views": (pa.array([["a"], None, []], pa.list_(pa.string_view())), [["a"], None, []]),
        "list_view": (pa.array([["a"], None, ["b", "c"]], pa.list_view(pa.string())), [["a"], None, ["b", "c"]]),
    }


@pytest.mark.parametrize(
    ("name", "write", "columns"),
    [
        ("a.parquet", pq.write_table, columns_of_other_writers()),
        ("a.arrow", write_arrow_file, columns_of_other_writers() | columns_of_arrow_alone()),
        ("a.feather", write_arrow_stream, columns_of_other_writers() | columns_of_arrow_alone()),
    ],
)
def test_the_types_that_other_writers_choose(
    name: str, write: Write, columns: dict[str, tuple[pa.Array, list[Any]]], tmp_path: Path
) -> None:
    table = pa.table({column: cells for column, (cells, _) in columns.items()}, metadata={"huggingface": "{}"})
    write(table, tmp_path / name)
    read = read_table(tmp_path / name)
    assert {column: read[column].to_pylist() for column in columns} == {
        column: values for column, (_, values) in columns.items()
    }
    assert (read.schema.metadata or {}).get(b"huggingface") == b"{}"


def test_decimals_are_numbers_that_print_their_digits(tmp_path: Path) -> None:
    cells = pa.array([Decimal("0.10"), Decimal("0E-10"), Decimal("1E-8"), Decimal(10**20)], pa.decimal128(38, 10))
    pq.write_table(pa.table({"a": cells, "b": pa.array([Decimal(10**30)] * 4, pa.decimal128(38, 0))}), tmp_path / "a.parquet")
    rows = read_table(tmp_path / "a.parquet").to_pylist()
    printed = ["0.1000000000", "0.0000000000", "0.0000000100", "100000000000000000000.0000000000"]
    assert [compile_source("{{ a }}!")(row) for row in rows] == [f"{text}!" for text in printed]
    # As a filter of a task would ask.
    assert [compile_source("{{ a == 0.1 }}")(row) for row in rows] == [True, False, False, False]
    assert compile_source("{{ b }}!")(rows[0]) == f"1{'0' * 30}!"


def test_members_of_one_name_are_refused(tmp_path: Path) -> None:
    cells = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["b", "b"])
    write_arrow_file(pa.table({"a": cells}), tmp_path / "a.arrow")
    assert "The column a has structs with two members called b" in refusal(lambda: read_table(tmp_path / "a.arrow")).message


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns", "Mars/Crater")])
def test_a_time_that_python_cannot_hold_is_told(kind: pa.DataType, make_task: MakeTask) -> None:
    task = make_task(source={"files": {"train": "a.parquet"}})
    assert task.path is not None
    write_arrow_file(pa.table({"text": ["a"], "when": pa.array([9 * 10**18], kind)}), task.path.parent / "a.arrow")
    task = make_task(source={"files": {"train": "a.arrow"}})
    row = load_rows(task, "train")[0]
    assert row["text"] == "a"
    assert "The column when has a cell" in refusal(lambda: row["when"]).message


def mirrored(folder: Path, names: list[str]) -> Path:
    place = folder / "owner" / "data" / "default"
    place.mkdir(parents=True)
    for number, name in enumerate(names):
        pq.write_table(
            pa.table({"text": [f"{name} {row}" for row in range(2)], "label": [number] * 2}), place / f"{name}.parquet"
        )
    return folder


HUB = {"hub": "owner/data", "splits": {"train": "train", "test": "test"}}
SHARDS = ["train-00000-of-00002", "train-00001-of-00002"]


def test_the_shards_of_a_split_are_the_split(tmp_path: Path, make_task: MakeTask) -> None:
    mirror = mirrored(tmp_path / "mirror", [*SHARDS, "test"])
    rows = load_rows(make_task(source=HUB), "train", mirror)
    assert [row["text"] for row in rows] == [f"{name} {row}" for name in SHARDS for row in range(2)]
    assert {name: table.num_rows for name, table in load_splits("owner/data", None, None, mirror).items()} == {
        "train": 4,
        "test": 2,
    }
    first = rows.source_hash
    pq.write_table(pa.table({"text": ["other"], "label": [0]}), mirror / "owner/data/default" / f"{SHARDS[1]}.parquet")
    assert load_rows(make_task(source=HUB), "train", mirror).source_hash != first


def test_shards_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    mirror = mirrored(tmp_path / "mirror", [f"train-{number}-of-11" for number in range(11)])
    assert load_splits("owner/data", None, None, mirror)["train"]["label"].to_pylist() == sorted([*range(11)] * 2)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (SHARDS[1:], "has 1 of its 2 shards; number 00000 is missing"),
        ([*SHARDS, "train"], "the split train has the files"),
        ([*SHARDS, "train-00000-of-00001"], "the split train has the files"),
    ],
)
def test_shards_that_are_no_split(names: list[str], told: str, tmp_path: Path, make_task: MakeTask) -> None:
    mirror = mirrored(tmp_path / "mirror", names)
    error = refusal(lambda: load_rows(make_task(source=HUB), "train", mirror))
    assert told in error.message
    assert isinstance(error, MissingDataError) == ("missing" in told)


@pytest.mark.parametrize(
    ("names", "told"),
    [([["a"]], "row 0, answer: a value is a list"), ([{"b": 1}], "a mapping"), ([b"\xff"], "bytes that are not text")],
)
def test_lists_mappings_and_bytes_never_become_python_code(names: list[Any], told: str, tmp_path: Path) -> None:
    from flanlab.tasks.loading import load_task

    task = load_task(write_task_file(tmp_path, generation_content(references=None)))
    row = {"country": "Bolivia", "names": names}
    assert told in refusal(lambda: render(task, 1, prepare_row(task, row, 0))).message
    task = load_task(write_task_file(tmp_path, generation_content(answer="{{ country }}", references="{{ names }}")))
    assert "references" in refusal(lambda: render(task, 1, prepare_row(task, row, 0))).message
    task = load_task(
        write_task_file(tmp_path, generation_content(fields={"country": "{{ names[0] }}"}, answer="yes", references=None))
    )
    assert "prompt" in refusal(lambda: render(task, 1, prepare_row(task, row, 0))).message


@pytest.mark.parametrize(
    ("inner", "told"),
    [("two,0\nthree,1\nfour,0\n", True), ("two,0\nthree,1\n", False), ("two\nthree, 1\nfour, so\nfive,0\n", False)],
)
def test_rows_inside_a_quoted_cell_are_told(inner: str, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'text,label\nzero,0\n"one,1\n{inner}five 6",0\nsix,1\n', encoding="utf-8")
    assert read_table(path).num_rows == 3
    said = " ".join(capsys.readouterr().err.split())
    assert ("a.csv, line 3: a quoted cell of this row continues to line" in said) == told


@pytest.mark.parametrize("kind", [pa.binary(12), pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes_with_zeros_inside_stay_bytes(kind: pa.DataType, tmp_path: Path) -> None:
    interval = b"\0\0\0\0\1\0\0\0\0\0\0\0"  # a day, as DuckDB writes it
    pq.write_table(pa.table({"a": pa.array([interval], kind)}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").column("a").to_pylist() == [interval]
    pq.write_table(pa.table({"a": pa.array([b"padded\0\0\0\0\0\0"], pa.binary(12))}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").column("a").to_pylist() == ["padded"]


def test_a_damaged_arrow_file_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    write_arrow_file(pa.table({"a": pa.array([[("one", 1)], [("two", 2)]], pa.map_(pa.string(), pa.int64()))}), path)
    offsets = struct.pack("<3i", 0, 1, 2)
    content = path.read_bytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, struct.pack("<3i", 0, 131073, 2)))
    with pytest.raises(FlanlabError, match=r"rows\.arrow"):
        read_table(path)
