"""docs/notebook.md: its code runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "notebook.md"


def test_the_code_runs_from_top_to_bottom(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        exec(block.replace("smollm2-135m-instruct", str(model_folder)), space)
    assert len(space["runs"]) == 2
    assert set(space["wrong"].column("right")) <= {False}
    assert (tmp_path / "mixture.parquet").is_file()
