"""YAML files checked by pydantic, with errors that name the file, the line and the field."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from flanlab.errors import FlanlabError
from flanlab.files import decoded

Model = TypeVar("Model", bound=BaseModel)

_MOST_FAULTS = 100
_EXPECTED = "Input should be"
"""How pydantic begins to say what a value must be."""
_PRINTABLE = re.compile(r"[\t\r\x20-\x7e\x85\xa0-\ufffd\U00010000-\U0010ffff]*\Z")


class _Refusals(yaml.constructor.SafeConstructor):
    """Refuses what YAML accepts or reports without a line: a field given twice, a date that does not exist."""

    place = ""
    """The file, for errors."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                raise FlanlabError(
                    f"{self.place}, line {key.start_mark.line + 1}: the field `{key.value}` is given twice.",
                    hint="Delete one of the two.",
                )
            known.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, FlanlabError, RecursionError):
            raise
        except Exception as error:  # PyYAML does not catch the errors of int(), date() and others
            raise FlanlabError(
                f"{self.place}, line {node.start_mark.line + 1}: YAML cannot read {node.value!r}: {error}.",
                hint="Put it in quotes if it is text.",
            ) from error


# libyaml's reader if PyYAML has it: the same content, many times faster.
_Loader: Any = type("_Loader", (_Refusals, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), {})


def read_yaml_model(path: Path, model: type[Model], what: str, habits: Mapping[str, str] | None = None) -> Model:
    """Read `path` and validate it as `model`; `what` names the kind of file in messages ("task", "recipe").

    `habits` maps names that people type by habit to the place of the field that they mean.

    Raises:
        FlanlabError: unreadable file, bad YAML, or a field that is missing, unknown or wrong. The message lists all errors.
    """
    try:
        text = decoded(path, path.read_bytes())
    except OSError as error:
        raise FlanlabError(f"{path}: cannot be read ({error.strerror}).", hint="Check the path.") from error
    try:
        loader = _Loader(text)
        loader.place = str(path)
        tree = loader.get_single_node()
        content = None if tree is None else loader.construct_document(tree)
    except yaml.reader.ReaderError as error:
        line = next(number for number, part in enumerate(text.split("\n"), start=1) if not _PRINTABLE.match(part))
        raise FlanlabError(f"{path}, line {line}: contains a control character.", hint="Delete it.") from error
    except RecursionError as error:
        raise FlanlabError(f"{path}: is nested too deeply for a {what} file.", hint="Check the brackets.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FlanlabError(
            f"{path}, line {line}: not valid YAML: {error.problem}.",
            hint="Check indentation (spaces, no tabs) and quotes there. Put a value that begins with {{ in quotes, and text"
            " that contains ': ' or quotes into a | block.",
        ) from error
    if tree is None or not isinstance(content, dict):
        raise FlanlabError(
            f"{path}: a {what} file consists of `field: value` lines.", hint=f"See the docs for the {what} format."
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = [_describe(fault, tree, model, habits) for fault in _most_telling(error)]
        raise FlanlabError(
            "\n".join(f"{path}, line {line}: {text}" for line, text in faults),
            hint=f"Fix the {'line' if len(faults) == 1 else 'lines'} named above.",
        ) from error


def faults_in_words(error: ValidationError, model: type[BaseModel], habits: Mapping[str, str] | None = None) -> list[str]:
    """The errors of a content that stands in no YAML file: a sentence each, with the field that it is about."""
    nowhere = yaml.compose("{}", Loader=_Loader)
    assert nowhere is not None
    return [_describe(fault, nowhere, model, habits)[1] for fault in _most_telling(error)]


def _most_telling(error: ValidationError) -> list[Any]:
    """One error per place. Of the alternatives of a union, the deepest error counts, and of these the first."""
    faults: dict[tuple[int | str, ...], Any] = {}
    # A table of results may have thousands, and comparing each with all others would take long.
    for fault in error.errors()[:_MOST_FAULTS]:
        # The last part of an unknown field is its name, whatever it looks like.
        whole, last = (fault["loc"][:-1], fault["loc"][-1:]) if fault["type"] == "extra_forbidden" else (fault["loc"], ())
        place = (*(part for part in whole if not _is_union_arm(part)), *last)
        if not any(place == known[: len(place)] for known in faults):
            for known in [known for known in faults if known == place[: len(known)]]:
                del faults[known]
            faults[place] = {**fault, "loc": place, "is_key": fault["loc"][-1:] == ("[key]",)}
    return list(faults.values())


def _is_union_arm(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "Cluster") or "[" in part)


