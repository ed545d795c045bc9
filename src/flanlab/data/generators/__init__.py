"""Rows from generators, which installed packages offer as entry points `flanlab.generators`.

Only what is installed under that group can be called. So a task file cannot run other code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flanlab.errors import FlanlabError
from flanlab.files import cache_folder, made_once, new_folder

Generator = Callable[[str | None], Mapping[str, pa.Table]]
"""Makes all splits of a configuration, with the same rows every time."""
GROUP = "flanlab.generators"


def generated_files(name: str, config: str | None) -> dict[str, Path]:
    """Parquet files of the splits. They are generated once and kept in the cache folder.

    Raises:
        FlanlabError: no such generator is installed, or it lacks a package or the configuration.
    """
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in installed:
        raise FlanlabError(
            f"There is no generator called `{name}`.",
            hint=f"Installed generators: {', '.join(sorted(installed)) or 'none'}. A package offers one as an entry point"
            f" of the group {GROUP}.",
        )
    entry = installed[name]
    # Identifies the generator's code: rows of another version are not reused.
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
    version = hashlib.blake2b(f"{entry.value} {distribution}".encode(), digest_size=6).hexdigest()
    folder = cache_folder() / "generated" / f"{name}-{version}" / (config or "default")

    def make() -> None:
        tables: Mapping[str, pa.Table] = entry.load()(config)
        with new_folder(folder) as temporary:
            for split, table in tables.items():
                pq.write_table(table, temporary / f"{split}.parquet")

    made_once(folder, make)
    return {path.stem: path for path in sorted(folder.glob("*.parquet"))}
