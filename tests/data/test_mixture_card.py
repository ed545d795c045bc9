from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import EncodedExample, Mixture, MixtureSettings
from flanlab.data.mixture_card import EXPORT_SCHEMA, describe_mixture, export_mixture
from flanlab.progress import meter
from flanlab.tasks.schema import Task
from tests.task_files import generation_content, rows_in_memory, task_in_memory


@pytest.fixture
def mixture() -> Mixture:
    """12 short and 4 long reviews, of which the inverted template makes targets too long, and 5 capitals."""
    texts = [f"Review {row}." for row in range(12)] + ["A very long review, and so on. " * 8] * 4
    tasks = [task_in_memory(), Task.model_validate(generation_content())]
    rows = {
        "reviews": rows_in_memory([{"text": text, "label": row % 2} for row, text in enumerate(texts)]),
        "capitals": rows_in_memory([{"country": f"Land {row}", "names": [f"Town {row}"]} for row in range(5)]),
    }
    return Mixture(tasks, rows, MixtureSettings(maximum=12, prompt_tokens=120, target_tokens=40), seed=3)


def examples(mixture: Mixture, encoder: TextEncoder, count: int) -> list[EncodedExample]:
    found = [mixture.examples([position], encoder)[0] for position in range(count)]
    return [each for each in found if isinstance(each, EncodedExample)]


def test_the_card_counts_one_cycle(mixture: Mixture, encoder: TextEncoder) -> None:
    card = describe_mixture(mixture, encoder, planned=170)
    found = examples(mixture, encoder, 17)
    assert (card["planned_examples"], card["measured_examples"], card["cycle_length"]) == (170, 17, 17)
    assert card["tokens"] == sum(each.length for each in found)
    assert card["target_tokens"] == sum(len(each.target) for each in found)
    assert card["shortened"] == sum(each.shortened for each in found) > 0
    assert card["dropped"] == 17 - len(found) > 0
    assert card["tasks"]["reviews"]["dropped"] == {"target too long": card["dropped"]}
    assert card["tasks"]["reviews"]["rate"] == pytest.approx(12 / 17)
    assert card["tasks"]["reviews"]["epochs"] == pytest.approx(120 / 16)
    assert card["tasks"]["capitals"]["epochs"] == pytest.approx(10)
    assert card["tasks"]["capitals"]["rows"] == 5
    assert card["seed"] == 3
    json.dumps(card)


def test_cluster_and_task_totals_add_up(mixture: Mixture, encoder: TextEncoder) -> None:
    card = describe_mixture(mixture, encoder, planned=17)
    assert list(card["clusters"]) == ["closed_book_qa", "sentiment"]
    for name in ("examples", "tokens", "target_tokens"):
        whole = sum(entry[name] for entry in card["tasks"].values())
        assert sum(entry[name] for entry in card["clusters"].values()) == whole
        assert name == "examples" or card[name] == whole
    assert sum(entry["rate"] for entry in card["clusters"].values()) == pytest.approx(1)


def test_less_than_a_cycle_is_measured_where_less_is_planned(mixture: Mixture, encoder: TextEncoder) -> None:
    card = describe_mixture(mixture, encoder, planned=5)
    assert card["measured_examples"] == 5
    assert describe_mixture(mixture, encoder, 5, most=3)["measured_examples"] == 3
    assert sum(entry["examples"] for entry in card["tasks"].values()) + card["dropped"] == 5


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["mix.jsonl", "mix.parquet"])
@pytest.mark.parametrize("group", [4, 10_000])
def test_the_export_is_the_stream_in_order(
    name: str, group: int, mixture: Mixture, encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flanlab.data.mixture_card._EXAMPLES_PER_GROUP", group)
    path = tmp_path / "deep" / name
    with meter("export", 30) as bar:
        export_mixture(mixture, encoder, 30, path, bar)
    records = read_jsonl(path) if name.endswith("jsonl") else pq.read_table(path).to_pylist()
    assert [list(record) for record in records] == [EXPORT_SCHEMA.names] * len(records)
    expected = [each.example for each in examples(mixture, encoder, 30)]
    assert [(record["prompt"], record["target"], record["row"], record["template"]) for record in records] == [
        (each.prompt, each.target, each.row, each.template) for each in expected
    ]
    assert [tuple(record["options"]) for record in records] == [each.options for each in expected]
    assert {record["task"]: record["cluster"] for record in records} == {
        "reviews": "sentiment", "capitals": "closed_book_qa",
    }  # fmt: skip
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_an_export_that_fails_leaves_nothing_behind(mixture: Mixture, encoder: TextEncoder, tmp_path: Path) -> None:
    broken = Mixture(mixture.tasks, {name: [{}] * 5 for name in ("reviews", "capitals")}, mixture.settings, 0)  # type: ignore[dict-item]
    with pytest.raises(Exception, match="undefined"), meter("export", 30) as bar:
        export_mixture(broken, encoder, 30, tmp_path / "mix.jsonl", bar)
    assert list(tmp_path.iterdir()) == []
