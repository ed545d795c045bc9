"""What is refused before it costs, by training, its plan and `flan recipe check` alike."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from flanlab import api
from flanlab.data.mirror import MissingDataError
from flanlab.data.reader import RowReader
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments import checks
from flanlab.experiments import run as run_module
from flanlab.experiments.checks import check_run
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.run import run_recipe, train_recipe
from flanlab.experiments.training_plan import plan_training
from flanlab.results.files import read_results
from flanlab.tasks.loading import load_collection
from flanlab.tasks.schema import Task
from tests.tiny import NUMBER_TASK, recipe_content, write_recipe, write_tasks

FAR = {"hub": "nobody/nothing", "splits": {"train": "train", "test": "test"}}


def plan(recipe: Recipe, out: Path, rows: RowReader) -> object:
    return plan_training(recipe, device="cpu", speed=1e9, out=out, mirror=rows.mirror)


def check(recipe: Recipe, out: Path, rows: RowReader) -> object:
    """As `flan recipe check` does."""
    return check_run(recipe, out, rows)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the tiny tasks and an empty mirror."""
    write_tasks(tmp_path / "tasks")
    (tmp_path / "mirror").mkdir()
    return tmp_path


def add_task(home: Path, name: str, **changes: Any) -> None:
    (home / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump({**NUMBER_TASK, "name": name, **changes}), encoding="utf-8")


def read(home: Path, model: Path, **training: Any) -> Recipe:
    return write_recipe(home, recipe_content(model, steps=1, **training))


def no_such_model(home: Path, model: Path) -> Recipe:
    return read(home, home / "no-model")


def no_dev_rows(home: Path, model: Path) -> Recipe:
    return read(home, model, dev_every=2)


def no_tracker(home: Path, model: Path) -> Recipe:
    return read(home, model, track="trackio")


def an_overlap(home: Path, model: Path) -> Recipe:
    add_task(home, "derived", derived_from={"comments": "made up"})
    return read(home, model)


def no_rows(home: Path, model: Path) -> Recipe:
    add_task(home, "far", source=FAR)
    return read(home, model)


def nothing_kept(home: Path, model: Path) -> Recipe:
    shutil.copy(home / "tasks" / "counting.jsonl", home / "tasks" / "none.jsonl")
    add_task(home, "none", filter="{{ number > 1000 }}")
    return read(home, model)


def another_run(home: Path, model: Path) -> Recipe:
    (home / "out").mkdir()
    (home / "out" / "notes.txt").write_text("kept", encoding="utf-8")
    return read(home, model)


def in_domain_but_held_out(home: Path, model: Path) -> Recipe:
    return read(home, model).model_copy(update={"in_domain": ["Comments"]})


def too_long(home: Path, model: Path) -> Recipe:
    return read(home, model, micro_batch_tokens=12)


FAULTS: list[tuple[Callable[[Path, Path], Recipe], str]] = [
    (no_such_model, "There is no model folder at"),
    (no_dev_rows, "no task that is trained on has dev rows"),
    (no_tracker, "training.track is trackio, which is not installed"),
    (an_overlap, "derived: shares comments with the held-out comments"),
    (no_rows, "does not have nobody/nothing"),
    (nothing_kept, "no row of the train split"),
    (another_run, "is not empty and holds no run"),
    (in_domain_but_held_out, "in_domain names Comments, which is held out"),
    (too_long, "does not fit into a row of 12"),
]


EVERY_WAY = pytest.mark.parametrize("do", [train_recipe, run_recipe, plan, check], ids=["train", "run", "plan", "check"])


