"""The README keeps its promises: two set-up commands, commands that exist, files that are there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.command import flan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_exactly_two_set_up_commands() -> None:
    commands = [line for line in README.splitlines() if "pip install" in line]
    assert len(commands) == 2
    assert commands[0].endswith("flan quickstart")
    assert commands[1].endswith('.venv/bin/pytest -n 2 --dist worksteal -m "not slow"')
    assert all("-c constraints.txt" in command for command in commands)


def test_every_flan_command_it_names_exists() -> None:
    others = ("CONTRIBUTING.md", "docs/add-a-task.md", "docs/tasks.md")
    documents = README + "".join((ROOT / name).read_text(encoding="utf-8") for name in others)
    named = {match.group(1) for match in re.finditer(r"\bflan ((?:tasks )?[a-z]+)\b", documents)}
    assert {"run", "mix", "eval", "tasks list"} <= named
    for command in sorted(named):
        assert flan(*command.split(), "--help").returncode == 0, f"`flan {command}` does not exist"


def test_every_file_it_links_to_is_there() -> None:
    for document in (
        "README.md",
        "CONTRIBUTING.md",
        *(f"docs/{name}.md" for name in ("evaluate", "findings", "benchmarks", "add-a-task", "tasks")),
    ):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / document).parent / target).exists(), f"{document} links to {target}"
