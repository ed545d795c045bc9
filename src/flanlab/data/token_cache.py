"""A mixture prepared ahead: its stream as tokens in the cache folder, so that no process renders or tokenizes it again.

The folder's name is a hash of everything that the tokens follow from: task files, rows, settings, seed, tokenizer, and the
code that makes them. So a recipe finds what another prepared where both would make the same, and nothing stale is ever
found. What is not there, or is damaged, is rendered as it is asked for: the stream is the same either way.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import flanlab
from flanlab.data.code import code_hash
from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import Dropped, EncodedExample, Mixture
from flanlab.data.token_shards import SHARD_EXAMPLES, DamagedShardError, Shard, open_shard, shards_in, write_shard
from flanlab.data.workers import settle_worker
from flanlab.errors import FlanlabError
from flanlab.files import cache_folder, write_json
from flanlab.progress import meter, say

_FORMAT = 2
_ABANDONED_SECONDS = 3_600
"""A temporary file older than this was left by a process that was killed."""
_OPEN_SHARDS = 4
"""Shards that a process keeps mapped: a step reads one or two, and unmapping the others bounds the resident memory."""


class PreparedMixture(Mixture):
    """A mixture whose stream is read from shards, where they hold it; its examples have tokens and names, but no texts."""

    def __init__(self, mixture: Mixture, encoder: TextEncoder, folder: Path) -> None:
        super().__init__(mixture.tasks, mixture.rows, mixture.settings, mixture.seed, mixture.exemplar_rows)
        self.folder = folder
        self._encoder = encoder
        self._shards = shards_in(folder)
        self._clusters = tuple((task.name, task.clusters[0].value) for task in self.tasks)

    def examples(self, positions: Sequence[int], encoder: TextEncoder) -> list[EncodedExample | Dropped]:
        """The example at each of the positions; those that no sound shard holds are rendered and encoded."""
        if encoder is not self._encoder:
            return super().examples(positions, encoder)
        found: dict[int, EncodedExample | Dropped] = {}
        for place, position in enumerate(positions):
            number, index = divmod(position, SHARD_EXAMPLES)
            if (shard := self._shard(number)) is not None:
                found[place] = shard[index]
        missing = [place for place in range(len(positions)) if place not in found]
        if missing:
            rendered = super().examples([positions[place] for place in missing], encoder)
            found.update(zip(missing, rendered, strict=True))
        return [found[place] for place in range(len(positions))]

    def _shard(self, number: int) -> Shard | None:
        path = self._shards.get(number)
        if path is None:
            return None
        try:
            return _mapped_shard(path, self._clusters)
        except DamagedShardError as error:
            say(f"{error.message} Its examples are rendered again; `flan mix --prepare` makes the file anew.")
            del self._shards[number]
            return None


@functools.lru_cache(maxsize=_OPEN_SHARDS)
def _mapped_shard(path: Path, clusters: tuple[tuple[str, str], ...]) -> Shard:
    return open_shard(path, dict(clusters))


@dataclass(frozen=True)
class Prepared:
    """What lies in the cache for a mixture."""

    folder: Path
    examples: int
    bytes: int


def prepared_folder(mixture: Mixture, encoder: TextEncoder) -> Path:
    """Where a mixture's stream lies in the cache folder, if it was prepared."""
    facts = json.dumps(_facts(mixture, encoder), sort_keys=True)
    return cache_folder() / "mixtures" / hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


def use_prepared(mixture: Mixture, encoder: TextEncoder) -> Mixture:
    """The mixture, read from the cache folder as far as it was prepared."""
    folder = prepared_folder(mixture, encoder)
    return PreparedMixture(mixture, encoder, folder) if shards_in(folder) else mixture


