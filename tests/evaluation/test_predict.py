"""Predictions: what is asked, what is kept, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from flanlab.data.sources import Rows, load_rows
from flanlab.errors import FlanlabError
from flanlab.evaluation import predict as module
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup, plan_task
from flanlab.evaluation.predict import predict_shard, predict_tasks, refuse_seen, shards_of
from flanlab.evaluation.scores import score_task
from flanlab.models import loading
from flanlab.models.answering import Question
from flanlab.models.loading import LoadedModel, load_model
from flanlab.results.files import PREDICTION_SCHEMA, read_predictions
from flanlab.tasks.loading import load_task
from flanlab.tasks.schema import Task
from tests.task_files import refusal
from tests.tiny import SENTIMENT_TASK, stock_model, tiny_tasks, write_rows

SETTINGS = EvaluationSettings(rows=6, new_tokens=5, token_budget=256)


@pytest.fixture
def tasks(tmp_path: Path) -> tuple[Task, Task]:
    return tiny_tasks(tmp_path / "tasks")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Every question about a row that reaches the model; those that ask for scores alone have no room to generate."""
    questions: list[Question] = []
    original = loading.answer_questions

    def counting(model: Any, given: Sequence[Question], budget: int) -> Any:
        questions.extend(question for question in given if question.max_new_tokens)
        return original(model, given, budget)

    monkeypatch.setattr(loading, "answer_questions", counting)
    return questions


def unit_of(task: Task, settings: EvaluationSettings = SETTINGS, seed: int = 0) -> PlannedTask:
    return plan_task(task, load_rows(task, "test"), settings, seed)


