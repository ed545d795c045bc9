"""Reading a corpus from disk, and what is said of one that cannot be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flanlab.data import corpus
from flanlab.data.corpus import corpus_files, read_corpus
from tests.task_files import refusal

ROWS = [{"text": "first one", "label": 0}, {"text": "the second\none", "label": 1}]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".csv":
        path.write_text("text;label\r\n" + "".join(f'"{row["text"]}";{row["label"]}\r\n' for row in rows), newline="")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def texts(path: Path, *columns: str) -> list[tuple[str, str]]:
    return [(piece.place, piece.text) for piece in read_corpus([path], columns)]


@pytest.mark.parametrize(
    ("name", "places"), [("a.jsonl", (1, 2)), ("a.jsonl.gz", (1, 2)), ("a.parquet", (0, 1)), ("a.csv", (0, 1))]
)
def test_each_row_is_a_document(name: str, places: tuple[int, int], tmp_path: Path) -> None:
    path = write_rows(tmp_path / name, ROWS)
    word = "row" if name in ("a.parquet", "a.csv") else "line"
    assert texts(path) == [(f"{word} {places[0]}", "first one"), (f"{word} {places[1]}", "the second\none")]
    assert not any(piece.continues for piece in read_corpus([path]))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_exported_mixture_is_read_as_prompt_and_target(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / name, [{"prompt": "Who?", "target": "I.", "text": "no"}])
    assert [text for _, text in texts(path)] == ["Who?\nI."]
    assert [text for _, text in texts(path, "text")] == ["no"]


def test_columns_of_lists_and_missing_values(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"turns": ["one", "two"], "end": None}, {"turns": [], "end": "three"}])
    assert [text for _, text in texts(path, "turns", "end")] == ["one\ntwo", "three"]


def test_text_that_a_parquet_file_holds_as_binary(tmp_path: Path) -> None:
    cells = [pa.array([b"sea", "s\u00fcd".encode()]), pa.array(["sea", None]).cast(pa.binary()).dictionary_encode()]
    for number, column in enumerate(cells):
        pq.write_table(pa.table({"text": column}), tmp_path / f"{number}.parquet")
    assert texts(tmp_path / "0.parquet") == [("row 0", "sea"), ("row 1", "s\u00fcd")]
    assert texts(tmp_path / "1.parquet") == [("row 0", "sea"), ("row 1", "")]
    pq.write_table(pa.table({"text": pa.array([b"\xff"])}), tmp_path / "no.parquet")
    assert "which is not text" in refusal(lambda: texts(tmp_path / "no.parquet")).message


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
@pytest.mark.parametrize("block", [1, 5, 1 << 16])
def test_a_text_file_is_one_document_in_pieces_that_split_no_word(
    suffix: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\ufeffein überlanges Wort\n\nund  noch eins\nEnde"
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    monkeypatch.setattr(corpus, "_BYTES_AT_ONCE", block)
    pieces = list(read_corpus([path]))
    assert "".join(piece.text for piece in pieces) == text.removeprefix("\ufeff")
    assert all(piece.text[-1].isspace() for piece in pieces[:-1])
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    for number, piece in enumerate(pieces):
        assert piece.first_line == 1 + "".join(before.text for before in pieces[:number]).count("\n")


def test_folders_are_searched_and_no_file_is_read_twice(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.jsonl", "deep/c.parquet", "notes.md", "deep/d.jsonl.gz"):
        (tmp_path / name).write_text("")
    found = corpus_files([tmp_path / "b.txt", tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["b.txt", "a.jsonl", "deep/c.parquet", "deep/d.jsonl.gz"]


def test_paths_that_are_no_corpus_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("")
    (tmp_path / "empty").mkdir()
    assert "no such file" in refusal(lambda: corpus_files([tmp_path / "nothing"])).message
    assert "a.docx" in refusal(lambda: corpus_files([tmp_path / "a.docx"])).message
    assert "has no files of text" in refusal(lambda: corpus_files([tmp_path / "empty"])).message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"fine\nna\xefve\n", "line 2: is not UTF-8"),
        ("a.jsonl", b'{"text": "fine"}\n\n{"text": \n', "line 3: not valid JSON"),
        ("a.jsonl", b'["text"]\n', "line 1: is not a JSON object"),
        ("a.jsonl", b'{"body": "fine"}\n', "line 1: has no column text"),
        ("a.jsonl", b'{"text": {"a": 1}}\n', "line 1: the column text has the value"),
        ("a.txt.gz", b"not compressed", "a.txt.gz"),
        ("a.txt.gz", gzip.compress(b"some words " * 10_000)[:-20], "a.txt.gz"),
        ("a.parquet", b"not Parquet", "a.parquet"),
    ],
)
def test_text_that_cannot_be_read_is_refused_by_file_and_line(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(lambda: list(read_corpus([tmp_path / name])))
    assert str(tmp_path / name) in error.message
    assert said in error.message


def test_a_byte_order_mark_is_no_text_but_at_the_start_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_BYTES_AT_ONCE", 8)
    (tmp_path / "a.txt").write_bytes("\ufeffone two \ufeffthree".encode())
    (tmp_path / "B.JSONL.GZ").write_bytes(gzip.compress('\ufeff{"text": "\ufeffein Ü"}\n'.encode()))
    files = corpus_files([tmp_path])
    assert [path.name for path in files] == ["B.JSONL.GZ", "a.txt"]
    assert "".join(piece.text for piece in read_corpus(files)) == "\ufeffein Üone two \ufeffthree"


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "text": "two"}\n', encoding="utf-8")
    error = refusal(lambda: list(read_corpus([tmp_path / "a.jsonl"])))
    assert "a.jsonl, line 1" in error.message
    assert "'text' occurs twice" in error.message


def test_a_parquet_file_whose_column_names_are_no_text(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes().replace(b"label", b"\xffabel"))
    assert "a.parquet" in refusal(lambda: texts(path, "text")).message
