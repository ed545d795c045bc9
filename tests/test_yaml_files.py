from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from flanlab.yaml_files import _Refusals, read_yaml_model
from tests.task_files import is_fine_or_refused, refusal


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    words: list[str] | str = "none"
    size: int = 1


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str
    parts: list[Part] = []
    sizes: dict[str, int] = {}
    kind: Literal["small", "large"] = "small"


def read(folder: Path, content: str | bytes) -> Thing:
    path = folder / "thing.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_yaml_model(path, Thing, "thing")


READERS = [type("_Loader", (_Refusals, base), {}) for base in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
"""What reads a file with libyaml and without it."""


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content",
    [
        "title: é\nparts:\n  - words: [a, b]\n",
        "\ufefftitle: é\nparts: [{words: [a, b]}]\n",
        "title: é\r\nparts:\r\n  - words: [a, b]\r\n",
        "# a comment\n---\ntitle: é\nparts: [{words: [a, b]}]",
    ],
)
def test_reads_what_editors_write(content: str, reader: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flanlab.yaml_files._Loader", reader)
    assert read(tmp_path, content) == Thing(title="é", parts=[Part(words=["a", "b"])])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        ("parts: []\n", 1, "the field `title` is missing"),
        ("title: a\ntitel: b\n", 2, "unknown field `titel`. Did you mean `title`?"),
        ("title: a\nparts:\n- wrods: b\n", 3, "unknown field `parts.1.wrods`. Did you mean `words`?"),
        ("title: a\nzzz: b\n", 2, "unknown field `zzz`."),
        ("title: a\nparts:\n  - words:\n    - a\n    - yes\n", 5, '`parts.1.words.2` is text, but YAML reads True'),
        ("title: no\n", 1, 'put it in quotes, "no"'),
        ("title: NO\n", 1, 'put it in quotes, "NO"'),
        ("title: 12\n", 1, 'put it in quotes, "12"'),
        ("title: 012\n", 1, 'put it in quotes, "012"'),
        ("title: 12:30\n", 1, 'put it in quotes, "12:30"'),
        ("title: 1.10\n", 1, 'put it in quotes, "1.10"'),
        ("title: 2020-01-01\n", 1, 'put it in quotes, "2020-01-01"'),
        ("title: a\nparts: [{size: big}]\n", 2, "`parts.1.size` should be a valid integer, not 'big'."),
        ("title: a\nkind: smal\n", 2, "`kind` should be 'small' or 'large', not 'smal'. Did you mean 'small'?"),
        ("title: a\nsizes:\n  one: x\n", 3, "`sizes.one`"),
        ("title: a\nsizes:\n  1: 1\n", 3, "the field name 1 is not text"),
        ("title: a\n1: b\n", 2, "the field name 1 is not text"),
        ("title: a\nparts: []\ntitle: b\n", 3, "the field `title` is given twice"),
        ("title: a\nparts:\n  - size: 1\n    size: 2\n", 4, "the field `size` is given twice"),
        ("title: a\nparts: [\n", 3, "not valid YAML"),
        ("title: a: b\n", 1, "not valid YAML"),
        ("title: 'a\nparts: []\n", 1, "not valid YAML"),
        ("title: a\n\tparts: []\n", 2, "not valid YAML"),
        ("title: a\n--- \ntitle: b\n", 2, "not valid YAML"),
        ("title: a\n<<: 3\n", 2, "not valid YAML"),
        ("title: *nowhere\n", 1, "not valid YAML"),
        ("title: !!python/object/apply:os.system ['true']\n", 1, "not valid YAML"),
        ("title: a\nparts: []\n? [a]\n: b\n", 3, "not valid YAML"),
        ("title: a\nparts: 2020-13-45\n", 2, "month must be in 1..12"),
        ("title: !!int 'a'\n", 1, "YAML cannot read 'a'"),
        ("title: a\nparts: b\x07c\n", 2, "control character"),
        ("title: 'é'\nparts: \x00\n", 2, "control character"),
        ("title: a\nparts: &again [*again]\n", 2, "`parts.1`"),
        ("title: é".encode("latin-1"), 1, "is not UTF-8"),
        ("parts: []\ntitle: né\n".encode("latin-1"), 2, "is not UTF-8"),
        ("title: a\n".encode("utf-16"), 1, "is not UTF-8"),
    ],
)  # fmt: skip
def test_each_fault_is_told_with_its_line(
    content: str | bytes, line: int, told: str, reader: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flanlab.yaml_files._Loader", reader)
    message = refusal(lambda: read(tmp_path, content)).message
    assert told in message
    if "not valid YAML" not in told:  # the two readers point to the start or the end of what they cannot read
        assert f"{tmp_path / 'thing.yaml'}, line {line}: " in message
    assert ".." not in message.removeprefix(str(tmp_path)).replace("1..12", "")


@pytest.mark.parametrize("content", ["", "\n", "# nothing\n", "- a\n- b\n", "a", "3", "null", "{}[]"])
def test_what_is_no_mapping_is_refused(content: str, tmp_path: Path) -> None:
    assert "thing.yaml" in refusal(lambda: read(tmp_path, content)).message


def test_every_fault_of_a_file_is_listed_once(tmp_path: Path) -> None:
    message = refusal(lambda: read(tmp_path, "parts:\n- {words: [yes, 3], size: x}\n- {color: red}\n")).message
    assert [line.split(", ", 1)[1].split(":")[0] for line in message.splitlines()] == [
        "line 1", "line 2", "line 2", "line 2", "line 3",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["missing.yaml", ""])
def test_unreadable_paths_are_named(name: str, tmp_path: Path) -> None:
    assert str(tmp_path / name) in refusal(lambda: read_yaml_model(tmp_path / name, Thing, "thing")).message


@pytest.mark.parametrize(("reader", "depth"), [*zip(READERS, (400, 2000), strict=True)])
@pytest.mark.parametrize(("opened", "closed"), [("[", ""), ("[", "]"), ("{a: ", "}")])
def test_absurd_nesting_is_refused(
    opened: str, closed: str, reader: type, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flanlab.yaml_files._Loader", reader)
    content = f"title: {opened * depth}b{closed * depth}\n"
    assert "thing.yaml" in refusal(lambda: read(tmp_path, content)).message


_PIECES = [b"title", b": ", b"a", b"\n", b"  ", b"- ", b"parts", b"words", b"size", b"[", b"]", b"{", b"}", b"&x ", b"*x"]
_PIECES += [b"'", b'"', b"|", b">", b"!!int ", b"!!binary ", b"?", b"<<", b"1", b"2020-99-99", b"yes", b"\t", b"\x07", b"\xe9"]
_PIECES += [b"#", b"---\n", b"...", b"%", b"@", b"\xc3\xa9", b"\r\n", b"0x", b".inf", b"null", b"\xef\xbb\xbf", b",", b"~"]


@settings(max_examples=150)
@given(st.lists(st.sampled_from(_PIECES), max_size=14).map(b"".join))
@example(b"title: a\nparts: 0x\n")
def test_no_content_raises_anything_but_a_flanlab_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    assert is_fine_or_refused(lambda: read(tmp_path_factory.getbasetemp(), content))
