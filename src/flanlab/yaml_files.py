"""YAML files checked by pydantic, with errors that name the file, the line and the field."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from flanlab.errors import FlanlabError

Model = TypeVar("Model", bound=BaseModel)


def read_yaml_model(path: Path, model: type[Model], what: str) -> Model:
    """Read `path` and validate it as `model`; `what` names the kind of file in messages ("task", "recipe").

    Raises:
        FlanlabError: unreadable file, bad YAML, or a field that is missing, unknown or wrong; every fault is listed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FlanlabError(f"{path}: cannot be read ({error.strerror}).", mend="Check the path.") from error
    except UnicodeDecodeError as error:
        raise FlanlabError(
            f"{path}: byte {error.start} is not UTF-8.", mend=f"Save the {what} file with UTF-8 encoding."
        ) from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FlanlabError(
            f"{path}, line {line}: not valid YAML: {error.problem}.",
            mend="Check indentation and quotes there; put text that contains ': ' or quotes into a | block.",
        ) from error
    if not isinstance(content, dict):
        raise FlanlabError(f"{path}: a {what} file is a list of `field: value` lines.", mend=f"See docs for the {what} format.")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = [_describe(fault, tree, model) for fault in _most_telling(error)]
        raise FlanlabError(
            "\n".join(f"{path}, line {line}: {text}" for line, text in faults),
            mend=f"Mend the {'line' if len(faults) == 1 else 'lines'} named above.",
        ) from error


def _most_telling(error: ValidationError) -> list[Any]:
    """One fault per place: of the alternatives of a union, the first is told."""
    faults, places = [], set()
    for fault in error.errors():
        place = tuple(part for part in fault["loc"] if not _is_union_arm(part))
        if place not in places:
            places.add(place)
            faults.append({**fault, "loc": place})
    return faults


def _is_union_arm(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "Cluster") or "[" in part)


def _describe(fault: Any, tree: yaml.Node, model: type[BaseModel]) -> tuple[int, str]:
    place = fault["loc"]
    line = _line_of(tree, place)
    field = ".".join(str(part + 1) if isinstance(part, int) else part for part in place)
    given = fault.get("input")
    if fault["type"] == "missing":
        return line, f"the field `{field}` is missing."
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), _known_fields(model), n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        return line, f"unknown field `{field}`.{hint}"
    if fault["type"] == "string_type" and isinstance(given, bool | int | float):
        return line, f'`{field}` is text, but YAML reads {given!r} here: put it in quotes, such as "{_as_written(given)}".'
    message = fault["msg"].removeprefix("Value error, ")
    return line, f"`{field}`: {message}." if field else f"{message}."


def _as_written(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _known_fields(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for definition in [model.model_json_schema(), *model.model_json_schema().get("$defs", {}).values()]:
        names.extend(definition.get("properties", {}))
    return names


def _line_of(node: yaml.Node, place: tuple[int | str, ...]) -> int:
    """Line (from 1) of the deepest part of `place` that the file really has."""
    line = node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
