"""docs/add-a-task.md is true: its files and commands are taken from the page and run in order, in a fresh folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flanlab.data.sources import MIRROR_VARIABLE
from flanlab.tasks.schema import Baseline, Source, Task, Template
from tests.task_files import task_content

PAGE = (Path(__file__).parents[1] / "docs" / "add-a-task.md").read_text(encoding="utf-8")
WALK, REFERENCE = PAGE.split("## What the fields mean")
NEEDS_A_MODEL = re.compile(r"flan (eval|mix|run) ")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    for match in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", text, flags=re.MULTILINE | re.DOTALL):
        yield match.group(2), textwrap.dedent(match.group(3))


def follow(folder: Path, *, with_model: bool) -> list[tuple[str, str]]:
    """Write the files of the walk and run its commands in order; gives each command with its output."""
    environment = {name: value for name, value in os.environ.items() if name != MIRROR_VARIABLE}
    shell = f'set -euo pipefail\nflan() {{ "{sys.executable}" -m flanlab "$@"; }}\n'
    told = []
    for language, content in blocks(WALK):
        if language == "yaml":
            path = folder / content.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
            continue
        commands = [content] if "<<" in content else content.splitlines()
        for command in commands:
            if NEEDS_A_MODEL.match(command) and not with_model:
                continue
            result = subprocess.run(
                ["bash", "-c", shell + command], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
            told.append((command, result.stdout))
    return told


def test_the_walk_works_as_far_as_it_needs_no_model(tmp_path: Path) -> None:
    told = dict(follow(tmp_path, with_model=False))
    (new,) = (output for command, output in told.items() if command.startswith("flan tasks new"))
    assert "Wrote my_tasks/our_reviews.yaml" in new
    assert "`stars` (going by its name): 5 labels" in new
    assert "inputs    `text`" in new
    (lint,) = (output for command, output in told.items() if command.startswith("flan tasks lint"))
    # What the page says of it.
    assert re.findall(r"(?:error|warning) ([a-z-]+):", lint) == ["few-templates", "merged-labels", "merged-labels"]
    (shown,) = (output for command, output in told.items() if command.startswith("flan tasks show"))
    assert "A quiet table by the window" in shown
    assert "baseline, for untuned models" in shown


@pytest.mark.slow
def test_the_whole_walk_works(tmp_path: Path) -> None:
    told = dict(follow(tmp_path, with_model=True))
    (scores,) = (output for command, output in told.items() if command.startswith("flan eval"))
    assert "our_reviews" in scores
    (mixture,) = (output for command, output in told.items() if command.startswith("flan mix"))
    assert "our_reviews" in mixture
    assert (tmp_path / "runs" / "our_reviews" / "report.html").is_file()
    seen = ["eval", "our_reviews", "--tasks", "my_tasks", "--model", "runs/with-our-reviews/model", "--out", "runs/seen"]
    assert f"flan {' '.join(seen[:-2])}" in " ".join(PAGE.split())
    refused = subprocess.run([sys.executable, "-m", "flanlab", *seen], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "the model was trained on its train rows" in refused.stderr


def test_every_field_is_explained() -> None:
    for model in (Task, Source, Template, Baseline):
        for field in model.model_fields:
            assert re.search(rf"`{field}[`:]", REFERENCE), f"docs/add-a-task.md does not explain `{field}`"


def test_every_metric_is_named() -> None:
    for metric in Task.model_json_schema()["properties"]["metrics"]["items"]["enum"]:
        assert f"`{metric}`" in REFERENCE, f"docs/add-a-task.md does not name the metric {metric}"


def test_its_examples_of_fields_are_valid() -> None:
    fragments = [yaml.safe_load(content) for language, content in blocks(REFERENCE) if language == "yaml"]
    assert len(fragments) >= 4
    for fragment in fragments:
        changes = dict(fragment)
        if "subtasks" in fragment:
            changes["source"] = None
        if "fields" in fragment:
            changes |= {"options": None, "metrics": ["f1"], "templates": [{"prompt": "{{ so_far }}{{ question }}"}]}
        if isinstance(fragment.get("options"), str):
            changes["templates"] = [{"prompt": "{{ text }}"}]
        Task.model_validate(task_content(**changes))
