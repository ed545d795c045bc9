"""From the editor's form to a task, and from a task to its file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from flanlab.errors import FlanlabError
from flanlab.files import write_text
from flanlab.tasks.loading import load_task
from flanlab.tasks.schema import Task
from flanlab.ui.workplace import short
from flanlab.yaml_files import faults_in_words

METADATA = ("description", "cluster", "licence", "citation", "metrics", "options", "answer", "references", "fields")
"""What of a task the form can change beside its templates. Its source is not among it: a browser reaches no other files."""
_LISTS = ("cluster", "metrics", "options")
_ABOUT = "about:"
"""Before the name of a part of the metadata, in the form."""
_FIELD = re.compile(r"(\w+): ?(.*)")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,79}")


def metadata_of(task: Task) -> dict[str, str]:
    """A task's metadata as texts: lists one item a line, fields as lines of `name: expression`."""
    content = task.model_dump(mode="json", include=set(METADATA))
    return {name: _as_text(content[name]) for name in METADATA}


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {expression}".replace("\n", "\n  ") for name, expression in value.items())
    return "\n".join(value) if isinstance(value, list) else value or ""


def _from_text(name: str, text: str) -> Any:
    if name == "fields":
        return _fields_in(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name in _LISTS:
        return lines[0] if len(lines) == 1 and name != "metrics" else lines
    return text.strip()


def _fields_in(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if found and (line.startswith("  ") or not line.strip()):
            found[name] += "\n" + line[2:]
        elif match := _FIELD.fullmatch(line):
            name = match[1]
            if name in found:
                raise FlanlabError(f"The field `{name}` is given twice.", hint="Delete one of the two.")
            found[name] = match[2]
        elif line.strip():
            raise FlanlabError(
                f"`{short(line, 100)}` is no field.", hint="Write one on each line: its name, a colon and its expression."
            )
    return {name: expression.rstrip() for name, expression in found.items()}


def _metadata_changes(task: Task, fields: Mapping[str, str]) -> dict[str, Any]:
    """What the form says otherwise than the task; what it leaves out stays, and what is emptied is None."""
    changes = {}
    for name, before in metadata_of(task).items():
        text = fields.get(_ABOUT + name, before)
        if text.strip() != before.strip():
            changes[name] = _from_text(name, text) or None
    return changes


def edited(task: Task, number: int, fields: Mapping[str, str]) -> tuple[Task, int]:
    """The task as it stands in the form, and the number of the template in it; `number` 0 adds one.

    Raises:
        FlanlabError: it is no valid task, or the template is none of its templates.
    """
    prompt, target = fields.get("prompt", ""), fields.get("target", "")
    if not prompt.strip():
        raise FlanlabError("The prompt is empty.", hint="Write a text; {{ name }} stands for a field of the row.")
    template: dict[str, Any] = {"prompt": prompt, "direction": fields.get("direction") or "forward"}
    if target.strip():
        template["target"] = target
    if options := [line.strip() for line in fields.get("options", "").splitlines() if line.strip()]:
        template["options"] = options
    templates = _templates(task)
    if number > len(templates):
        raise FlanlabError(f"{task.name} has templates 1 to {len(templates)}, not {number}.", hint="Choose one of those.")
    if number:
        templates[number - 1] = template
    else:
        templates.append(template)
    return _changed(task, templates=templates, **_metadata_changes(task, fields)), number or len(templates)


def without_template(task: Task, number: int, fields: Mapping[str, str]) -> Task:
    """The task as it stands in the form, without one of its templates.

    Raises:
        FlanlabError: it is no template of the task, or the rest is no valid task.
    """
    if not 0 < number <= len(task.templates):
        raise FlanlabError("A new template cannot be deleted.", hint="Close the page, or choose another template.")
    templates = _templates(task)
    del templates[number - 1]
    return _changed(task, templates=templates, **_metadata_changes(task, fields))


def _templates(task: Task) -> list[dict[str, Any]]:
    return [template.model_dump(mode="json", exclude_unset=True) for template in task.templates]


def _changed(task: Task, **changes: Any) -> Task:
    content = {**task.model_dump(mode="json", exclude_unset=True), **changes}
    try:
        changed = Task.model_validate({name: value for name, value in content.items() if value is not None})
    except ValidationError as error:
        hint = "Change what is named above. The form lists what a template can use."
        raise FlanlabError("\n".join(faults_in_words(error, Task)), hint=hint) from error
    changed._path = task.path
    return changed


def save(task: Task, name: str, folder: Path, known: Mapping[str, Task]) -> Task:
    """Write a task into a folder, under a name, and read it again.

    Raises:
        FlanlabError: a name that is no task's, or one that another file has, or a file that was changed by another program.
    """
    if not _NAME.fullmatch(name):
        raise FlanlabError(
            "The name of a task consists of small letters, digits and underscores, and begins with a letter.",
            hint="Write a name such as my_reviews.",
        )
    path = folder / f"{name}.yaml"
    is_own = name in known and lies_in(known[name], folder) and path.exists()
    if not is_own and (name in known or path.exists()):
        other = known[name].path if name in known else path
        raise FlanlabError(f"A task called `{name}` exists already, in {other}.", hint="Give yours another name.")
    if is_own and load_task(path).hash != known[name].hash:
        raise FlanlabError(
            f"{path} was changed by another program since this app read it.",
            hint="Save under another name, then start the app again to see both.",
        )
    content = task.model_dump(mode="json", exclude_unset=True)
    content["name"] = name
    for source in [content.get("source"), *content.get("subtasks", {}).values()]:
        if source and source.get("files"):
            # They are named from the folder of the task's old file.
            source["files"] = _absolute(source["files"], task.path)
    if name != task.name:
        evidence = f"the task {task.name}, changed in the editor"
        content["derived_from"] = {**content.get("derived_from", {}), task.name: evidence}
    _changed(task, **content)
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
    return load_task(path)


def lies_in(task: Task, folder: Path) -> bool:
    """Whether a task's file is in a folder."""
    return task.path.resolve().parent == folder


def _absolute(files: dict[str, str] | str, path: Path) -> dict[str, str] | str:
    folder = path.parent.resolve()
    if isinstance(files, str):
        return str(folder / files)
    return {split: str(folder / file) for split, file in files.items()}
