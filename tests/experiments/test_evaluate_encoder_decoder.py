"""`flan eval` with encoder-decoder models, from the command line to results.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.models.loading import load_encoder
from flanlab.models.sources import STAMP_FILE
from flanlab.results.files import read_results
from tests.tiny import tiny_tasks, write_tasks
from tests.tiny_encoder_decoder import KINDS, stock_encoder_decoder


def predictions(folder: Path, style: str, task: str) -> list[dict[str, Any]]:
    parts = sorted((folder / "predictions" / style / task).glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def flan_eval(model: Path, home: Path, *more: str) -> Any:
    arguments = ["eval", "comments", "counting", "--tasks", str(home / "tasks"), "--model", str(model), "--rows", "3"]
    return CliRunner().invoke(app, [*arguments, "--out", str(home / "out"), "--json", *more])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_plain_ones(kind: str, encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    result = flan_eval(encoder_decoders[kind], tmp_path)
    assert result.exit_code == 0, result.output
    results = read_results(tmp_path / "out")
    assert {variant.scoring for variant in results.variants.values()} == {"log-probabilities"}
    assert all(variant.parameters for variant in results.variants.values())
    assert set(results.tasks) == {"comments", "counting"}
    reference, encoder = stock_encoder_decoder(encoder_decoders[kind]), load_encoder(str(encoder_decoders[kind]))
    tokenizer = encoder.tokenizer
    rows = predictions(tmp_path / "out", "instruction", "comments")
    for row in rows[:4]:
        ids = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        for option, score, count in zip(row["options"], row["option_scores"], row["option_tokens"], strict=True):
            labels = tokenizer(option, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                logits = reference(input_ids=ids, labels=labels).logits[0].log_softmax(-1)
            each = [logits[place, token].item() for place, token in enumerate(labels[0].tolist())]
            assert score == pytest.approx(sum(each[-count:]), abs=1e-4)
    assert all(row["option_scores_alone"] and row["generated"] is not None for row in rows)
    generated = [row["generated"] for row in predictions(tmp_path / "out", "instruction", "counting")]
    assert len(generated) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_token_budget_changes_no_prediction(kind: str, encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    tasks = tiny_tasks(tmp_path / "tasks")
    for budget in (1, 4096):
        settings = EvaluationSettings(rows=3, new_tokens=5, token_budget=budget)
        evaluate_model(str(encoder_decoders[kind]), tasks, settings, tmp_path / str(budget))
    for task in ("comments", "counting"):
        small, large = (predictions(tmp_path / budget, "instruction", task) for budget in ("1", "4096"))
        for one, other in zip(small, large, strict=True):
            for name in [name for name in one if "scores" in name]:
                assert one.pop(name) == pytest.approx(other.pop(name), abs=1e-4)
            assert one == other


def test_what_the_stamp_says_was_seen_is_refused(encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    model = Path(shutil.copytree(encoder_decoders["t5"], tmp_path / "model"))
    trained = {"counting": {"clusters": ["miscellaneous"], "lineage": ["counting"]}}
    (model / STAMP_FILE).write_text(json.dumps({"tasks": trained, "lineage": {}}), encoding="utf-8")
    refused = flan_eval(model, tmp_path)
    assert isinstance(refused.exception, FlanlabError)
    assert "counting: the model was trained on its train rows" in str(refused.exception)
    assert flan_eval(model, tmp_path, "--allow-seen").exit_code == 0
    assert "trained on its train rows" in str(read_results(tmp_path / "out").tasks["counting"].seen)


def test_dialogues_are_refused_before_anything_is_computed(encoder_decoders: dict[str, Path], tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    refused = flan_eval(encoder_decoders["bart"], tmp_path, "--chat")
    assert isinstance(refused.exception, FlanlabError)
    assert "no chat template" in str(refused.exception)
    assert not (tmp_path / "out").exists()