def _describe(fault: Any, tree: yaml.Node, model: type[BaseModel], habits: Mapping[str, str] | None) -> tuple[int, str]:
    place = fault["loc"]
    line, node = _found_at(tree, place)
    field = ".".join(str(part + 1) if isinstance(part, int) else part for part in place)
    given = fault.get("input")
    if fault["type"] == "missing":
        return line, f"the field `{field}` is missing."
    if fault["type"] == "extra_forbidden":
        return line, f"unknown field `{field}`.{did_you_mean(place, model, habits)}"
    if fault["type"] == "model_type":
        names = [found[-1] for found in _places(model.model_json_schema()) if _is_in(found, place)]
        return line, f"`{field}` has fields of its own: write `name: value` lines below it ({', '.join(names)})."
    if fault["type"] == "invalid_key" or (fault["is_key"] and fault["type"] == "string_type"):
        return line, f"the field name {place[-1]!r} is not text: put it in quotes."
    if fault["type"] == "string_type" and isinstance(given, bool | int | float | date):
        written = node.value if isinstance(node, yaml.ScalarNode) else given
        return line, f'`{field}` is text, but YAML reads {given!s} here: put it in quotes, "{written}".'
    message = fault["msg"].removeprefix("Value error, ").rstrip(".")
    if field and message.startswith(_EXPECTED) and isinstance(given, str | int | float):
        expected = message.removeprefix(_EXPECTED).partition(", unable to")[0]
        near = difflib.get_close_matches(str(given), re.findall("'(.*?)'", expected), n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        return line, f"`{field}` should be{expected}, not {reprlib.repr(given)}.{meant}"
    return line, f"`{field}`: {message}." if field else f"{message}."


def did_you_mean(place: tuple[int | str, ...], model: type[BaseModel], habits: Mapping[str, str] | None = None) -> str:
    """A question that names the field that an unknown field was probably meant to be; empty if none is similar.

    A field of the same section is named alone, one of another section with its full place.
    """
    typed = [part for part in place if isinstance(part, str)]
    meant = [(habits or {}).get(".".join(typed), (habits or {}).get(typed[-1]))]
    found = [tuple(one.split(".")) for one in meant if one]
    if not found:
        scores = {one: _similarity(typed, one) for one in _places(model.model_json_schema())}
        best = max(scores.values())
        found = [one for one, score in scores.items() if score == best >= _SIMILAR]
    shown = [f"`{one[-1] if _is_in(one, typed[:-1]) else '.'.join(one)}`" for one in found]
    return f" Did you mean {' or '.join(shown)}?" if shown else ""


_SIMILAR, _OF_THE_SAME_SECTION = 0.75, 0.15


def _similarity(typed: list[str], place: tuple[str, ...]) -> float:
    ratio = difflib.SequenceMatcher(None, typed[-1], place[-1]).ratio()
    return ratio + (_OF_THE_SAME_SECTION if _is_in(place, typed[:-1]) else 0)


def _is_in(place: tuple[str, ...], section: Sequence[int | str]) -> bool:
    """Whether a field is directly in a section."""
    names = [part for part in section if isinstance(part, str)]
    return len(place) == len(names) + 1 and all(known in (name, "*") for known, name in zip(place, names, strict=False))


def _places(schema: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The place of each field, by the names on the way to it; `*` is a name that the file chooses."""
    definitions = schema.get("$defs", {})

    def walk(node: Mapping[str, Any], place: tuple[str, ...], within: frozenset[str]) -> Iterator[tuple[str, ...]]:
        if name := str(node.get("$ref", "")).rpartition("/")[2]:
            if name not in within:
                yield from walk(definitions[name], place, within | {name})
            return
        for name, field in node.get("properties", {}).items():
            yield (*place, name)
            yield from walk(field, (*place, name), within)
        for inner in (*node.get("anyOf", ()), *node.get("allOf", ()), node.get("items")):
            if inner:
                yield from walk(inner, place, within)
        if isinstance(more := node.get("additionalProperties"), dict):
            yield from walk(more, (*place, "*"), within)

    return iter(dict.fromkeys(walk(schema, (), frozenset())))


def _found_at(node: yaml.Node, place: tuple[int | str, ...]) -> tuple[int, yaml.Node | None]:
    """Line (from 1) of the deepest part of `place` that the file has, and the node at `place`; None if it is not there."""
    line = node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                return line, None
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line, None
    return line, node
