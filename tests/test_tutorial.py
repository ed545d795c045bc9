"""The tutorial runs as it stands, on a tiny model, and its committed outputs are those of its cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import save_tiny

pytestmark = pytest.mark.slow

nbclient = pytest.importorskip("nbclient", reason="the notebook is run by nbclient (pip install 'flanlab[dev]')")
NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat

    model = save_tiny(tmp_path / "model", max_position_embeddings=2048)
    monkeypatch.setenv("TUTORIAL_MODEL", str(model))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = json.dumps([cell.get("outputs", []) for cell in done.cells])
    assert "image/png" in outputs, "it ends with a figure"
    assert "visitor_comments" in outputs


def test_it_has_twelve_cells_and_its_outputs_are_committed() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert len(content["cells"]) == 12
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code[1:]), "each cell but the first shows something"
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
