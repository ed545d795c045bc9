"""The pages that walk through the code name things that exist."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs/explanation").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_exists(page: Path) -> None:
    names = re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", page.read_text(encoding="utf-8"))
    names = [name for name in names if not name.endswith((".json", ".yaml", ".parquet"))]
    assert len(names) > 15
    for name in names:
        _find(name)


def _find(name: str) -> object:
    """Import the longest module of a dotted name, and take the rest as attributes."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(["flanlab", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"flanlab.{name} does not exist")
