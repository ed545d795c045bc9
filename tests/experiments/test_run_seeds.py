"""A run with several seeds, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flanlab as fl
from flanlab.errors import FlanlabError
from flanlab.experiments.run import run_recipe
from flanlab.files import write_json
from flanlab.models.loading import load_model
from flanlab.report.html import write_report
from flanlab.results.files import read_predictions, read_results
from tests.experiments.test_run import home, predictions_of, read

__all__ = ["home"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_several_seeds_are_trained_and_asked_the_same(method: str, home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    recipe = read(home, tiny_folder, method=method)
    folder = tmp_path / "run"
    alone = run_recipe(recipe, folder)
    # As if the second training had been stopped while its model was loaded.
    write_json(folder / "seed-1" / "seconds.json", {"seconds": 1.0})
    run_recipe(recipe, folder, seeds=3)
    results = read_results(folder)
    tuned = [predictions_of(folder)["tuned"]]
    tuned += [read_predictions(folder / f"seed-{by}" / "predictions" / "tuned" / "comments").to_pylist() for by in (1, 2)]
    asked = [[(one["row"], one["template"], one["prompt"], one["options"]) for one in trained] for trained in tuned]
    assert asked[0] == asked[1] == asked[2]
    scores = [[one["option_scores"] for one in trained] for trained in tuned]
    assert scores[0] != scores[1] != scores[2]
    before, after = alone.main_scores("comments"), results.main_scores("comments")
    assert after["untuned_instruction"] == before["untuned_instruction"], "it is not trained"
    accuracies = []
    for trained in tuned:
        right = {}
        for one in trained:
            chosen = int(np.argmax(one["option_scores"]))
            right.setdefault(one["template"], []).append(chosen == one["answer"])
        accuracies.append(np.mean([np.mean(rows) for rows in right.values()]))
    assert after["tuned"].mean == pytest.approx(np.mean(accuracies))
    assert (before["tuned"].seeds, after["tuned"].seeds) == (None, 3)
    assert any("3 trainings with the seeds 0 to 2" in note for note in results.notes)
    assert [path.name for path in (folder / "seed-1").iterdir() if path.name == "model"] == ["model"]
    # Nothing is done twice.
    weights = next((folder / "seed-1" / "model").glob("*.safetensors")).stat()
    run_recipe(recipe, folder, seeds=3)
    assert read_results(folder).scores == results.scores
    assert next((folder / "seed-1" / "model").glob("*.safetensors")).stat() == weights
    write_report(folder)


def test_a_model_in_memory_has_one_seed(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match="one seed only"):
        fl.run(read(home, tiny_folder), tmp_path / "run", model=load_model(str(tiny_folder)), seeds=2)
