"""The wheel and the source archive: complete, well described, and enough to evaluate a model."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.tiny import save_tiny

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT), cwd=out)
    return out


def test_the_wheel_holds_every_file_of_the_package(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    files = [path for path in (ROOT / "src/flanlab").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT / "src").as_posix() for path in files} <= held
    assert any(name.endswith("sampler/sentiment/product_reviews.test.jsonl") for name in held)


def test_the_source_archive_holds_nothing_else(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        top = {name.split("/")[1] for name in archive.getnames()}
    assert {"src", "tests", "docs", "recipes", "LICENSE", "README.md", "constraints.txt"} <= top
    assert not {".venv", "runs", "dist"} & top


def test_the_description_is_valid(built: Path) -> None:
    _run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir()), cwd=built)


def test_the_wheel_alone_evaluates_a_model(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    model = save_tiny(tmp_path / "model")
    _run(
        *(
            sys.executable,
            "-m",
            "flanlab",
            "eval",
            "product_reviews",
            "--tasks",
            "sampler",
            "--rows",
            "4",
            "--model",
            str(model),
            "--out",
            "run",
        ),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )
    assert (tmp_path / "run/report.html").exists()
    assert (tmp_path / "run/scores.parquet").exists()


def _run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
