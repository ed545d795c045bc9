"""The main job on the real 135M model, kept small: a run by the command line, killed in the middle and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest
import yaml

from flanlab.files import read_json
from flanlab.models.answering import Question
from flanlab.models.built_in import SMOLLM2, built_in_model_folder
from flanlab.models.loading import load_model
from flanlab.models.scoring import answer_questions
from flanlab.results.files import read_results
from tests.command import flan

pytestmark = pytest.mark.slow
RUN = [sys.executable, "-m", "flanlab", "run"]


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built_in_model_folder(SMOLLM2)
    content = yaml.safe_load((resources.files("flanlab.experiments") / "quickstart.yaml").read_text(encoding="utf-8"))
    # Of its tasks, one to be scored on and two to be trained on: most of the time went into questions.
    content["tasks"]["include"] = ["question_topic", "which_section", "product_reviews"]
    del content["in_domain"]
    content["training"] |= {"steps": 3, "tokens_per_step": 150, "warmup_steps": 1, "checkpoint_minutes": 1e-6}
    content["evaluation"] |= {"rows": 2, "templates_per_row": 1, "new_tokens": 4}
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def losses(folder: Path) -> list[float]:
    lines = (folder / "training" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_killed_run_goes_on_to_the_very_same_result(small_recipe: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*RUN, str(small_recipe), "--out", str(whole)], check=True, capture_output=True)

    process = subprocess.Popen(
        [*RUN, str(small_recipe), "--out", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = killed / "training" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text(encoding="utf-8").count("\n") >= 2):
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "results.json").exists()

    subprocess.run([*RUN, str(small_recipe), "--out", str(killed)], check=True, capture_output=True)
    assert losses(killed) == losses(whole)
    ours, theirs = read_results(killed), read_results(whole)
    assert (ours.tasks, ours.scores) == (theirs.tasks, theirs.scores)
    page = (killed / "report.html").read_text(encoding="utf-8")
    assert "already instruction-tuned" in page

    stamp = read_json(whole / "model" / "flanlab.json")
    assert "sentiment" not in stamp["clusters"]
    refused = flan("eval", "question_topic", "--model", str(whole / "model"), "--out", str(tmp_path / "eval"))
    assert refused.returncode == 1
    assert "the model was trained on its train rows" in refused.stderr


def test_scores_do_not_depend_on_the_batch() -> None:
    loaded = load_model(SMOLLM2)
    questions = []
    for number in range(6):
        encoded = loaded.encoder.encode(
            f"{'The soup was cold. ' * number}Would this guest come back?\n\nOPTIONS:\n- yes\n- certainly not",
            ["yes", "certainly not"],
        )
        questions.append(Question(encoded.prompt, encoded.answers))
    together = dict(answer_questions(loaded.model, questions, token_budget=4096))
    alone = dict(answer_questions(loaded.model, questions, token_budget=1))
    for position in range(len(questions)):
        assert together[position].scores == pytest.approx(alone[position].scores, abs=1e-4)