@EVERY_WAY
@pytest.mark.parametrize(("fault", "told"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_the_plan_refuses_what_training_refuses_and_no_model_is_loaded(
    do: Any, fault: Any, told: str, home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_model", None)
    monkeypatch.setattr("flanlab.training.log.find_spec", lambda name: None)
    with pytest.raises(FlanlabError) as caught:
        do(fault(home, tiny_folder), home / "out", RowReader(home / "mirror"))
    assert told in caught.value.message
    assert caught.value.hint


@EVERY_WAY
@pytest.mark.parametrize(
    ("kind", "told"), [("flan-t5", "does not fit into a batch of 12"), ("bart", "longer than the 8 that the model can read")]
)
def test_examples_too_long_for_an_encoder_decoder_model_are_told_before_it_is_loaded(
    do: Any, kind: str, told: str, home: Path, encoder_decoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_model", None)
    model = shutil.copytree(encoder_decoders[kind], home / kind)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8} if kind == "bart" else config))
    with pytest.raises(FlanlabError, match=told):
        do(read(home, model, micro_batch_tokens=128 if kind == "bart" else 12), home / "out", RowReader(home / "mirror"))


def plan_run(recipe: Recipe, out: Path, rows: RowReader) -> object:
    """As `flan run --plan` does."""
    return plan_training(recipe, device="cpu", speed=1e9, out=out, mirror=rows.mirror, evaluates=True)


@pytest.mark.parametrize("do", [run_recipe, check, plan_run], ids=["run", "check", "plan"])
def test_a_base_model_that_has_seen_what_is_held_out_is_told_before_it_is_loaded(
    do: Any, home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_model", None)
    model = shutil.copytree(tiny_folder, home / "tuned")
    facts = {"clusters": ["sentiment"], "lineage": ["comments"]}
    (model / "flanlab.json").write_text(json.dumps({"tasks": {"comments": facts}}))
    with pytest.raises(FlanlabError, match="comments: the model was trained on its train rows") as caught:
        do(read(home, model), home / "out", RowReader(home / "mirror"))
    assert "hold_out.overlap: allow" in caught.value.hint


def test_dev_rows_that_are_all_too_long_are_no_missing_ones(home: Path, tiny_folder: Path) -> None:
    add_task(home, "counting", source={"files": "counting.jsonl", "splits": {"train": "all[:12]", "dev": "all[12:]"}})
    recipe = read(home, tiny_folder, dev_every=2)
    short = recipe.model_copy(update={"mixture": recipe.mixture.model_copy(update={"target_tokens": 1})})
    with pytest.raises(FlanlabError, match="no dev example fits into the limits for prompt and target"):
        check(short, home / "out", RowReader())
    assert check(recipe, home / "out", RowReader())


@pytest.mark.parametrize("do", [run_recipe, check, plan], ids=["run", "check", "plan"])
def test_a_full_disk_is_told_before_anything_is_asked(
    do: Any, home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home)
    monkeypatch.setattr("flanlab.experiments.checks.shutil.disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(FlanlabError, match=r"only 0\.00 GB are free") as caught:
        do(read(home, tiny_folder), home / "out", RowReader())
    assert "training.method: lora" in caught.value.hint
    assert not (home / "out").exists()
    assert plan_training(read(home, tiny_folder), device="H100", out=home / "out"), "on another machine"


def test_models_that_are_kept_need_room_too(home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "saved_bytes", lambda *_: (10**9, 10**9))
    usage = shutil.disk_usage(home)
    monkeypatch.setattr("flanlab.experiments.checks.shutil.disk_usage", lambda _: usage._replace(free=3 * 10**9))
    assert check(write_recipe(home, recipe_content(tiny_folder, keep_steps=[1])), home / "out", RowReader())
    recipe = write_recipe(home, recipe_content(tiny_folder, keep_steps=[1, 2]))
    with pytest.raises(FlanlabError, match=r"the tuned model with 2 of training\.keep_steps 3\.00 GB, but only 3\.00 GB"):
        check(recipe, home / "out", RowReader())
    (home / "out" / "models" / "step-1").mkdir(parents=True)
    checks.check_disk(home / "out", recipe.model, checks.read_config(recipe.model), recipe.training)


def test_what_is_needed_is_what_is_written(
    home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needed: list[tuple[int, int]] = []
    original = checks.saved_bytes
    monkeypatch.setattr(checks, "saved_bytes", lambda *given: needed.append(original(*given)) or needed[-1])
    usage = shutil.disk_usage(home)
    monkeypatch.setattr("flanlab.experiments.checks.shutil.disk_usage", lambda _: usage._replace(free=sum(needed[-1])))
    train_recipe(read(home, tiny_folder), home / "out")
    checkpoint, model = needed[-1]
    written = sum(path.stat().st_size for path in (home / "out" / "training").glob("step-*/*.safetensors"))
    # With the headers of the files and the optimizer's step numbers.
    assert checkpoint <= written <= checkpoint + 20_000
    assert model <= sum(path.stat().st_size for path in (home / "out" / "model").glob("*.safetensors")) <= model + 20_000
    assert "may fill the disk" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_cannot_be_written_to_is_refused_first(
    home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    recipe = read(home, tiny_folder)
    monkeypatch.setattr("flanlab.files.tempfile.TemporaryFile", refuse)
    for do in (
        lambda: run_recipe(recipe, home / "out"),
        lambda: evaluate_model("no/such", [], EvaluationSettings(), home / "out"),
        lambda: api.mix(recipe, home / "out" / "mixture.parquet"),
    ):
        with pytest.raises(FlanlabError, match="cannot be written to: Read-only file system"):
            do()


def tasks_with_a_far_one(home: Path) -> Sequence[Task]:
    add_task(home, "far", source=FAR)
    return load_collection(home / "tasks")


SETTINGS = EvaluationSettings(rows=3, templates_per_row=1, new_tokens=4)


def test_missing_tasks_are_skipped_and_recorded(home: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks, rows = tasks_with_a_far_one(home), RowReader(home / "mirror")
    with pytest.raises(MissingDataError):
        evaluate_model(str(tiny_folder), tasks, SETTINGS, home / "out", rows=rows)
    found = evaluate_model(str(tiny_folder), tasks, SETTINGS, home / "out", rows=rows, skip_missing=True)
    assert found == read_results(home / "out")
    assert sorted(found.tasks) == ["comments", "counting"]
    assert list(found.skipped) == ["far"]
    assert "does not have nobody/nothing" in found.skipped["far"]
    assert any(note.startswith("Skipped, since its rows are not available: far.") for note in found.notes)
    assert "Skipped far: " in capsys.readouterr().err
    only = [task for task in tasks if task.name == "far"]
    with pytest.raises(MissingDataError, match="No task has rows"):
        evaluate_model(str(tiny_folder), only, SETTINGS, home / "out", rows=rows, skip_missing=True)


def test_an_evaluation_of_no_task_is_refused(home: Path, tiny_folder: Path) -> None:
    with pytest.raises(FlanlabError, match="There is no task to evaluate"):
        evaluate_model(str(tiny_folder), [], SETTINGS, home / "out")


def test_a_mistyped_model_is_told_before_rows_are_read(home: Path) -> None:
    with pytest.raises(FlanlabError, match="There is no model folder at") as caught:
        evaluate_model(f"./{home.name}/smolm2-135m-instruct", tasks_with_a_far_one(home), SETTINGS, home / "out")
    assert "Did you mean smollm2-135m-instruct?" in caught.value.hint


def test_the_mixture_leaves_out_tasks_without_rows(home: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = nothing_kept(home, tiny_folder)
    card = api.mix(recipe, examples=8)
    assert list(card["tasks"]) == ["counting"]
    assert "no row of the train split" in card["left_out"]["none"]
    assert "Warning: none is left out." in capsys.readouterr().err
    recipe = no_rows(home, tiny_folder)
    with pytest.raises(MissingDataError, match=r"(?s)nobody/nothing") as caught:
        api.mix(recipe, examples=8, mirror=home / "mirror")
    assert "tasks.exclude: [far]" in caught.value.hint
    card = api.mix(recipe, examples=8, mirror=home / "mirror", skip_missing=True)
    assert set(card["left_out"]) >= {"none", "far"}