def prepare(mixture: Mixture, encoder: TextEncoder, examples: int, workers: int) -> Prepared:
    """Render and encode the head of the stream into the cache folder; what is there and sound is kept.

    Args:
        mixture: whose stream.
        encoder: the model's.
        examples: how many at least; whole shards are made.
        workers: processes that make them.

    Raises:
        FlanlabError: a row cannot be rendered, the disk is full, or a worker was killed.
    """
    folder = prepared_folder(mixture, encoder)
    numbers = range(-(-examples // SHARD_EXAMPLES))
    job = _Job(mixture, encoder, folder, np.min_scalar_type(max(encoder.tokenizer.get_vocab().values())))
    try:
        write_json(folder / "mixture.json", _facts(mixture, encoder))
        _remove_abandoned(folder)
        present = shards_in(folder)
        missing = [number for number in numbers if number not in present or not _is_sound(present[number])]
        if missing:
            _announce(job, len(missing) * SHARD_EXAMPLES)
        done = (len(numbers) - len(missing)) * SHARD_EXAMPLES
        with meter("Preparing the mixture", len(numbers) * SHARD_EXAMPLES, done) as bar:
            for _ in _made(job, missing, workers):
                bar.advance(SHARD_EXAMPLES)
    except OSError as error:
        raise FlanlabError(f"{folder}: cannot be written ({error}).", hint=_MORE_ROOM) from error
    except BrokenProcessPool as error:
        raise FlanlabError(
            "A process that prepared the mixture was killed, perhaps for want of memory.",
            hint="Use fewer with --workers; the same command goes on where it stopped.",
        ) from error
    paths = shards_in(folder).values()
    return Prepared(folder, len(paths) * SHARD_EXAMPLES, sum(path.stat().st_size for path in paths))


_MORE_ROOM = "Free some space, or name a folder elsewhere with FLANLAB_CACHE; the same command goes on where it stopped."


def _announce(job: _Job, examples: int) -> None:
    """Say how much will be written; refuse it where there is no room."""
    needed = examples * job.mixture.mean_length(job.encoder) * job.token_type.itemsize
    free = shutil.disk_usage(job.folder).free
    if needed > free:
        raise FlanlabError(
            f"{job.folder}: {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free.", hint=_MORE_ROOM
        )
    say(f"Preparing {examples:,} examples, about {needed / 1e6:,.0f} MB, in {job.folder}")


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


@dataclass(frozen=True)
class _Job:
    mixture: Mixture
    encoder: TextEncoder
    folder: Path
    token_type: np.dtype[Any]

    def make(self, number: int) -> None:
        positions = range(number * SHARD_EXAMPLES, (number + 1) * SHARD_EXAMPLES)
        write_shard(self.folder, number, list(self.mixture.stream(positions, self.encoder)), self.token_type)


_job: _Job


def _begin(job: _Job) -> None:
    global _job
    _job = job
    settle_worker()


def _make(number: int) -> None:
    _job.make(number)


def _made(job: _Job, numbers: Sequence[int], workers: int) -> Iterator[None]:
    """Makes the shards, and yields after each."""
    workers = min(workers, len(numbers))
    if workers <= 1:
        yield from map(job.make, numbers)
        return
    # A forked worker shares the rows' tables. Elsewhere forking is not safe, and each gets a copy of them.
    kind = "fork" if sys.platform == "linux" else None
    with ProcessPoolExecutor(workers, multiprocessing.get_context(kind), _begin, (job,)) as pool:
        yield from pool.map(_make, numbers)


def _is_sound(path: Path) -> bool:
    try:
        open_shard(path, {})
    except DamagedShardError:
        path.unlink(missing_ok=True)
        return False
    return True


def _facts(mixture: Mixture, encoder: TextEncoder) -> dict[str, Any]:
    """Everything that the tokens follow from."""
    return {
        "format": _FORMAT,
        "examples_per_shard": SHARD_EXAMPLES,
        "flanlab": flanlab.__version__,
        "code": code_hash(),
        "packages": {name: version(name) for name in ("jinja2", "numpy", "pyarrow", "tokenizers", "transformers")},
        "tokenizer": encoder.hash,
        "seed": mixture.seed,
        "settings": mixture.settings.model_dump(),
        "tasks": [
            {"name": task.name, "task": task.hash, "rows": rows.source_hash, "count": len(rows)}
            for task, rows in ((task, mixture.rows[task.name]) for task in mixture.tasks)
        ],
    }