def run(
    loaded: LoadedModel, unit: PlannedTask, folder: Path, settings: EvaluationSettings = SETTINGS, style: Any = "instruction"
) -> list[dict[str, Any]]:
    predict_tasks(Setup(loaded, settings, 0, style), [unit], folder, "test")
    table = read_predictions(folder / unit.task.name)
    assert table.schema.equals(PREDICTION_SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_plan_takes_forward_templates_in_turn(tasks: tuple[Task, Task]) -> None:
    comments, counting = tasks
    unit = unit_of(comments, EvaluationSettings(rows=6))
    assert len({row for row, _ in unit.pairs}) == 6
    assert Counter(unit.pairs) == Counter((row, t) for row in {row for row, _ in unit.pairs} for t in (1, 2, 3))
    some = unit_of(comments, EvaluationSettings(rows=6, templates_per_row=2))
    assert {row for row, _ in some.pairs} == {row for row, _ in unit.pairs}, "the rows do not depend on the templates"
    assert max(Counter(some.pairs).values()) == 1
    assert Counter(Counter(row for row, _ in some.pairs).values()) == {2: 6}
    assert Counter(template for _, template in some.pairs) == {1: 4, 2: 4, 3: 4}
    assert {template for _, template in unit_of(counting).pairs} == {1, 2}, "never an inverted one"


def test_plan_depends_on_the_seed_alone(tasks: tuple[Task, Task]) -> None:
    few = EvaluationSettings(rows=3, templates_per_row=1)
    assert unit_of(tasks[0], few).pairs == unit_of(tasks[0], few).pairs
    assert len({tuple(unit_of(tasks[0], few, seed).pairs) for seed in range(6)}) > 1
    more = {row for row, _ in unit_of(tasks[0], EvaluationSettings(rows=5)).pairs}
    assert {row for row, _ in unit_of(tasks[0], few).pairs} <= more, "more rows are more of the same"


def test_plan_with_more_rows_than_there_are(tasks: tuple[Task, Task]) -> None:
    assert len({row for row, _ in unit_of(tasks[0], EvaluationSettings(rows=1000)).pairs}) == 10


ANSWERS = [
    {"question": question, "answer": f"answer {number}", "label": number % 2, "mark": number / 4}
    for number, question in enumerate("aabbbaccccdeeffgghhh")
]


def judging(folder: Path, **changes: Any) -> Task:
    """A task whose rows are answers to questions: 3 of a, 3 of b, 4 of c and so on; the last a stands apart."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "judging.jsonl", ANSWERS)
    content = {
        **SENTIMENT_TASK,
        "name": "judging",
        "source": {"files": "judging.jsonl", "splits": {"test": "all"}},
        "fields": {"text": "{{ answer }}", "question": "{{ question }}"},
        "group": "{{ question }}",
        "gold_value": "{{ mark }}",
        "metrics": ["multirc_f1a", "multirc_exact_match", "accuracy"],
        **changes,
    }
    (folder / "judging.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_task(folder / "judging.yaml")


def test_plan_never_cuts_a_group(tmp_path: Path) -> None:
    task = judging(tmp_path)
    for seed in range(8):
        unit = unit_of(task, EvaluationSettings(rows=6, templates_per_row=2), seed)
        chosen: dict[str, dict[int, set[int]]] = {}
        for row, template in unit.pairs:
            chosen.setdefault(ANSWERS[row]["question"], {}).setdefault(row, set()).add(template)
        sizes = [len(rows) for rows in chosen.values()]
        assert sizes == [sum(answer["question"] == question for answer in ANSWERS) for question in chosen]
        assert 6 <= sum(sizes) < 6 + 4, "as few groups as hold six rows"
        for rows in chosen.values():
            assert len({frozenset(templates) for templates in rows.values()}) == 1, "all rows through the same templates"
            assert len(next(iter(rows.values()))) == 2
        assert unit.pairs == unit_of(task, EvaluationSettings(rows=6, templates_per_row=2), seed).pairs
        more = {row for row, _ in unit_of(task, EvaluationSettings(rows=12), seed).pairs}
        assert {row for row, _ in unit.pairs} <= more
    assert len({row for row, _ in unit_of(task, EvaluationSettings(rows=1000)).pairs}) == len(ANSWERS)


def test_predictions_carry_group_and_gold_value(tiny: LoadedModel, tmp_path: Path) -> None:
    for row in run(tiny, unit_of(judging(tmp_path / "tasks")), tmp_path / "out"):
        assert row["group"] == ANSWERS[row["row"]]["question"]
        assert row["gold_value"] == ANSWERS[row["row"]]["mark"]


@pytest.mark.parametrize(
    ("field", "expression", "message"),
    [
        ("gold_value", "{{ question }}", r"row \d+: `gold_value` gives '\w', which is not a number"),
        ("gold_value", "{{ label == 1 }}", r"`gold_value` gives (True|False), which is not a number"),
        ("gold_value", "{{ none }}", r"`gold_value` gives None"),
        ("group", "{{ question if mark < 1 else none }}", r"row 4: `group` gives no value"),
    ],
)
def test_group_or_gold_value_that_is_none_is_told_before_the_model_is_asked(
    field: str, expression: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FlanlabError, match=message) as caught:
        unit_of(judging(tmp_path, **{field: expression}))
    assert "judging.yaml" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("style", ["instruction", "chat"])
def test_classification_predictions_are_plain_scores(
    tasks: tuple[Task, Task], tiny: LoadedModel, tiny_folder: Path, tmp_path: Path, style: str
) -> None:
    """From the file back to the numbers: prompt text, option order, scores, answer."""
    unit, reference = unit_of(tasks[0]), stock_model(tiny_folder)
    rows = run(tiny, unit, tmp_path / "out", style=style)
    assert [(row["row"], row["template"]) for row in rows] == unit.pairs
    texts = load_rows(tasks[0], "test")
    for row in rows:
        words = ["bad", "good"] if row["template"] == 3 else ["negative", "positive"]
        assert row["options"] == words
        assert row["own_options"] == ["negative", "positive"]
        assert row["answer"] == texts[row["row"]]["label"]
        assert row["references"] == [words[row["answer"]]]
        assert row["prompt"].count("OPTIONS:") == 1
        assert row["shortened"] is False
        encoded = tiny.encoder.encode(row["prompt"], words, style)  # type: ignore[arg-type]
        for option, score, without, count in zip(
            encoded.answers, row["option_scores"], row["option_scores_without_end"], row["option_tokens"], strict=True
        ):
            with torch.inference_mode():
                logits = reference(input_ids=torch.tensor([encoded.prompt + option])).logits[0].log_softmax(-1)
            each = [logits[len(encoded.prompt) - 1 + place, token].item() for place, token in enumerate(option)]
            assert score == pytest.approx(sum(each), abs=1e-4)
            assert without == pytest.approx(sum(each[:-1]), abs=1e-4)
            assert count == len(option)
        assert row["group"] is None
        assert row["gold_value"] is None
    orders = {row["prompt"].index("- positive") < row["prompt"].index("- negative") for row in rows if row["template"] < 3}
    assert orders == {True, False}, "the order of the options is shuffled from row to row"


def test_generation_predictions(tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path) -> None:
    rows = run(tiny, unit_of(tasks[1]), tmp_path / "out")
    texts = load_rows(tasks[1], "test")
    for row in rows:
        assert row["options"] == row["own_options"] == row["option_scores"] == row["option_tokens"] == []
        assert row["answer"] is None
        assert row["references"] == [texts[row["row"]]["next"]]
        assert isinstance(row["generated"], str)
        assert "\n" not in row["generated"]
        assert row["generated"] == row["generated"].strip()


def test_generation_beside_ranking_can_be_left_out(tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path) -> None:
    settings = EvaluationSettings(rows=2, generate=False)
    rows = run(tiny, unit_of(tasks[0], settings), tmp_path / "out", settings)
    assert {row["generated"] for row in rows} == {None}


def plain_score(model: Any, prompt: list[int], option: list[int]) -> float:
    """Log-probability of an option, by stock transformers, one token after the other."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + option])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + place, token].item() for place, token in enumerate(option))


@pytest.mark.parametrize("style", ["instruction", "chat", "baseline"])
def test_options_are_also_scored_without_their_question(
    tasks: tuple[Task, Task], tiny: LoadedModel, tiny_folder: Path, tmp_path: Path, style: Any
) -> None:
    content = {**SENTIMENT_TASK, "baseline": {"prompt": "{{ text }} It is"}}
    (tmp_path / "tasks" / "comments.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    task, reference = load_task(tmp_path / "tasks" / "comments.yaml"), stock_model(tiny_folder)
    rows = run(tiny, unit_of(task), tmp_path / "out", style=style)
    for row in rows:
        encoded = tiny.encoder.encode("Answer:", row["options"], style)
        with_end = [plain_score(reference, encoded.prompt, option) for option in encoded.answers]
        without = [plain_score(reference, encoded.prompt, option[:-1]) for option in encoded.answers]
        assert row["option_scores_alone_without_end"] == pytest.approx(without, abs=1e-4)
        assert row["option_scores_alone"] == pytest.approx(without if style == "baseline" else with_end, abs=1e-4)


def test_options_alone_are_asked_once_for_a_part(
    tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """18 questions in shards of 8 and 10, with two lists of options in each: 4 questions more; none where PMI is not wanted."""
    questions: list[Question] = []
    original = loading.answer_questions

    def counting(model: Any, given: Sequence[Question], budget: int) -> Any:
        questions.extend(given)
        return original(model, given, budget)

    monkeypatch.setattr(loading, "answer_questions", counting)
    monkeypatch.setattr(module, "_QUESTIONS_OF_FIRST_SHARD", 8)
    run(tiny, unit_of(tasks[0]), tmp_path / "out")
    assert len(questions) == 18 + 2 * 2
    questions.clear()
    without = EvaluationSettings(**{**SETTINGS.model_dump(), "pmi": False})
    rows = run(tiny, unit_of(tasks[0], without), tmp_path / "without", without)
    assert len(questions) == 18
    assert {row["option_scores_alone"] for row in rows} == {None}


@pytest.mark.parametrize("options", ["fixed", "none"])
def test_options_fixed_or_not_shown(options: Any, tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path) -> None:
    settings = EvaluationSettings(rows=6, options=options, generate=False)
    rows = run(tiny, unit_of(tasks[0], settings), tmp_path / "out", settings)
    if options == "none":
        assert not any("OPTIONS" in row["prompt"] for row in rows)
    else:
        assert all(row["prompt"].endswith("\n- " + "\n- ".join(row["options"])) for row in rows)


def test_long_prompts_lose_the_end_of_their_text(tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path) -> None:
    rows = load_rows(tasks[0], "test").table.to_pylist()
    rows[0]["text"] = "word " * 400
    write_rows(tmp_path / "tasks" / "comments.jsonl", [*rows, *rows])
    task = load_task(tmp_path / "tasks" / "comments.yaml")
    settings = EvaluationSettings(rows=20, prompt_tokens=200, generate=False)
    found = run(tiny, unit_of(task, settings), tmp_path / "out", settings)
    assert {row["row"] for row in found if row["shortened"]} == {0}
    for row in found:
        assert len(tiny.encoder.encode(row["prompt"], row["options"]).prompt) <= 200
        assert row["prompt"].count("OPTIONS:") == 1


def test_long_prompts_may_lose_the_middle_of_their_text(tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path) -> None:
    rows = load_rows(tasks[0], "test").table.to_pylist()
    rows[0]["text"] = f"At first {'word ' * 400} at last."
    write_rows(tmp_path / "tasks" / "comments.jsonl", [*rows, *rows])
    task = load_task(tmp_path / "tasks" / "comments.yaml")
    settings = EvaluationSettings(rows=20, prompt_tokens=200, generate=False, truncate="middle")
    found = run(tiny, unit_of(task, settings), tmp_path / "out", settings)
    assert {row["row"] for row in found if row["shortened"]} == {0}
    for row in (row for row in found if row["shortened"]):
        assert len(tiny.encoder.encode(row["prompt"], row["options"]).prompt) <= 200
        assert re.search(r"At first word .* \[\.\.\.\] .* word *at last\.", row["prompt"])
        assert row["prompt"].count("[...]") == 1
        assert row["prompt"].count("OPTIONS:") == 1
    assert score_task(task, {"v": found}).facts.shortened == sum(row["shortened"] for row in found) > 0


def test_prompt_that_cannot_be_shortened_is_named(tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path) -> None:
    settings = EvaluationSettings(rows=2, prompt_tokens=5)
    with pytest.raises(FlanlabError, match=r"comments\.yaml, row \d+, template \d: the prompt is longer than 5"):
        run(tiny, unit_of(tasks[0], settings), tmp_path / "out", settings)


@pytest.mark.parametrize("which", ["comments", "counting"])
def test_an_answer_that_is_no_number_is_named_and_what_was_done_is_kept(
    which: str, tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path
) -> None:
    task = next(task for task in tasks if task.name == which)
    unit = unit_of(task)
    done, *_ = shards_of(Setup(tiny, SETTINGS), unit, tmp_path / "spoilt" / which)
    predict_shard(Setup(tiny, SETTINGS), done)
    row, template = unit.pairs[len(done.pairs)]
    with torch.no_grad():
        tiny.model.model.norm.weight.fill_(float("nan"))
    error = refusal(lambda: run(tiny, unit, tmp_path / "spoilt"))
    assert f"{which}, row {row}, template {template}: the model computes no number" in error.message
    assert "kept" in error.hint
    assert done.path.is_file()


def test_done_parts_are_kept(
    tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """18 questions in shards of 2 and then 4: an interrupted evaluation asks only what is missing; a finished one nothing."""
    monkeypatch.setattr(module, "_QUESTIONS_PER_SHARD", 4)
    unit, folder = unit_of(tasks[0]), tmp_path / "out" / "comments"
    assert len(unit.pairs) == 18
    first = run(tiny, unit, folder.parent)
    assert len(asked) == 18
    assert [pq.read_metadata(path).num_rows for path in sorted(folder.iterdir())] == [2, 4, 4, 4, 4]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(tiny, unit, folder.parent) == first
    assert len(asked) == 18
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "shard-00001.parquet").unlink()
    (folder / "shard-00004.parquet").write_bytes(b"damaged")
    assert run(tiny, unit, folder.parent) == first
    assert len(asked) == 18 + 4 + 4


def test_predictions_do_not_depend_on_parts_or_budget(
    tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(tasks[0])
    whole = run(tiny, unit, tmp_path / "whole")
    monkeypatch.setattr(module, "_QUESTIONS_PER_SHARD", 5)
    small = EvaluationSettings(**{**SETTINGS.model_dump(), "token_budget": 1})
    shards = run(tiny, unit, tmp_path / "shards", small)
    for left, right in zip(whole, shards, strict=True):
        assert right.pop("option_scores") == pytest.approx(left.pop("option_scores"), abs=1e-4)
        for column in ("option_scores_without_end", "option_scores_alone", "option_scores_alone_without_end"):
            assert right.pop(column) == pytest.approx(left.pop(column), abs=1e-4)
        assert left == right
    count = len(asked)
    run(tiny, unit, tmp_path / "shards", SETTINGS)
    assert len(asked) == count, "the token budget changes no result, so nothing is asked again"


def test_stale_parts_are_removed(
    tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUESTIONS_PER_SHARD", 4)
    folder = tmp_path / "out"
    run(tiny, unit_of(tasks[0]), folder)
    fewer = EvaluationSettings(**{**SETTINGS.model_dump(), "rows": 2})
    unit = unit_of(tasks[0], fewer)
    rows = run(tiny, unit, folder, fewer)
    assert [(row["row"], row["template"]) for row in rows] == unit.pairs
    left = sorted(path.name for path in (folder / "comments").iterdir())
    assert left == ["shard-00000.parquet", "shard-00001.parquet"]


def _other_model(loaded: LoadedModel, tmp_path: Path) -> LoadedModel:
    assert loaded.folder is not None
    folder = Path(shutil.copytree(loaded.folder, tmp_path / "other"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_model(str(folder), device="cpu")


def _other_template(tmp_path: Path) -> Task:
    content = {**SENTIMENT_TASK, "templates": [*SENTIMENT_TASK["templates"]]}
    content["templates"][1] = {"prompt": "How does the writer really feel? {{ text }}"}
    (tmp_path / "tasks" / "comments.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_task(tmp_path / "tasks" / "comments.yaml")


@pytest.mark.parametrize("change", ["model", "template", "rows", "style", "seed", "setting"])
def test_whatever_shapes_predictions_makes_them_again(
    change: str, tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path, asked: list[Question]
) -> None:
    folder, unit, settings, style, loaded, seed = tmp_path / "out", unit_of(tasks[0]), SETTINGS, "instruction", tiny, 0
    first = run(tiny, unit, folder)
    if change == "model":
        loaded = _other_model(tiny, tmp_path)
    elif change == "template":
        unit = unit_of(_other_template(tmp_path))
    elif change == "rows":
        table = load_rows(tasks[0], "test").table.to_pylist()
        write_rows(tmp_path / "tasks" / "comments.jsonl", [{**row, "text": row["text"] + " Yes!"} for row in table * 2])
        unit = unit_of(tasks[0])
    elif change == "style":
        style = "chat"
    elif change == "seed":
        seed = 1
    else:
        settings = EvaluationSettings(**{**SETTINGS.model_dump(), "options": "none"})
    predict_tasks(Setup(loaded, settings, seed, style), [unit], folder, "test")  # type: ignore[arg-type]
    assert len(asked) == 18 + len(unit.pairs)
    assert read_predictions(folder / "comments").to_pylist() != first


def test_identical_content_elsewhere_is_not_asked_again(
    tasks: tuple[Task, Task], tiny: LoadedModel, tmp_path: Path, asked: list[Question]
) -> None:
    run(tiny, unit_of(tasks[0]), tmp_path / "out")
    same = load_model(str(shutil.copytree(tiny.folder, tmp_path / "same")), device="cpu")  # type: ignore[arg-type]
    run(same, unit_of(tiny_tasks(tmp_path / "elsewhere")[0]), tmp_path / "out")
    assert len(asked) == 18


def test_no_predictions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match="holds no predictions"):
        read_predictions(tmp_path)


def stamped(tiny_folder: Path, tmp_path: Path, trained: dict[str, Any]) -> LoadedModel:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "stamped"))
    (folder / "flanlab.json").write_text(json.dumps({"tasks": trained, "lineage": {}}), encoding="utf-8")
    return load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("trained", "reason"),
    [
        ({"comments": {"clusters": ["sentiment"], "lineage": ["comments"]}}, "trained on its train rows"),
        ({"reviews": {"clusters": ["sentiment"], "lineage": ["reviews"]}}, "of the cluster sentiment"),
    ],
)
def test_stamped_model_is_not_scored_on_what_it_has_seen(
    trained: dict[str, Any], reason: str, tasks: tuple[Task, Task], tiny_folder: Path, tmp_path: Path
) -> None:
    loaded = stamped(tiny_folder, tmp_path, trained)
    with pytest.raises(FlanlabError, match=reason) as caught:
        refuse_seen(tasks, loaded.name, loaded.stamp, allow_seen=False)
    assert "counting" not in caught.value.message
    assert "--allow-seen" in caught.value.hint
    seen = refuse_seen(tasks, loaded.name, loaded.stamp, allow_seen=True)
    assert list(seen) == ["comments"]
    assert reason in seen["comments"]


def test_unstamped_and_unrelated_models_may_be_scored(
    tasks: tuple[Task, Task], tiny: LoadedModel, tiny_folder: Path, tmp_path: Path
) -> None:
    assert refuse_seen(tasks, tiny.name, tiny.stamp, allow_seen=False) == {}
    other = stamped(tiny_folder, tmp_path, {"wmt": {"clusters": ["translation"], "lineage": ["wmt"]}})
    assert refuse_seen(tasks, other.name, other.stamp, allow_seen=False) == {}


def test_rows_are_read_one_by_one(tasks: tuple[Task, Task]) -> None:
    """A unit holds the rows it was planned over, so that row numbers in predictions mean these."""
    unit = unit_of(tasks[0])
    assert isinstance(unit.rows, Rows)
    assert max(row for row, _ in unit.pairs) < len(unit.rows)
