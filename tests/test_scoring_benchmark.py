"""The scoring benchmark from end to end, on few questions with a tiny model: its result's shape and equal answers, no times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_tiny

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "scoring.py"
TASKS = ["product_reviews", "who_is_meant"]


def test_scoring_benchmark_finds_equal_answers(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    folder = save_tiny(tmp_path)
    command = [sys.executable, str(BENCHMARK), "--model", str(folder), "--tasks", *TASKS, "--json"]
    few = ["--rows", "2", "--templates", "2", "--rounds", "2", "--batch-sizes", "1", "4", "--with-end"]
    without_mirror = {name: value for name, value in os.environ.items() if name != "FLANLAB_MIRROR"}
    done = subprocess.run([*command, *few], check=True, stdout=subprocess.PIPE, text=True, env=without_mirror)
    result = json.loads(done.stdout)
    assert result["ratio"] > 0
    assert result["processor_ratio_with_end"] > 0
    assert result["memory_ratio"] > 0
    assert result["rows"] == "sampler"
    assert result["batch_size"] in (1, 4)
    assert set(result["versions"]) == {"flanlab", "lm-eval", "torch", "transformers"}
    assert [task["task"] for task in result["tasks"]] == TASKS
    for task in result["tasks"]:
        assert task["questions"] == 4
        assert {who: len(seconds) for who, seconds in task["seconds"].items()} == dict.fromkeys(
            ("harness", "flanlab", "harness_with_end"), 2
        )
        compared = task["questions"] - task["other_tokens"]
        assert compared > 0
        for suffix in ("", "_with_end"):
            assert task["same_answers" + suffix] == compared
            assert task["largest_difference" + suffix] < 1e-3
