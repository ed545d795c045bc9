"""docs/add-a-task.md is true: its files and commands are taken from the page and run in order, in a fresh folder.

A tiny model stands in for the built-in one, which test_real_model.py runs.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flanlab.data.mirror import MIRROR_VARIABLE
from flanlab.models.built_in import SMOLLM2, cached_folder
from flanlab.tasks.schema import Baseline, Source, Task, Template
from tests.command import flan
from tests.task_files import task_content
from tests.tiny import save_tiny

PAGE = (Path(__file__).parents[1] / "docs" / "add-a-task.md").read_text(encoding="utf-8")
WALK, REFERENCE = PAGE.split("## What the fields mean")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    for match in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", text, flags=re.MULTILINE | re.DOTALL):
        yield match.group(2), textwrap.dedent(match.group(3))


def follow(folder: Path) -> dict[str, str]:
    """Write the files of the walk and run its commands in order; gives each command with its output."""
    told = {}
    for language, content in blocks(WALK):
        if language == "yaml":
            path = folder / content.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
        elif "<<" in content:
            subprocess.run(["bash", "-euo", "pipefail", "-c", content], cwd=folder, check=True)
        else:
            for command in content.splitlines():
                program, *arguments = shlex.split(command)
                assert program == "flan"
                done = flan(*arguments, folder=folder)
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                told[" ".join(arguments[:2])] = done.stdout
    return told


def test_the_walk_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv("FLANLAB_CACHE", str(tmp_path / "cache"))
    save_tiny(cached_folder(SMOLLM2), max_position_embeddings=2048)
    walk = tmp_path / "walk"
    walk.mkdir()
    told = follow(walk)
    new = told["tasks new"]
    assert "Wrote my_tasks/our_reviews.yaml" in new
    assert "`stars` (going by its name): 5 labels" in new
    assert "inputs    `text`" in new
    # What the page says of it.
    warned = re.findall(r"(?:error|warning) ([a-z-]+):", told["tasks lint"])
    assert warned == ["few-templates", "merged-labels", "merged-labels"]
    assert "A quiet table by the window" in told["tasks show"]
    assert "baseline, for untuned models" in told["tasks show"]
    assert "our_reviews" in told["eval our_reviews"]
    assert "our_reviews" in told["mix our_recipe.yaml"]
    assert (walk / "runs" / "our_reviews" / "report.html").is_file()
    seen = ["eval", "our_reviews", "--tasks", "my_tasks", "--model", "runs/with-our-reviews/model"]
    assert f"flan {' '.join(seen)}" in " ".join(PAGE.split())
    refused = flan(*seen, "--out", "runs/seen", folder=walk)
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
