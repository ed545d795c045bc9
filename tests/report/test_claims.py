"""`flan claims` on folders made by hand: what is read, refused, written and printed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import flanlab as fl
from flanlab.cli.main import app
from flanlab.experiments import claims as paper
from flanlab.files import write_json
from flanlab.report.claims import read_cells
from tests.report.synthetic import change, make_run
from tests.task_files import refusal

SHOTS = {"tuned-0-shot": 3, "tuned-with-exemplars-16-shot": 8}


def make_sweep(root: Path, rights: Mapping[str, int | None], name: str = "few-shot", recipe: str = "tiny") -> Path:
    """A sweep whose cells answer so many of ten questions right; None: not done."""
    cells = []
    for cell, right in rights.items():
        folder = f"../cells/{name}-{recipe}-{cell}"
        if right is not None:
            make_run(root / "cells" / f"{name}-{recipe}-{cell}", {"tuned": right}, trained=False)
        cells.append({"name": cell, "title": cell, "folders": [folder]})
    content: dict[str, Any] = {
        "format": 2, "flanlab": "0.0", "content": "", "name": name, "title": name, "question": "", "notes": [],
        "recipe": {"name": recipe},
        "cells": cells, "panels": [], "comparisons": [],
    }  # fmt: skip
    write_json(root / f"{name}-{recipe}" / "sweep.json", content)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("ablations"), SHOTS)


def test_a_claim_is_tested_on_the_predictions_of_its_cells(root: Path) -> None:
    table = fl.claims(root)
    assert len(table) == 9
    row = next(row for row in table if row["claim"] == "few-shot adds")
    assert row["verdict"] == "supported"
    assert row["effect"] == pytest.approx(0.5)
    assert row["low"] < 0.5 < row["high"]
    assert (row["tasks"], row["seeds"], row["ablation"]) == (2, 1, "few-shot")
    others = {row["verdict"] for row in table if not row["claim"].startswith("few-shot")}
    assert others == {"not tested"}


def test_the_command_prints_and_writes_what_it_found(root: Path) -> None:
    done = CliRunner().invoke(app, ["claims", str(root)])
    assert done.exit_code == 0, done.output
    assert re.search(r"Of 9 claims: 1 supported, .*7 not tested\.", done.output), "in order"
    assert f"Run: flan ablate prompt-tuning RECIPE --out {root}" in done.output
    page = (root / "claims.html").read_text(encoding="utf-8")
    assert "Few-shot adds: supported" in page
    assert "+50.0" in page
    assert "<span>--out</span>" in page, "an option is not broken"
    assert page.count("<svg") >= 2
    printed = json.loads(CliRunner().invoke(app, ["claims", str(root), "--json"]).stdout)
    found = {row["claim"]: row for row in printed["claims"]}
    assert found["few-shot adds"]["parts"][0]["clusters"]["sentiment"]["difference"] == pytest.approx(0.5)
    assert printed == json.loads((root / "claims.json").read_text(encoding="utf-8"))


def test_cells_asked_other_rows_or_in_other_numbers_are_refused(tmp_path: Path) -> None:
    make_sweep(tmp_path, SHOTS)
    place = tmp_path / "cells" / "few-shot-tiny-tuned-0-shot"
    change(place, lambda content: content["tasks"]["product_reviews"]["hashes"].update(rows="others"))
    change(place, lambda content: content["variants"]["tuned"].update(dtype="bfloat16"))
    found = next(one for one in paper.claims(read_cells(tmp_path)) if one.claim.name == "few-shot adds")
    assert found.verdict == "not comparable", "and a dtype that only one tells is no difference"
    assert "product_reviews: rows differs: others in tuned-0-shot, hash of the rows in" in found.reason
    assert "precision" not in found.reason


def test_a_cell_that_is_not_done_is_named(tmp_path: Path) -> None:
    make_sweep(tmp_path, {**SHOTS, "tuned-with-exemplars-16-shot": None})
    found = next(one for one in paper.claims(read_cells(tmp_path)) if one.claim.name == "few-shot adds")
    assert (found.verdict, found.reason) == (
        "not tested", "few-shot: the cells tuned-with-exemplars-16-shot are not done.",
    )  # fmt: skip


def test_seeds_of_a_cell_are_one_cell(tmp_path: Path) -> None:
    make_sweep(tmp_path, {**SHOTS, "tuned-0-shot-seed-1": 4, "tuned-with-exemplars-16-shot-seed-1": 6})
    cell = read_cells(tmp_path)["few-shot"]["tuned-0-shot"]
    assert cell is not None
    assert [round(grid.mean(), 3) for grid in cell.grids["product_reviews"]] == [0.3, 0.4]
    found = next(row for row in fl.claims(tmp_path) if row["claim"] == "few-shot adds")
    assert found["effect"] == pytest.approx((0.5 + 0.2) / 2)
    assert found["seeds"] == 2
    done = CliRunner().invoke(app, ["claims", str(tmp_path), "--json"])
    table = {one["cell"]: one for one in json.loads(done.stdout)["variance"]}
    assert set(table) == set(SHOTS)
    shares = table["tuned-with-exemplars-16-shot"]
    assert sum(shares[f"{of}_share"] for of in ("rows", "templates", "seeds")) == pytest.approx(1)
    assert shares["seeds_share"] > 0.5, "8 and 6 of 10 right differ by more than rows do"
    assert "Where the uncertainty comes from" in (tmp_path / "claims.html").read_text(encoding="utf-8")


def test_sweeps_of_several_recipes_are_not_mixed(tmp_path: Path) -> None:
    assert "there is no sweep here" in refusal(lambda: fl.claims(tmp_path)).message
    make_sweep(tmp_path, SHOTS)
    make_sweep(tmp_path, {"tuned-0-shot": 8, "tuned-with-exemplars-16-shot": 3}, recipe="other")
    assert "several base recipes: other, tiny" in refusal(lambda: fl.claims(tmp_path)).message
    assert "called nobody" in refusal(lambda: fl.claims(tmp_path, recipe="nobody")).message
    verdict = {
        name: next(r for r in fl.claims(tmp_path, recipe=name) if r["claim"] == "few-shot adds") for name in ("tiny", "other")
    }
    assert {name: row["verdict"] for name, row in verdict.items()} == {"tiny": "supported", "other": "contradicted"}
