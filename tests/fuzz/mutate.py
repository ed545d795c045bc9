"""Make valid inputs wrong: bytes of files, and values of trees as YAML and JSON hold them. Pure functions of a `Random`."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 2**200, 1e308, float("inf"), float("nan"), "", " ", "\n", "é", "\ufeff", "\x00", "\ud7ff",
    "\u2028", "x" * 5000, "../../etc/passwd", "/dev/zero", "{{", "{{ x }}", "{% if %}", "a[:", "all[:10%]", [], {}, [[]], [None],
    {"": ""}, {"a": {"b": 1}}, ["a", "a"], "1", "1e5", "nan", "2020-01-01", "'", '"', "-", "~", "!", "&x", "*x",
)  # fmt: skip
ODD_BYTES = (b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"'", b"\\", b",", b"\t", b"{", b"}", b"[",
             b"]", b":", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"1e999", b"NaN", b"null", b"9" * 400)  # fmt: skip


def mutated_bytes(random: Random, content: bytes) -> bytes:
    """The content with one to four places cut, doubled, changed or filled in."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(data) + 1)
        length = min(random.choice((1, 1, 2, 8, 64, 1000)), len(data) - at)
        match random.randrange(7):
            case 0:
                del data[at : at + length]
            case 1:
                data[at:at] = data[at : at + length]
            case 2:
                data[at:at] = random.choice(ODD_BYTES)
            case 3:
                data[at : at + 1] = random.choice(ODD_BYTES)
            case 4:
                data[at : at + length] = random.randbytes(length)
            case 5:
                del data[at:]
            case _ if at < len(data):
                data[at] ^= 1 << random.randrange(8)
    return bytes(data)


def mutated_tree(random: Random, tree: Any) -> Any:
    """A copy of the tree with one to three of its values changed, removed, moved or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return random.choice(ODD_VALUES)
        holder, key = random.choice(places)
        match random.randrange(6):
            case 0 | 1:
                holder[key] = copy.deepcopy(random.choice(ODD_VALUES))
            case 2:
                del holder[key]
            case 3:
                other, place = random.choice(places)
                holder[key] = copy.deepcopy(other[place])
            case 4 if isinstance(holder, dict):
                name = random.choice((str(key) + "x", str(key).upper(), "", "extra", str(key)[:-1]))
                holder[name] = holder.pop(key)
            case 5 if isinstance(holder[key], str):
                text = bytearray(holder[key], "utf-8", "surrogatepass")
                holder[key] = mutated_bytes(random, bytes(text)).decode("utf-8", "replace")
            case _:
                holder[key] = [holder[key]]
    return tree


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)
