"""Encoded examples in files: a shard is a run of positions of the stream, one Arrow file, read in place (memory-mapped).

A row for each position:

    tokens           the prompt's, then the target's, in the smallest unsigned type that holds the vocabulary
    prompt_tokens    how many of them are the prompt's
    task, row, template, shortened    what the example was made of; its texts are not kept
    options_shown, exemplars          whether it shows OPTIONS, and the rows of its exemplars
    dropped          why the position is empty, or null

A shard's name carries the checksum of its content, and a shard appears under it whole. So what is there is sound, or is
noticed not to be when it is opened.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from flanlab.data.exemplars import Exemplars
from flanlab.data.mixture import Dropped, EncodedExample
from flanlab.data.rendering import Example
from flanlab.errors import FlanlabError
from flanlab.files import new_file

SHARD_EXAMPLES = 8_192
"""Positions of a shard: a few megabytes, a few seconds to make."""
_NAME = re.compile(r"(\d{6,})-([0-9a-f]{32})\.arrow")


@dataclass(frozen=True, slots=True)
class ExampleName:
    """Which example it is. Its texts are not kept, so whoever asks for them meets an error and no empty text."""

    task: str
    cluster: str
    template: int
    row: int


class Shard:
    """An open shard; `shard[i]` is what stands at its position i, without texts."""

    def __init__(self, table: pa.Table, clusters: Mapping[str, str]) -> None:
        columns = {name: column.chunk(0) for name, column in zip(table.column_names, table.columns, strict=True)}
        self._tokens: NDArray[np.unsignedinteger] = columns["tokens"].values.to_numpy()
        self._offsets: NDArray[np.int32] = columns["tokens"].offsets.to_numpy()
        self._prompts: NDArray[np.int32] = columns["prompt_tokens"].to_numpy()
        self._rows: NDArray[np.int32] = columns["row"].to_numpy()
        self._templates: NDArray[np.int32] = columns["template"].to_numpy()
        self._tasks: NDArray[np.int32] = columns["task"].indices.to_numpy()
        self._names: list[str] = columns["task"].dictionary.to_pylist()
        self._shortened: list[bool] = columns["shortened"].to_pylist()
        self._options_shown: list[bool] = columns["options_shown"].to_pylist()
        self._exemplars: pa.ListArray = columns["exemplars"]
        self._dropped: list[str | None] = columns["dropped"].to_pylist()
        self._clusters = clusters

    def __getitem__(self, index: int) -> EncodedExample | Dropped:
        task, row, template = self._names[self._tasks[index]], int(self._rows[index]), int(self._templates[index])
        dropped = self._dropped[index]
        if dropped is not None:
            return Dropped(task, row, template, dropped)
        tokens: list[int] = self._tokens[self._offsets[index] : self._offsets[index + 1]].tolist()
        prompt = int(self._prompts[index])
        name = ExampleName(task, self._clusters[task], template, row)
        return EncodedExample(
            cast(Example, name),
            tokens[:prompt],
            tokens[prompt:],
            self._shortened[index],
            self._options_shown[index],
            Exemplars(tuple(self._exemplars[index].as_py()), ()),
        )


class DamagedShardError(FlanlabError):
    """The file is not what was written."""


def write_shard(folder: Path, number: int, found: Sequence[EncodedExample | Dropped], token_type: DTypeLike) -> Path:
    """Write the shard that begins at position `number` x SHARD_EXAMPLES, whole or not at all."""
    content = _as_arrow_file(found, token_type)
    path = folder / f"{number:06d}-{_checksum(content)}.arrow"
    with new_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def open_shard(path: Path, clusters: Mapping[str, str]) -> Shard:
    """Map a shard into memory, its checksum compared first.

    Args:
        path: the shard's file.
        clusters: task to cluster, for the names of the examples.

    Raises:
        DamagedShardError: the file is gone, cut short or changed.
    """
    name = _NAME.fullmatch(path.name)
    try:
        content = pa.memory_map(str(path)).read_buffer()
    except OSError as error:
        raise DamagedShardError(f"{path}: cannot be read.") from error
    if name is None or _checksum(content) != name.group(2):
        raise DamagedShardError(f"{path}: is damaged (its checksum is another).")
    return Shard(pa.ipc.open_file(content).read_all(), clusters)


def shards_in(folder: Path) -> dict[int, Path]:
    """The shards of a folder by number; nothing is read but names."""
    names = ((path, _NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.arrow")))
    return {int(name.group(1)): path for path, name in names if name is not None}


def _as_arrow_file(found: Sequence[EncodedExample | Dropped], token_type: DTypeLike) -> pa.Buffer:
    names = [(one.task, one.row, one.template) if isinstance(one, Dropped) else _name(one) for one in found]
    lengths = [0 if isinstance(one, Dropped) else one.length for one in found]
    tokens = itertools.chain.from_iterable((*one.prompt, *one.target) for one in found if isinstance(one, EncodedExample))
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    flat = np.fromiter(tokens, token_type, count=int(offsets[-1]))
    tasks, rows, templates = zip(*names, strict=True)
    table = pa.table(
        {
            "tokens": pa.ListArray.from_arrays(offsets, flat),
            "prompt_tokens": pa.array([0 if isinstance(one, Dropped) else len(one.prompt) for one in found], pa.int32()),
            "task": pa.array(tasks).dictionary_encode(),
            "row": pa.array(rows, pa.int32()),
            "template": pa.array(templates, pa.int32()),
            "shortened": pa.array([isinstance(one, EncodedExample) and one.shortened for one in found]),
            "options_shown": pa.array([isinstance(one, EncodedExample) and one.options_shown for one in found]),
            "exemplars": pa.array(
                [list(one.exemplars.rows) if isinstance(one, EncodedExample) else [] for one in found], pa.list_(pa.int32())
            ),
            "dropped": pa.array([one.reason if isinstance(one, Dropped) else None for one in found], pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _name(one: EncodedExample) -> tuple[str, int, int]:
    return one.example.task, one.example.row, one.example.template


def _checksum(content: pa.Buffer) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
