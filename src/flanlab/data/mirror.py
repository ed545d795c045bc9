"""A mirror of the Hub: a folder with `<hub id>/<config or default>/<split>.parquet`, or with the shards of a split."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flanlab.data.table_files import table_name, table_suffix
from flanlab.errors import FlanlabError

MIRROR_VARIABLE = "FLANLAB_MIRROR"


class MissingDataError(FlanlabError):
    """The rows are not available: no such mirror folder, no network, no such file."""


def mirror_from_environment() -> Path | None:
    """The folder named by FLANLAB_MIRROR, if any."""
    value = os.environ.get(MIRROR_VARIABLE)
    return Path(value) if value else None


def mirror_files(name: str, hubs: Sequence[str], config: str | None, mirror: Path, hint: str | None) -> dict[str, list[Path]]:
    """Split to files of one configuration of a data set, under the first of its names that the mirror has.

    Raises:
        MissingDataError: the mirror does not have it. `hint` says how to obtain it.
        FlanlabError: its files contradict each other.
    """
    if not mirror.is_dir():
        raise MissingDataError(
            f"There is no mirror folder at {mirror}.",
            hint=f"Correct --mirror or {MIRROR_VARIABLE}, or unset it to use the Hub.",
        )
    # `Path.is_dir` fails for names that are too long.
    folders = [folder for hub in hubs if os.path.isdir(folder := mirror / hub / (config or "default"))]
    if not folders:
        there = [mirror / hub for hub in hubs if os.path.isdir(mirror / hub)]
        others = sorted({path.parent.name for folder in there for path in folder.glob("*/*") if table_suffix(path)})
        if others:
            hint = hint or f"It has the configurations {', '.join(others)}: name one (source.config, or --config)."
        raise MissingDataError(
            f"{name}: the mirror {mirror} does not have {hubs[0]}" + (f" ({config})." if config else "."),
            hint=hint
            or "Leave out the task, or add the data set to the mirror as <hub id>/<config or default>/<split>.parquet.",
        )
    return _splits_of(sorted(path for path in folders[0].iterdir() if table_suffix(path)))


_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d+)-of-(?P<count>\d+)")
"""How the Hub names the shards of a split."""


class Shard(NamedTuple):
    """A file that holds a part of a split."""

    split: str
    number: int
    total: int


def shard_of(path: Path) -> Shard | None:
    """Which shard a file is by its name, which may be the only one; None for a whole split."""
    found = _SHARD.fullmatch(table_name(path))
    return Shard(found["split"], int(found["number"]), int(found["count"])) if found else None


def _splits_of(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Split to its file, or to its shards in order.

    Raises:
        MissingDataError: a shard is missing.
        FlanlabError: a split has files of several kinds, or shards and a whole file.
    """
    shards = {path: shard_of(path) for path in files}
    splits: dict[str, list[Path]] = {}
    for path, shard in shards.items():
        splits.setdefault(shard.split if shard else table_name(path), []).append(path)
    for split, paths in splits.items():
        found = [shards[path] for path in paths]
        if found == [None]:
            continue
        counts = {shard.total if shard else 0 for shard in found}
        numbers = [shard.number if shard else -1 for shard in found]
        if len(counts) > 1 or len(set(numbers)) < len(numbers):
            raise FlanlabError(
                f"{paths[0].parent}: the split {split} has the files {', '.join(path.name for path in paths)}.",
                hint="Keep one whole file of it, or all of its shards, and move the other files away.",
            )
        if missing := sorted(set(range(counts.pop())) - set(numbers)):
            raise MissingDataError(
                f"{paths[0].parent}: the split {split} has {len(numbers)} of its {len(numbers) + len(missing)} shards;"
                f" number {missing[0]:05} is missing.",
                hint="Copy the missing files into the folder.",
            )
        splits[split] = [path for _, path in sorted(zip(numbers, paths, strict=True))]  # by name, 10-of-12 is before 2-of-12
    return splits
