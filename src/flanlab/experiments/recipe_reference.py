"""The format of recipes for editors and readers: a JSON Schema and a reference page, both made from the settings classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from flanlab.experiments.recipe import Recipe
from flanlab.settings import Affects, Settings, affects

_HEAD = """\
# Recipe

This page lists every field of a recipe. `flan recipe new` writes a first recipe, and `flan recipe check` checks one.

For completion and checks in your editor, run `flan recipe schema > recipe.schema.json` and put
`# yaml-language-server: $schema=recipe.schema.json` on the first line of a recipe. This page is made by
`flan recipe schema --markdown`.

The column *affects* says what a change of the field changes:

| affects | |
|---|---|
"""


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "flanlab recipe"}


def recipe_page() -> str:
    """The reference page of recipes, as Markdown."""
    schema = Recipe.model_json_schema()
    legend = "".join(f"| {mark.name.lower()} | {mark.value} |\n" for mark in Affects)
    sections = {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }
    parts = [_HEAD + legend, "## Top level\n\n" + _table(Recipe, schema, schema["$defs"])]
    for name, kind in sections.items():
        parts.append(f"## {name}\n\n{_first_line(kind)}\n\n" + _table(kind, schema["$defs"][kind.__name__], schema["$defs"]))
    return "\n".join(parts)


def _first_line(kind: type[Settings]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _table(kind: type[Settings], schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    lines = ["| field | type | default | affects | |", "|---|---|---|---|---|"]
    for name, field in schema["properties"].items():
        marks = affects(kind, name)
        if not marks:
            section = kind.model_fields[name].annotation
            lines.append(f"| [`{name}`](#{name}) | section | | | {_first_line(section)} |")  # type: ignore[arg-type]
            continue
        default = "required" if name in schema.get("required", ()) else f"`{_default(kind, name)}`"
        about = " ".join(field["description"].split())
        cells = [f"`{name}`", _kind(field, definitions), default, ", ".join(mark.name.lower() for mark in marks), about]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(kind: type[Settings], name: str) -> str:
    """The value of a field that is not given, as YAML."""
    value = to_jsonable_python(kind.model_fields[name].get_default(call_default_factory=True))
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _kind(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """The type of a field in plain words."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return "cluster" if name == "Cluster" else _kind(definitions[name], definitions)
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_kind(one, definitions) for one in node["anyOf"]))
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    match node.get("type"):
        case "array":
            return f"list of: {_kind(node['items'], definitions)}"
        case "object":
            return f"map to: {_kind(node['additionalProperties'], definitions)}"
        case "integer" | "number" as number:
            return ("whole number" if number == "integer" else "number") + _bounds(node)
        case "boolean":
            return "`true` or `false`"
        case "null":
            return "`null`"
        case _:
            return "text"


def _bounds(node: Mapping[str, Any]) -> str:
    """The range of a number, in words."""
    if "maximum" in node:
        return f", {node['minimum']} to {node['maximum']}"
    if "minimum" in node:
        return f", {node['minimum']} or more"
    return f" above {node['exclusiveMinimum']}" if "exclusiveMinimum" in node else ""
