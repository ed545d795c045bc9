"""What every task that comes with flanlab promises. Rows of the library are read only where a mirror is at hand."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from flanlab.data.choices import permutation
from flanlab.data.mirror import MIRROR_VARIABLE, MissingDataError
from flanlab.data.rendering import Example, prepare_row, render
from flanlab.data.sources import Rows, load_rows
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import load_collection, load_collections, load_task
from flanlab.tasks.schema import Split, Task

FOLDER = Path(str(resources.files("flanlab.tasks")))
LIBRARY = sorted((FOLDER / "library").rglob("*.yaml"))
EXTRA = sorted((FOLDER / "extra").rglob("*.yaml"))
SAMPLER = sorted((FOLDER / "sampler").rglob("*.yaml"))
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

every_task = pytest.mark.parametrize("path", [*LIBRARY, *EXTRA, *SAMPLER], ids=lambda path: f"{path.parts[-3]}-{path.stem}")
library_task = pytest.mark.parametrize("path", [*LIBRARY, *EXTRA], ids=lambda path: path.stem)
sampler_task = pytest.mark.parametrize("path", SAMPLER, ids=lambda path: path.stem)
task_at = functools.lru_cache(load_task)


@functools.cache
def sampler_rows(path: Path) -> dict[Split, Rows]:
    return {split: load_rows(task_at(path), split) for split in SPLITS}


def examples_of(task: Task, rows: Rows, index: int) -> list[Example]:
    row = prepare_row(task, rows[index], index)
    return [
        render(task, number, row, range(len(row.options)))
        for number in range(0 if task.baseline else 1, len(task.templates) + 1)
    ]


PAPER_COUNTS = {
    Cluster.NATURAL_LANGUAGE_INFERENCE: 7,
    Cluster.COMMONSENSE: 4,
    Cluster.SENTIMENT: 4,
    Cluster.PARAPHRASE: 4,
    Cluster.CLOSED_BOOK_QA: 3,
    Cluster.STRUCT_TO_TEXT: 4,
    Cluster.READING_COMPREHENSION: 5,
    Cluster.READING_COMPREHENSION_WITH_COMMONSENSE: 2,
    Cluster.COREFERENCE: 3,
    Cluster.MISCELLANEOUS: 7,
    Cluster.TRANSLATION: 8,
    Cluster.SUMMARIZATION: 11,
}
"""Data sets of each cluster (Wei et al. 2022, Figure 3)."""


def test_all_collections_load_together_and_every_name_occurs_once() -> None:
    assert len(load_collections(["library", "extra", "sampler"])) == len(LIBRARY) + len(EXTRA) + len(SAMPLER)


def test_the_library_holds_the_papers_62_data_sets() -> None:
    assert Counter(task_at(path).clusters[0] for path in LIBRARY) == PAPER_COUNTS
    assert sum(PAPER_COUNTS.values()) == 62


@every_task
def test_a_task_stands_in_the_folder_of_its_cluster_and_tells_where_it_is_from(path: Path) -> None:
    task = task_at(path)
    assert path.parent.name in task.clusters
    assert task.licence
    assert task.citation


@every_task
def test_a_task_has_ten_templates_of_which_seven_ask_for_the_answer(path: Path) -> None:
    task = task_at(path)
    assert len(task.templates) >= 10
    assert len({template.hash for template in task.templates}) == len(task.templates)
    assert len(task.forward_templates()) >= 7
    assert len(task.templates) - len(task.forward_templates()) <= 3


@every_task
def test_a_task_has_a_baseline_prompt_for_untuned_models(path: Path) -> None:
    assert task_at(path).baseline is not None


@every_task
def test_prompts_leave_the_options_block_to_the_renderer(path: Path) -> None:
    for template in task_at(path).templates:
        assert not re.search(r"(?m)^\s*options:|\boptions? (below|listed|given)\b", template.prompt, re.IGNORECASE)


@library_task
def test_library_tasks_are_read_from_the_hub_and_test_on_labelled_rows(path: Path) -> None:
    task = task_at(path)
    assert all(source.hub or source.generator for source in task.sources.values())
    assert task.has_split("test")


@library_task
def test_library_tasks_render_on_real_rows(path: Path) -> None:
    if not os.environ.get(MIRROR_VARIABLE):
        pytest.skip(f"{MIRROR_VARIABLE} names no folder with the data sets")
    task = task_at(path)
    for split in SPLITS:
        if not task.has_split(split):
            continue
        try:
            rows = load_rows(task, split)
        except MissingDataError as error:
            pytest.skip(error.message)
        for index in permutation(len(rows), ("sample",))[:6].tolist():
            for example in examples_of(task, rows, index):
                assert example.prompt
                assert example.target
                assert (example.answer is not None) == bool(example.options)


def test_the_sampler_holds_every_cluster() -> None:
    assert {cluster for task in load_collection("sampler") for cluster in task.clusters} == set(Cluster)


def test_the_sampler_tests_sentiment_on_200_rows() -> None:
    tested = [sampler_rows(path)["test"] for path in SAMPLER if Cluster.SENTIMENT in task_at(path).clusters]
    assert sum(len(rows) for rows in tested) >= 200


@sampler_task
def test_sampler_tasks_have_enough_rows_with_identities_of_their_own(path: Path) -> None:
    rows = [row for split in sampler_rows(path).values() for row in split]
    assert len(rows) >= 80
    assert len({row["id"] for row in rows}) == len(rows)
    assert task_at(path).licence == "CC0-1.0"
    assert task_at(path).provenance


@sampler_task
def test_sampler_files_are_clean_text(path: Path) -> None:
    for split in SPLITS:
        text = path.with_suffix(f".{split}.jsonl").read_text(encoding="utf-8")
        assert "\ufffd" not in text
        assert "\r" not in text
        for line in text.splitlines():
            for value in json.loads(line).values():
                assert not isinstance(value, str) or value == value.strip() != ""


@sampler_task
def test_sampler_rows_render_through_every_template(path: Path) -> None:
    task = task_at(path)
    for rows in sampler_rows(path).values():
        for index in range(len(rows)):
            for example in examples_of(task, rows, index):
                assert "{{" not in example.prompt


@sampler_task
def test_sampler_labels_are_balanced(path: Path) -> None:
    task = task_at(path)
    if not task.is_classification:
        return
    for split, rows in sampler_rows(path).items():
        counts: Counter[int] = Counter()
        sizes = set()
        for index, row in enumerate(rows):
            example = render(task, task.forward_templates()[0], prepare_row(task, row, index))
            assert example.answer is not None
            counts[example.answer] += 1
            sizes.add(len(example.options))
        assert len(sizes) == 1
        fair = len(rows) / sizes.pop()
        assert all(0.6 * fair <= count <= 1.5 * fair for count in counts.values()), (split, counts)
        assert len(counts) == round(len(rows) / fair)


def words_of(row: dict[str, object]) -> frozenset[str]:
    texts: list[str] = []
    values: list[object] = [value for name, value in row.items() if name not in ("id", "label")]
    while values:
        value = values.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
    return frozenset(re.findall(r"\w+", " ".join(texts).lower()))


@sampler_task
def test_no_sampler_row_is_nearly_one_of_another_split(path: Path) -> None:
    bags = [(split, row["id"], words_of(dict(row))) for split, rows in sampler_rows(path).items() for row in rows]
    alike = [
        (one, other)
        for (split, one, first), (other_split, other, second) in itertools.combinations(bags, 2)
        if split != other_split and len(first & second) > 0.6 * len(first | second)
    ]
    assert alike == []


@sampler_task
def test_no_sampler_row_is_given_twice(path: Path) -> None:
    rows = [{**row, "id": None} for split in sampler_rows(path).values() for row in split]
    assert len({json.dumps(row, sort_keys=True).lower() for row in rows}) == len(rows)
