"""First drafts of task files: each must load, render every row through every template, and lint without errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flanlab.data.arrow_types import readable
from flanlab.data.lint import TaskLint, lint_task
from flanlab.data.rendering import Example, prepare_row, render
from flanlab.data.scaffold.columns import Column, reach, spoken
from flanlab.data.scaffold.draft import Scaffold, guess_splits, scaffold_task
from flanlab.data.sources import load_rows
from flanlab.data.table_files import read_table
from flanlab.errors import FlanlabError
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import load_task
from flanlab.tasks.schema import Task
from tests.task_files import refusal

TEXTS = [f"On day {number} the {thing} was {how}." for number, (thing, how) in enumerate(
    (thing, how) for thing in ("soup", "room", "bread", "view", "train", "bed") for how in ("cold", "fine", "old", "new")
)]  # fmt: skip


class Draft:
    """A draft, written down, read back, and held against its rows."""

    def __init__(self, folder: Path, tables: Mapping[str, pa.Table], cluster: str, answer: str | None) -> None:
        mirror = folder / "mirror"
        for split, table in tables.items():
            path = mirror / "our" / "rows" / "default" / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
        self.scaffold: Scaffold = scaffold_task(
            tables, name="draft", cluster=Cluster(cluster), place={"hub": "our/rows"}, answer=answer
        )
        path = folder / "draft.yaml"
        path.write_text(self.scaffold.text, encoding="utf-8")
        self.task: Task = load_task(path)
        names = [split for split in ("train", "dev", "test") if self.task.has_split(split)]
        self.rows = {split: load_rows(self.task, split, mirror) for split in names}  # type: ignore[arg-type]
        self.lint: TaskLint = lint_task(self.task, self.rows, {})
        self.examples: list[list[Example]] = []
        for rows in self.rows.values():
            for index, row in enumerate(rows):
                prepared = prepare_row(self.task, row, index)
                self.examples.append([render(self.task, number, prepared) for number in (1, 2, 3)])

    @property
    def targets(self) -> list[str]:
        return [examples[0].target for examples in self.examples]

    def guess(self, topic: str) -> str:
        return "; ".join(text for name, text in self.scaffold.guesses if name == topic)


@pytest.fixture
def draft(tmp_path: Path) -> Any:
    """Drafts a task for rows (a list of them, or a table, or several by split), and checks what must hold of every draft."""

    def make(rows: Any, cluster: str = "sentiment", answer: str | None = None) -> Draft:
        splits = rows if isinstance(rows, dict) else {"all": rows}
        tables = {
            name: readable(part if isinstance(part, pa.Table) else pa.Table.from_pylist(part)) for name, part in splits.items()
        }
        found = Draft(tmp_path, tables, cluster, answer)
        assert [finding for finding in found.lint.findings if finding.level == "error"] == []
        assert len(found.task.templates) == 3
        for gap in ("licence", "citation", "better words", "baseline", "description"):
            assert any("TODO" in line and gap in line for line in found.scaffold.text.splitlines()) or gap == "baseline"
        assert "# baseline:" in found.scaffold.text
        return found

    return make


def labelled(labels: Sequence[Any], name: str = "label") -> list[dict[str, Any]]:
    return [{"text": text, name: labels[number % len(labels)]} for number, text in enumerate(TEXTS)]


def with_features(table: pa.Table, **names: list[str]) -> pa.Table:
    features = {column: {"names": list(given), "_type": "ClassLabel"} for column, given in names.items()}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize(
    ("labels", "options", "targets", "answer"),
    [
        (["good", "bad"], ["bad", "good"], ["good", "bad"], "{{ label | trim }}"),
        (["Good", "bad", "good"], ["bad", "good"], ["good", "bad", "good"], "{{ label | trim | lower }}"),
        ([" good", "bad "], ["bad", "good"], ["good", "bad"], "{{ label | trim }}"),
        (["true", "False"], ["no", "yes"], ["yes", "no"], "{{ options[1 if label | trim | lower == 'true' else 0] }}"),
        ([True, False], ["no", "yes"], ["yes", "no"], "{{ options[label | int] }}"),
        ([1, 0], ["0", "1"], ["1", "0"], "{{ options[label] }}"),
        ([3, 1, 2], ["1", "2", "3"], ["3", "1", "2"], "{{ options[label - 1] }}"),
        ([4, 0, 2], ["0", "2", "4"], ["4", "0", "2"], "{{ options[[0, 2, 4].index(label)] }}"),
        ([-1, 1, 0], ["-1", "0", "1"], ["-1", "1", "0"], "{{ options[[-1, 0, 1].index(label)] }}"),
        ([1.0, 0.0], ["0", "1"], ["1", "0"], "{{ options[(label | int)] }}"),
        (["a\x85b", "é\u2028"], ["a\x85b", "é"], ["a\x85b", "é"], "{{ label | trim }}"),
        (["no", 'Sci: "new"', "null"], ['Sci: "new"', "no", "null"], ["no", 'Sci: "new"', "null"], "{{ label | trim }}"),
    ],
)
def test_few_values_are_labels(labels: list[Any], options: list[str], targets: list[str], answer: str, draft: Any) -> None:
    found = draft(labelled(labels))
    assert found.task.options == options
    assert found.task.answer == answer
    assert found.targets == [targets[number % len(labels)] for number in range(24)]


def test_twenty_classes(draft: Any) -> None:
    rows = [{"text": f"{text} {number}", "intent": f"intent {number % 20}"} for number, text in enumerate(TEXTS * 3)]
    assert len(draft(rows).task.options) == 20


def test_label_names_of_the_data_set_count_in_its_order(draft: Any) -> None:
    table = pa.table({"text": TEXTS, "other": list(range(24)), "label": [number % 3 for number in range(24)]})
    found = draft({"train": with_features(table, label=["entailment", "not_at_all", "neutral"])})
    assert found.task.options == ["entailment", "not at all", "neutral"]
    assert found.targets[:3] == ["entailment", "not at all", "neutral"]
    assert "its label names" in found.guess("answer")


def test_of_several_labels_with_names_the_others_are_told(draft: Any) -> None:
    table = pa.table({"text": TEXTS, "fine_label": [n % 4 for n in range(24)], "coarse_label": [n % 2 for n in range(24)]})
    found = draft({"train": with_features(table, fine_label=["a1", "b1", "a2", "b2"], coarse_label=["a", "b"])})
    assert found.task.options == ["a", "b"]
    assert "fine_label: another label: a1, b1, a2, b2" in found.guess("not used")


def test_rows_without_a_label_are_filtered_out_and_make_no_split(draft: Any) -> None:
    labels = [number % 3 - 1 for number in range(24)]
    train = with_features(pa.table({"text": TEXTS, "label": labels}), label=["no", "yes"])
    test = with_features(pa.table({"text": TEXTS, "label": [-1] * 24}), label=["no", "yes"])
    found = draft({"train": train, "test": test, "validation": train})
    assert found.task.filter == "{{ label >= 0 }}"
    assert found.task.source.splits["test"] == "validation"
    assert set(found.targets) == {"no", "yes"}
    assert "the split test" in found.guess("not used")


def test_minus_one_is_no_label_where_a_whole_split_has_nothing_else(draft: Any) -> None:
    found = draft({"train": labelled([0, 1]), "validation": labelled([0, 1]), "test": labelled([-1])})
    assert found.task.options == ["0", "1"]
    assert found.task.filter == "{{ label >= 0 }}"


@pytest.mark.parametrize("missing", [None, "", "  "])
def test_missing_labels_are_filtered_out(missing: str | None, draft: Any) -> None:
    found = draft(labelled(["good", missing, "bad"]))
    assert found.task.options == ["bad", "good"]
    assert len(found.targets) == 16


def test_missing_numbers_are_filtered_out(draft: Any) -> None:
    assert len(draft(labelled([1, None, 0])).targets) == 16
    assert len(draft(labelled([1.0, float("nan"), 0.0])).targets) == 16
    assert len(draft(labelled([True, None, False])).targets) == 16


def test_every_split_keeps_a_row_wherever_the_labels_are(draft: Any) -> None:
    rows = labelled(["good", "bad"])
    found = draft([{**row, "label": row["label"] if number < 6 else None} for number, row in enumerate(rows)])
    assert {split: len(kept) for split, kept in found.rows.items()} == {"train": 3, "dev": 1, "test": 2}


def test_words_for_the_labels_in_another_column_become_the_options(draft: Any) -> None:
    rows = [{**row, "label_text": ["negative", "positive"][row["label"]]} for row in labelled([1, 0])]
    found = draft(rows)
    assert found.task.options == ["negative", "positive"]
    assert list(found.task.fields) == ["text"]
    assert "label_text" in found.guess("not used")


def test_stars_keep_their_name(draft: Any) -> None:
    found = draft(labelled([5, 1, 3, 2, 4], "stars"))
    assert found.task.options == ["1", "2", "3", "4", "5"]
    assert "# TODO: say in words what 1, 2, 3, 4 and 5 stand for, in this order" in found.scaffold.text
    assert "Stars:" in found.examples[0][2].prompt


@pytest.mark.parametrize(
    ("answers", "cluster", "metrics"),
    [
        ("short", "closed_book_qa", ["exact_match", "f1"]),
        ("short", "translation", ["bleu"]),
        ("short", "summarization", ["rouge"]),
        ("one that takes more than a few words to say in full", "closed_book_qa", ["rouge"]),
    ],
)
def test_text_to_be_written(answers: str, cluster: str, metrics: list[str], draft: Any) -> None:
    found = draft([{"question": text, "answer": f"{answers} {number}"} for number, text in enumerate(TEXTS)], cluster)
    assert found.task.options is None
    assert found.task.metrics == metrics
    assert found.targets[0] == f"{answers} 0"


UNCLEAR = [
    # No name says it.
    [{"one": text, "two": f"{text} indeed"} for text in TEXTS],
    # Two names say it.
    [{"text": text, "label": number % 2, "rating": number % 3} for number, text in enumerate(TEXTS)],
]


@pytest.mark.parametrize(("rows", "suggested", "chosen"), [(UNCLEAR[0], None, "one"), (UNCLEAR[1], "label", "rating")])
def test_where_it_is_not_clear_a_person_is_asked(rows: list[dict[str, Any]], suggested: str | None, chosen: str) -> None:
    asked: list[tuple[list[str], str | None]] = []

    def ask(columns: Sequence[Column], likely: Column | None) -> str:
        asked.append(([column.name for column in columns], likely.name if likely else None))
        return chosen

    made = scaffold_task(
        {"all": pa.Table.from_pylist(rows)}, name="draft", cluster=Cluster.SENTIMENT, place={"files": "rows.csv"}, ask=ask
    )
    assert asked == [(list(rows[0]), suggested)]
    assert dict(made.guesses)["answer"].startswith(f"`{chosen}` (as asked)")


def test_without_a_person_an_unclear_answer_is_marked_or_refused(draft: Any) -> None:
    error = refusal(lambda: draft(UNCLEAR[0], "miscellaneous"))
    assert "No column's name says that it is the answer. The columns are: one, two." in error.message
    assert "--answer COLUMN" in error.hint
    assert "`label` (not sure: going by its name it could also be `rating`)" in draft(UNCLEAR[1]).guess("answer")


def test_a_clear_answer_is_not_asked_for(draft: Any) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("it is clear")

    for rows, answer in ((labelled(["good", "bad"]), None), (UNCLEAR[0], "two")):
        scaffold_task(
            {"all": pa.Table.from_pylist(rows)},
            name="draft",
            cluster=Cluster.SENTIMENT,
            place={"files": "rows.csv"},
            answer=answer,
            ask=ask,
        )


def test_the_user_can_say_which_column_is_the_answer(draft: Any) -> None:
    rows = [{"label": f"label {number % 2}", "text": text} for number, text in enumerate(TEXTS)]
    found = draft(rows, answer="text")
    assert found.targets[0] == TEXTS[0]
    assert found.task.options is None


def test_a_number_is_held_against_the_rows_own(draft: Any) -> None:
    rows = [{"one": text, "two": f"{text}!", "score": number / 7} for number, text in enumerate(TEXTS)]
    found = draft(rows, "paraphrase")
    assert found.task.metrics == ["pearson", "spearman"]
    assert found.task.gold_value == "{{ score }}"
    assert found.targets[1] == "0.14"


def test_lists_of_answers_are_all_right(draft: Any) -> None:
    for column in ("answer", "answers"):
        rows = [{"question": text, column: [f"{number}", "more"] if number else []} for number, text in enumerate(TEXTS)]
        found = draft(rows, "closed_book_qa")
        assert found.targets[0] == "1"
        assert found.examples[0][0].references == ("1", "more")


def test_answers_within_a_structure(draft: Any) -> None:
    rows = [{"question": text, "answers": {"start": [n], "text": [f"answer {n}", "or so"]}} for n, text in enumerate(TEXTS)]
    found = draft([*rows, {"question": "And?", "answers": None}], "reading_comprehension")
    assert found.task.filter == "{{ answers and answers.text }}"
    assert found.examples[0][0].references == ("answer 0", "or so")


def test_translations_side_by_side(draft: Any) -> None:
    rows = [{"translation": {"de": f"Satz {number}", "en": f"Sentence {number}"}} for number in range(12)]
    found = draft(rows, "translation")
    assert found.examples[0][2].prompt.startswith("De: Satz 0")
    assert found.targets[0] == "Sentence 0"


def choices(number: int) -> list[str]:
    return [f"first {number}", f"second {number}", f"third {number}"]


@pytest.mark.parametrize(
    "row",
    [
        lambda n: {"endings": choices(n), "label": n % 3},
        lambda n: {"endings": choices(n), "label": str(n % 3)},
        lambda n: {"endings": choices(n), "label": n % 3 + 1},
        lambda n: {"options": choices(n), "answer": "ABC"[n % 3]},
        lambda n: {"options": choices(n), "answer": choices(n)[n % 3]},
        lambda n: (
            {"choices": {"label": [*"ABC"], "text": choices(n)}, "answerKey": "ABC"[n % 3]}
            if n != 7
            else {"choices": {"label": [*"ABC"], "text": choices(n)}, "answerKey": ""}
        ),
        lambda n: {**{f"choice{c}": text for c, text in enumerate(choices(n), start=1)}, "label": n % 3},
        lambda n: {**{f"answer {c}": text for c, text in zip("abc", choices(n), strict=True)}, "label": n % 3},
        lambda n: {**{f"choice{c}": text for c, text in enumerate(choices(n))}, "answer": choices(n)[n % 3]},
        lambda n: {**{f"choice{c}": text for c, text in enumerate(choices(n))}, "label": n % 3 if n != 7 else -1},
    ],
)
def test_choices_of_each_row(row: Any, draft: Any) -> None:
    rows = [{"question": text, **row(number)} for number, text in enumerate(TEXTS)]
    found = draft([rows[-1], *rows[:-1]], "commonsense")
    assert isinstance(found.task.options, str)
    assert found.task.metrics == ["accuracy"]
    assert list(found.task.fields) == ["question"]
    assert found.targets[1:3] == ["first 0", "second 1"]


def test_pairs_of_sentences_are_no_choices(draft: Any) -> None:
    rows = [{"sentence1": text, "sentence2": f"{text}!", "label": n % 2} for n, text in enumerate(TEXTS)]
    found = draft(rows, "paraphrase")
    assert found.task.options == ["0", "1"]
    assert "Sentence 1: " in found.examples[0][1].prompt


@pytest.mark.parametrize(
    ("column", "field"),
    [
        ("Review Text", "review_text"),
        ("text", "text"),
        ("class", "class"),
        ("2nd text", "column_2nd_text"),
        ("options", "options_text"),
        ("range", "range_text"),
        ("true", "true_text"),
        ("row", "row"),
        ("it's", "it_s"),
        ('say "so"', "say_so"),
        ("back\\slash", "back_slash"),
        ("ÜBER", "über"),
        ("text: {{ x }}", None),
        ("#", "column"),
    ],
)
def test_any_column_name_can_be_reached(column: str, field: str | None, draft: Any) -> None:
    rows = [{column: row["text"], "label": row["label"]} for row in labelled(["good", "bad"])]
    if field is None:
        with pytest.raises(FlanlabError, match="cannot use"):
            draft(rows)
        return
    found = draft(rows)
    assert list(found.task.fields) == [field]
    assert TEXTS[0] in found.examples[0][0].prompt


def test_names_that_come_out_the_same_are_told_apart(draft: Any) -> None:
    rows = [{"a b": row["text"], "A.B": row["text"] + "!", "label": row["label"]} for row in labelled(["good", "bad"])]
    assert list(draft(rows).task.fields) == ["a_b", "a_b_2"]


def test_row_by_itself_needs_its_name_free(draft: Any) -> None:
    rows = [{"row": row["text"], "Review Text": row["text"], "label": row["label"]} for row in labelled(["good", "bad"])]
    assert "Rename one of the two" in refusal(lambda: draft(rows)).hint


def test_texts_that_are_missing_or_nan(draft: Any) -> None:
    rows = labelled(["good", "bad"])
    rows[0]["text"], rows[1]["text"], rows[2]["text"], rows[3]["text"] = None, "nan", " ", "None"
    found = draft(rows)
    assert len(found.targets) == 20


def test_an_optional_input_is_asked_for_first(draft: Any) -> None:
    rows = [
        {"context": f"See page {number}." if number % 2 else None, "instruction": text, "output": f"done {number}"}
        for number, text in enumerate(TEXTS)
    ]
    found = draft(rows, "miscellaneous")
    assert len(found.targets) == 24
    assert found.examples[0][2].prompt == f"Instruction: {TEXTS[0]}\nAnswer:"
    assert found.examples[1][2].prompt == f"Context: See page 1.\nInstruction: {TEXTS[1]}\nAnswer:"
    assert found.examples[0][0].prompt.startswith(TEXTS[0])


def test_columns_that_say_nothing_are_left_out_and_told(draft: Any) -> None:
    rows = [
        {**row, "id": number, "uuid": f"a{number}f", "lang": "en", "when": f"2024-01-{number + 1:02}", "none": None,
         "n": number, "tags": {"names": ["a", "b"], "rank": 1}}
        for number, row in enumerate(labelled(["good", "bad"]))
    ]  # fmt: skip
    found = draft(rows)
    assert list(found.task.fields) == ["text"]
    told = found.guess("not used")
    assert "id: numbers, names or dates rows" in told
    assert "uuid: numbers" in told
    assert "when: numbers" in told
    assert "lang: is the same in every row" in told
    assert "none: is empty" in told
    assert 'n: within reach as "{{ n }}"' in told
    assert "tags: has the shape {names: [text], rank: whole number}; within reach as \"{{ tags.names | join(', ') }}\"" in told
    assert "# not used: id: numbers, names or dates rows" in found.scaffold.text


def test_numbers_and_lists_are_inputs_where_there_is_no_text(draft: Any) -> None:
    assert list(draft([{"x": n, "y": n / 3, "label": "ab"[n % 2]} for n in range(24)]).task.fields) == ["x", "y"]
    found = draft(
        [{"words": ["cat", f"tree {n}"], "target": f"A cat in tree number {n}."} for n in range(24)], "struct_to_text"
    )
    assert "cat, tree 0" in found.examples[0][0].prompt


def test_categories_are_texts(draft: Any) -> None:
    table = pa.table({"text": TEXTS, "label": pa.array(["good", "bad"] * 12).dictionary_encode()})
    assert draft(table).task.options == ["bad", "good"]


def test_rows_sorted_by_the_answer_are_found_by_the_linter(draft: Any) -> None:
    found = draft(sorted(labelled(["good", "bad"]), key=lambda row: row["label"]))
    assert {"missing-label-test", "one-label-test"} <= {finding.rule for finding in found.lint.findings}


def whole(count: int) -> tuple[list[int], int]:
    return list(range(count)), count


@pytest.mark.parametrize(
    ("usable", "splits"),
    [
        ({"all": whole(100)}, {"train": "all[:80%]", "dev": "all[80%:90%]", "test": "all[90%:]"}),
        ({"all": whole(12)}, {"train": "all[:50%]", "dev": "all[50%:75%]", "test": "all[75%:]"}),
        ({"all": whole(4)}, {"train": "all[:50%]", "dev": "all[50%:75%]", "test": "all[75%:]"}),
        ({"all": whole(3)}, {"train": "all[:1]", "dev": "all[1:2]", "test": "all[2:]"}),
        ({"all": ([2, 5, 6], 9)}, {"train": "all[:5]", "dev": "all[5:6]", "test": "all[6:]"}),
        ({"train": whole(9), "val": whole(9), "test": whole(9)}, {"train": "train", "dev": "val", "test": "test"}),
        ({"train": whole(90), "dev": whole(9), "test": ([], 9)}, {"train": "train[:-9]", "dev": "train[-9:]", "test": "dev"}),
        ({"train": whole(9000), "test": whole(9)}, {"train": "train[:-200]", "dev": "train[-200:]", "test": "test"}),
        ({"train": ([1, 2, 30], 90), "test": whole(9)}, {"train": "train[:-60]", "dev": "train[-60:]", "test": "test"}),
        ({"train": whole(50)}, {"train": "train[:80%]", "dev": "train[80%:90%]", "test": "train[90%:]"}),
        ({"test": whole(50)}, {"test": "test"}),
        ({"test": whole(50), "validation": whole(20)}, {"train": "validation[:-2]", "dev": "validation[-2:]", "test": "test"}),
        ({"a": whole(5), "b": whole(50)}, {"train": "b[:80%]", "dev": "b[80%:90%]", "test": "b[90%:]"}),
    ],
)  # fmt: skip
def test_splits(usable: dict[str, tuple[list[int], int]], splits: dict[str, str]) -> None:
    assert guess_splits(usable)[0] == splits


def test_a_file_is_cut_so_that_every_split_has_rows(draft: Any) -> None:
    for count in range(3, 70):
        rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(count)]
        found = draft(rows)
        assert all(len(kept) for kept in found.rows.values())
        assert sum(len(kept) for kept in found.rows.values()) == count


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text,label\n", "no rows"),
        ("text|label\ngood|1\nbad|0\n", "one column alone"),
        ("text\ngood\nbad\n", "one column alone"),
        ("id,label\n1,good\n2,bad\n3,bad\n", "no column could be an input"),
        ("text,label\nfine,good\nbad,good\nso so,good\n", "`label` would be the answer by its name, but"),
        ("text,n\nfine,1.5\nbad,2.5\nso so,3.5\n", "No column's name says that it is the answer"),
        ("text,label\nfine,good\nbad,bad\n", "Only 2 rows"),
    ],
)
def test_tables_that_make_no_task_are_refused(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")
    table = read_table(path)
    message = refusal(
        lambda: scaffold_task({"all": table}, name="draft", cluster=Cluster.SENTIMENT, place={"files": "rows.csv"})
    ).message
    assert told in message


def test_an_answer_that_is_not_there_is_refused() -> None:
    table = pa.Table.from_pylist(labelled(["good", "bad"]))
    for answer, told in (("labels", "no column called `labels`"), ("same", "no two different answers")):
        given = table.append_column("same", pa.array(["x"] * 24))
        error = refusal(
            lambda answer=answer, given=given: scaffold_task(
                {"all": given}, name="draft", cluster=Cluster.SENTIMENT, place={"files": "rows.csv"}, answer=answer
            )
        )
        assert told in error.message


def test_tasks_with_the_same_rows_are_named_in_its_lineage() -> None:
    table = pa.Table.from_pylist(labelled(["good", "bad"]))
    made = scaffold_task(
        {"train": table},
        name="draft",
        cluster=Cluster.SENTIMENT,
        place={"hub": "our/rows", "config": "yes"},
        same_rows=["sst2"],
    )
    assert "derived_from:\n  sst2: the same rows\n" in made.text
    assert "  config: 'yes'\n" in made.text


def test_names_in_words() -> None:
    assert spoken("ReviewText2") == "review text 2"
    assert spoken("coarse_label") == "coarse label"
    assert reach("text") == "text"
    assert reach("answer") == "row['answer']"
