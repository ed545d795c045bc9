"""Tasks for tests: as content to be changed, as files in a folder, and in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task

REVIEWS = [
    {"text": "The soup was cold and the bread was old.", "label": 0},
    {"text": "A warm room, kind people, and a view of the sea.", "label": 1},
    {"text": "Nobody answered the bell.", "label": 0},
    {"text": "We would come again tomorrow.", "label": 1},
]


def task_content(**changes: Any) -> dict[str, Any]:
    """A valid classification task with two forward templates and an inverted one; a change to None removes the field."""
    content = {
        "name": "reviews",
        "cluster": "sentiment",
        "source": {"files": {"train": "reviews.jsonl"}},
        "licence": "CC0-1.0",
        "fields": {"text": "{{ text }}"},
        "options": ["negative", "positive"],
        "answer": "{{ options[label] }}",
        "metrics": ["accuracy"],
        "templates": [
            {"prompt": "{{ text }}\nIs this positive or negative?"},
            {"prompt": "Good or bad? {{ text }}", "options": ["bad", "good"]},
            {"direction": "inverted", "prompt": "Write a {{ answer }} review.", "target": "{{ text }}"},
        ],
        **changes,
    }
    return {name: value for name, value in content.items() if value is not None}


def generation_content(**changes: Any) -> dict[str, Any]:
    """A valid generation task with references."""
    return task_content(
        **{
            "name": "capitals",
            "cluster": "closed_book_qa",
            "fields": {"country": "{{ country }}"},
            "options": None,
            "answer": "{{ names[0] }}",
            "references": "{{ names }}",
            "metrics": ["exact_match"],
            "templates": [{"prompt": "What is the capital of {{ country }}?"}],
            **changes,
        }
    )


def task_in_memory(**changes: Any) -> Task:
    """The task of `task_content`, validated but read from no file."""
    return Task.model_validate(task_content(**changes))


def rows_in_memory(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Rows as a source gives them."""
    return Rows(pa.Table.from_pylist(list(rows)), range(len(rows)), "hash of the content")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_task_file(folder: Path, content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = REVIEWS) -> Path:
    """Write `<name>.yaml`, and `rows` to `reviews.jsonl` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True), encoding="utf-8")
    write_rows(folder / "reviews.jsonl", rows)
    return path


def refusal(action: Callable[[], object]) -> FlanlabError:
    """The FlanlabError that `action` raises; it must have a hint."""
    with pytest.raises(FlanlabError) as caught:
        action()
    assert caught.value.hint
    assert "\n  Hint: " in str(caught.value)
    return caught.value


def is_fine_or_refused(action: Callable[[], object]) -> bool:
    """Whether `action` ends well or with a FlanlabError that has a hint; other exceptions pass through."""
    try:
        action()
    except FlanlabError as error:
        return bool(error.hint)
    return True
