"""The built-in models behind llama.cpp's Python server, against the same GGUF files scored here.

Runs where `llama-cpp-python[server]` is installed, or FLANLAB_LLAMA_PYTHON names a Python that has it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.models.built_in import GEMMA, SMOLLM2, built_in_model_folder, cached_folder, fetch_gguf
from flanlab.models.completions import Endpoint
from flanlab.tasks.loading import load_collections, select_tasks

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("FLANLAB_LLAMA_PYTHON", sys.executable)
SETTINGS = EvaluationSettings(rows=3, templates_per_row=2, pmi=False)


@pytest.fixture(scope="module")
def with_server() -> None:
    if subprocess.run([PYTHON, "-c", "import llama_cpp.server.app"], capture_output=True).returncode != 0:
        pytest.skip("llama-cpp-python[server] is not installed (FLANLAB_LLAMA_PYTHON may name a Python that has it)")


@pytest.fixture(scope="module")
def gguf_files(with_server: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SmolLM2's file as it is, and written out as float32."""
    folder = tmp_path_factory.mktemp("gguf")
    plain = fetch_gguf(SMOLLM2, folder)
    return {"plain": plain, "exact": _written_out(plain, folder / "exact.gguf")}


def _written_out(quantized: Path, target: Path) -> Path:
    """The same weights as float32, so that both sides compute alike; and a start token, without which the server errs."""
    reader = GGUFReader(quantized)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            content = True if name == "tokenizer.ggml.add_bos_token" else field.contents()
            writer.add_key_value(name, content, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@contextmanager
def running(model: Path) -> Iterator[str]:
    """The server's address, for the length of a block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A short context: this server computes probabilities of every place of it for every request.
    options = {"model": model, "model_alias": "smollm2", "logits_all": "true", "n_ctx": 256, "port": port, "host": "127.0.0.1"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with subprocess.Popen(
        [PYTHON, "-m", "llama_cpp.server", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(600):
                try:
                    httpx2.get(f"http://127.0.0.1:{port}/v1/models")
                    break
                except httpx2.TransportError:
                    assert process.poll() is None, "the server ended"
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def scores(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.rglob("shard-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_server_and_local_model_agree(gguf_files: dict[str, Path], tmp_path: Path) -> None:
    tasks = select_tasks(load_collections(["sampler"]), ["same_meaning"])
    with running(gguf_files["exact"]) as address:
        results = evaluate_model("smollm2", tasks, SETTINGS, tmp_path / "remote", endpoint=Endpoint(address, parallel=1))
    assert results is not None
    assert results.variants["instruction"].scoring == "log-probabilities"
    evaluate_model(str(gguf_files["exact"]), tasks, SETTINGS, tmp_path / "local")
    ours, theirs = scores(tmp_path / "local"), scores(tmp_path / "remote")
    assert [row["prompt"] for row in ours] == [row["prompt"] for row in theirs]
    assert [row["option_tokens"] for row in ours] == [row["option_tokens"] for row in theirs]
    for column in ("option_scores_without_end", "generated"):
        assert [row[column] for row in theirs] == [pytest.approx(row[column], abs=0.02) for row in ours]


def test_misplaced_log_probabilities_are_noticed(gguf_files: dict[str, Path], tmp_path: Path) -> None:
    """Without a start token this server returns each token's own probability one place too late."""
    tasks = select_tasks(load_collections(["sampler"]), ["same_meaning"])
    few = SETTINGS.model_copy(update={"rows": 1})
    with running(gguf_files["plain"]) as address:
        results = evaluate_model("smollm2", tasks, few, tmp_path / "remote", endpoint=Endpoint(address, parallel=1))
    assert results is not None
    assert results.variants["instruction"].scoring == "generation"
    assert "with the wrong tokens" in " ".join(results.notes)


@pytest.mark.parametrize(("file", "mean", "most"), [("plain", 0.2, 1.0), ("exact", 1e-3, 0.02)])
def test_converted_gemma_gives_the_probabilities_of_llama_cpp(
    with_server: None, tmp_path: Path, file: str, mean: float, most: float
) -> None:
    """Each token's log-probability in a text; the quantized file is computed with rounded activations there."""
    if not cached_folder(GEMMA).is_dir():
        pytest.skip(f"{GEMMA} is not in the cache folder (its terms must be accepted: flan eval --accept-gemma-terms)")
    gguf = fetch_gguf(GEMMA, tmp_path)
    if file == "exact":
        gguf = _written_out(gguf, tmp_path / "exact.gguf")
    text = "The river had been rising for three days before anyone in the village thought to move the boats.\n\n  - 1,234"
    with running(gguf) as address:
        asked = {"model": "smollm2", "prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        answer = httpx2.post(f"{address}/completions", json=asked, timeout=600).json()["choices"][0]["logprobs"]
    folder = built_in_model_folder(GEMMA)
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        ours = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].numpy()
    # The first token has none, and the last is the generated one. The server does not return the start token.
    theirs = np.array(answer["token_logprobs"][1:-1])
    assert len(ours) - len(theirs) in (0, 1)
    difference = np.abs(ours[-len(theirs) :] - theirs)
    assert difference.mean() < mean
    assert difference.max() < most
