"""Read the text of a corpus on disk: .txt, .jsonl (both also as .gz) and .parquet as a stream, .csv and .tsv whole."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flanlab.data.arrow_types import readable
from flanlab.data.ngrams import Piece
from flanlab.data.table_files import json_object, read_table, table_suffix
from flanlab.errors import FlanlabError
from flanlab.files import decoded, reading
from flanlab.progress import meter

_Bytes = BufferedReader | gzip.GzipFile
_MEGABYTE = 1_000_000
_BYTES_AT_ONCE = 1 << 16
_ROWS_AT_ONCE = 1_000
_MIXTURE_COLUMNS = ("prompt", "target")
"""Columns of an exported mixture: together, the text that a model was trained on."""
_TEXT_COLUMN = "text"
SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet", ".csv", ".tsv")


def corpus_files(paths: Sequence[Path]) -> list[Path]:
    """The named files, and all readable files of the named folders and their subfolders, each once.

    Raises:
        FlanlabError: a path does not exist, a file has another type, or a folder has no readable file.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.is_file() and table_suffix(file, SUFFIXES)]
            if not inside:
                raise FlanlabError(f"{path}: has no files of text.", hint=f"Readable files end in: {', '.join(SUFFIXES)}.")
            files.update(dict.fromkeys(inside))
        elif not path.is_file():
            raise FlanlabError(f"{path}: there is no such file or folder.", hint="Correct the path of the corpus.")
        elif not table_suffix(path, SUFFIXES):
            raise FlanlabError(f"{path}: this file type cannot be read.", hint=f"Use: {', '.join(SUFFIXES)}.")
        else:
            files[path] = None
    return list(files)


def read_corpus(files: Sequence[Path], columns: Sequence[str] = ()) -> Iterator[Piece]:
    """The text of files, piece by piece, with progress. A .txt file is one document. In other files, each row is one.

    Args:
        files: as `corpus_files` gives them.
        columns: text columns of files that are no .txt, joined to one text. If empty: `prompt` and `target` if both exist
            (an exported mixture), else `text`.

    Raises:
        FlanlabError: names the file and line or row of text that cannot be read.
    """
    sizes = [file.stat().st_size for file in files]
    before = shown = 0
    with meter("Reading the corpus, MB", max(sum(sizes) // _MEGABYTE, 1)) as bar:
        for path, size in zip(files, sizes, strict=True):
            for piece, position in _pieces(path, columns):
                yield piece
                if (megabytes := (before + position) // _MEGABYTE) > shown:
                    bar.advance(megabytes - shown)
                    shown = megabytes
            before += size


def _pieces(path: Path, columns: Sequence[str]) -> Iterator[tuple[Piece, int]]:
    """Pieces of a file, each with the bytes of the file read so far."""
    suffix = table_suffix(path, SUFFIXES) or ""
    with reading(path, "Download the file again, or leave it out."):
        if suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                chosen = _chosen_columns(str(path), file.schema_arrow.names, columns)
                batches = file.iter_batches(_ROWS_AT_ONCE, columns=chosen)
                yield from _row_pieces(path, chosen, batches, file.metadata.num_rows)
            return
        if suffix in (".csv", ".tsv"):
            table = read_table(path)
            chosen = _chosen_columns(str(path), table.column_names, columns)
            yield from _row_pieces(path, chosen, table.select(chosen).to_batches(_ROWS_AT_ONCE), table.num_rows)
            return
        with path.open("rb") as raw, gzip.open(raw) if suffix.endswith(".gz") else raw as file:
            is_text = suffix.startswith(".txt")
            for piece in _text_pieces(path, file) if is_text else _json_pieces(path, file, columns):
                yield piece, raw.tell()


def _text_pieces(path: Path, file: _Bytes) -> Iterator[Piece]:
    """Text in pieces of limited size that end at white space. So lines may have any length."""
    line, rest, begun = 1, b"", False
    while True:
        block = file.read(_BYTES_AT_ONCE)
        text = rest + block
        cut = max(text.rfind(space) for space in (b"\n", b" ", b"\t", b"\r")) + 1 if block else len(text)
        text, rest = text[:cut], text[cut:]
        if text:
            yield Piece(str(path), "", decoded(path, text, line, first=not begun), continues=begun, first_line=line)
            line += text.count(b"\n")
            begun = True
        if not block:
            return


def _json_pieces(path: Path, file: _Bytes, columns: Sequence[str]) -> Iterator[Piece]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            place = f"{path}, line {number}"
            record = json_object(place, decoded(path, line, number, first=number == 1))
            yield Piece(str(path), f"line {number}", _text_of(place, record, _chosen_columns(place, list(record), columns)))


def _row_pieces(
    path: Path, columns: Sequence[str], batches: Iterable[pa.RecordBatch], rows: int
) -> Iterator[tuple[Piece, int]]:
    size = path.stat().st_size
    number = 0
    for batch in batches:
        for record in readable(pa.Table.from_batches([batch])).to_pylist():
            where = f"row {number}"
            number += 1
            yield Piece(str(path), where, _text_of(f"{path}, {where}", record, columns)), size * number // rows


def _chosen_columns(where: str, there: Sequence[str], wanted: Sequence[str]) -> Sequence[str]:
    chosen = wanted or (_MIXTURE_COLUMNS if set(_MIXTURE_COLUMNS) <= set(there) else (_TEXT_COLUMN,))
    if missing := [name for name in chosen if name not in there]:
        raise FlanlabError(
            f"{where}: has no column {missing[0]}.", hint=f"Name one that holds text with --column: {', '.join(there)}."
        )
    return chosen


def _text_of(where: str, record: Mapping[str, Any], columns: Sequence[str]) -> str:
    texts = []
    for name in columns:
        value = record[name]
        parts = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(part, str) for part in parts):
            raise FlanlabError(
                f"{where}: the column {name} has the value {str(value)[:100]!r}, which is not text.",
                hint="Name a column of text (or of lists of texts) with --column.",
            )
        texts.extend(parts)
    return "\n".join(texts)
