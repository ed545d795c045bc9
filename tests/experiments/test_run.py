"""A run from recipe to results, on a tiny model: what it leaves, that it is repeatable, and that it can be killed anywhere."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from flanlab.errors import FlanlabError
from flanlab.evaluation import predict as predict_module
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.predict import refuse_seen
from flanlab.experiments import run as module
from flanlab.experiments.evaluate_model import evaluate_model
from flanlab.experiments.recipe import Recipe, make_plan, read_recipe
from flanlab.experiments.run import run_recipe, train_recipe
from flanlab.experiments.stamp import make_stamp, training_key
from flanlab.models import loading as loading_module
from flanlab.models.loading import load_model
from flanlab.report.html import write_report
from flanlab.results.files import read_predictions, read_results
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, Results
from flanlab.tasks.loading import load_collection, load_task
from flanlab.tasks.schema import Split
from flanlab.training import precision, trainer
from tests.tiny import recipe_content, write_recipe, write_tasks

Predictions = dict[str, list[dict[str, Any]]]
VARIANTS = ("untuned_instruction", "untuned_chat", "tuned")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for recipes over the tiny tasks."""
    return tmp_path_factory.mktemp("home")


def read(home: Path, model: Path, **training: Any) -> Recipe:
    return write_recipe(home, recipe_content(model, **{"checkpoint_minutes": 1e-9, **training}))


@pytest.fixture(scope="module")
def done(home: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run carried out in one go; not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    run_recipe(read(home, tiny_folder), folder)
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    """results.json without the time it took."""
    content: dict[str, Any] = read_results(folder).model_dump()
    assert content.pop("seconds") > 0
    return content


def seconds_of(folder: Path) -> float:
    """Of all sittings so far."""
    path = folder / "seconds.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.exists() else 0.0


def predictions_of(folder: Path) -> Predictions:
    return {variant: read_predictions(folder / "predictions" / variant / "comments").to_pylist() for variant in VARIANTS}


def assert_same_run(left: Path, right: Path) -> None:
    assert results_of(left) == results_of(right)
    assert predictions_of(left) == predictions_of(right)
    (weights,) = (left / "model").glob("*.safetensors")
    ours, theirs = load_file(weights), load_file(right / "model" / weights.name)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_run_says_what_it_will_detect_before_it_spends_anything(
    home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "evaluate", Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        run_recipe(read(home, tiny_folder), tmp_path / "run")
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"detects a difference of about \d+\.\d points, with 80 % power", told), told


def test_folder_of_a_run(done: Path) -> None:
    names = {path.name for path in done.iterdir()}
    assert names == {
        "recipe.yaml", "run.json", "mixture.json", "predictions", "training", "model", "seconds.json", "settled.json",
        "results.json", "scores.parquet",
    }  # fmt: skip
    assert sorted(path.name for path in (done / "predictions").iterdir()) == sorted(VARIANTS)
    assert Recipe.model_validate(yaml.safe_load((done / "recipe.yaml").read_text())).name == "tiny"
    assert len((done / "training" / "log.jsonl").read_text().splitlines()) == 4
    mixture = json.loads((done / "mixture.json").read_text())
    assert list(mixture["tasks"]) == ["counting"]
    facts = json.loads((done / "run.json").read_text())
    assert set(facts["tasks"]) == {"comments", "counting"}
    assert facts["packages"]["torch"] == torch.__version__ or facts["packages"]["torch"] in torch.__version__


def test_results_say_what_was_done(done: Path, tiny_folder: Path) -> None:
    results = read_results(done)
    assert (results.name, results.hold_out) == ("tiny", ["sentiment"])
    assert list(results.variants) == list(VARIANTS)
    untuned, tuned = results.variants["untuned_chat"], results.variants["tuned"]
    loaded = load_model(str(tiny_folder), device="cpu")
    assert (untuned.model, untuned.identity, untuned.parameters) == (str(tiny_folder), loaded.identity, loaded.parameters)
    assert (untuned.style, untuned.dtype, untuned.stamped, untuned.trained_on) == ("chat", "float32", False, None)
    assert untuned.settings["templates_per_row"] == 2
    assert (tuned.model, tuned.stamped) == (f"{tiny_folder}, tuned", True)
    assert tuned.identity == load_model(str(done / "model"), device="cpu").identity
    assert tuned.trained_on == {"counting": "miscellaneous"}
    assert list(results.tasks) == ["comments"]
    assert results.members("tasks", None, "accuracy") == 1
    assert any("chat template" in note for note in results.notes)


def test_results_follow_from_the_predictions(done: Path) -> None:
    """Computed again from the Parquet files, with nothing but arithmetic."""
    results = read_results(done)
    task = results.tasks["comments"]
    predictions = predictions_of(done)
    means = {}
    for variant, rows in predictions.items():
        assert len(rows) == 6 * 2
        right = [(row["template"], float(np.argmax(row["option_scores"]) == row["answer"])) for row in rows]
        by_template = {str(template): np.mean([value for other, value in right if other == template]) for template in (1, 2, 3)}
        score = results.main_scores("comments")[variant]
        for template, mean in by_template.items():
            assert results.scored("task", "comments", "accuracy", template)[variant].mean == pytest.approx(mean)
        means[variant] = np.mean(list(by_template.values()))
        assert score.mean == pytest.approx(means[variant])
        assert score.std is None, "each template was asked other rows"
        low, high = score.interval
        assert low <= score.mean <= high
    before = max(VARIANTS[:2], key=lambda variant: means[variant])
    difference = results.difference("task", "comments", "accuracy")
    assert difference is not None
    assert difference.before == before
    assert difference.difference == pytest.approx(means["tuned"] - means[before])
    assert (task.rows, task.templates) == (6, [1, 2, 3])
    answers = {row["row"]: row["answer"] for row in predictions["tuned"]}
    assert task.majority == max(np.mean(list(answers.values())), 1 - np.mean(list(answers.values())))
    assert task.chance == 0.5
    assert results.scored("tasks", None, "accuracy")["tuned"].mean == pytest.approx(means["tuned"])


def test_predictions_differ_before_and_after_and_ask_the_same(done: Path) -> None:
    predictions = predictions_of(done)
    asked = {variant: [(row["row"], row["template"], row["prompt"]) for row in rows] for variant, rows in predictions.items()}
    assert asked["tuned"] == asked["untuned_instruction"] == asked["untuned_chat"]
    scores = [str([row["option_scores"] for row in rows]) for rows in predictions.values()]
    assert len(set(scores)) == 3


def test_tuned_model_is_a_plain_folder_with_its_stamp(done: Path, home: Path, tiny_folder: Path) -> None:
    loaded = load_model(str(done / "model"), device="cpu")
    assert loaded.stamp is not None
    assert list(loaded.stamp["tasks"]) == ["counting"]
    assert loaded.stamp["base_identity"] == load_model(str(tiny_folder), device="cpu").identity
    assert loaded.identity != loaded.stamp["base_identity"]
    assert (done / "model").stat().st_mode == (done / "training").stat().st_mode, "others may read it as they may the rest"
    tasks = load_collection(home / "tasks")
    with pytest.raises(FlanlabError, match="counting: the model was trained on its train rows"):
        refuse_seen(tasks, loaded.name, loaded.stamp, allow_seen=False)
    assert refuse_seen([task for task in tasks if task.name == "comments"], loaded.name, loaded.stamp, allow_seen=False) == {}


def test_same_recipe_gives_the_same_results(done: Path, home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_recipe(read(home, tiny_folder), tmp_path / "again")
    assert_same_run(done, tmp_path / "again")


class Killed(BaseException):
    """What no code here catches."""


def _on_call(original: Callable[..., Any], number: int) -> Callable[..., Any]:
    calls: list[int] = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return original(*args, **kwargs)

    return dying


KILLS = [
    (module, "describe_mixture", 1),
    (loading_module, "answer_questions", 2),
    (loading_module, "answer_questions", 4),
    (trainer, "train_step", 3),
    (module, "save_tuned", 1),
    (module, "load_model", 2),
    (loading_module, "answer_questions", 2),
    (module, "score_tasks", 1),
]
"""What ends each sitting of a run, at which call: describing the mixture, predicting before (the first variant, the second),
training, saving, loading, predicting after, computing."""


def test_a_run_killed_at_every_stage_goes_on_and_gives_equal_results(
    done: Path, home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "_QUESTIONS_PER_SHARD", 4)
    recipe, killed, spent = read(home, tiny_folder), tmp_path / "killed", 0.0
    for where, name, number in KILLS:
        with monkeypatch.context() as dying:
            dying.setattr(where, name, _on_call(getattr(where, name), number))
            with pytest.raises(Killed):
                run_recipe(recipe, killed)
        assert not (killed / "results.json").exists()
        before, spent = spent, seconds_of(killed)
        assert spent >= before
        assert (spent > 0) == (killed / "predictions").exists(), "before that it is no work of the run"
    run_recipe(recipe, killed)
    assert seconds_of(killed) > spent
    # Parts of another size change no answer; scores are the same to rounding, as batches differ.
    assert _rounded(results_of(killed)) == _rounded(results_of(done))
    left, right = (load_file(folder / "model" / "model.safetensors") for folder in (killed, done))
    assert all(torch.equal(tensor, right[key]) for key, tensor in left.items())


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return round(content, 3) + 0.0 if isinstance(content, float) else content


def _never(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("nothing is left to do")


def test_finished_run_is_not_done_again(
    done: Path, home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "copy"))
    monkeypatch.setattr(predict_module, "predict_pairs", _never)
    monkeypatch.setattr(trainer, "train_step", _never)
    run_recipe(read(home, tiny_folder), folder)
    assert_same_run(done, folder)
    assert seconds_of(folder) == seconds_of(done)


def test_tuning_alone_is_the_same_tuning(
    done: Path, home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read(home, tiny_folder)
    tuned = train_recipe(recipe, tmp_path / "run")
    assert tuned.identity == load_model(str(done / "model"), device="cpu").identity
    monkeypatch.setattr(trainer, "train_step", _on_call(trainer.train_step, 1))
    run_recipe(recipe, tmp_path / "run")
    assert_same_run(done, tmp_path / "run")
    with pytest.raises(FlanlabError, match="another recipe"):
        train_recipe(read(home, tiny_folder, steps=5), tmp_path / "run")


def test_killed_lora_run_gives_equal_results(
    home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter changes the loaded model in place: what is said of the untuned model must not depend on that."""
    recipe = read(home, tiny_folder, method="lora", lora_rank=4, steps=2)
    run_recipe(recipe, tmp_path / "whole")
    original = module.score_tasks
    monkeypatch.setattr(module, "score_tasks", _on_call(original, 1))
    with pytest.raises(Killed):
        run_recipe(recipe, tmp_path / "killed")
    monkeypatch.setattr(module, "score_tasks", original)
    run_recipe(recipe, tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert (
        read_results(tmp_path / "whole").variants["untuned_chat"].parameters
        == load_model(str(tiny_folder), device="cpu").parameters
    )
    assert (tmp_path / "whole" / "model" / "adapter_model.safetensors").is_file()


def test_an_adapter_finds_its_base_from_another_working_folder(
    home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    train_recipe(read(home, Path("base"), method="lora", lora_rank=4, steps=1), tmp_path / "run")
    monkeypatch.chdir(home)
    model = tmp_path / "run" / "model"
    assert load_model(str(model), device="cpu").stamp is not None
    assert json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tmp_path / "base"), (
        "for peft"
    )
    path = model / "flanlab.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model": "base"}))
    with pytest.raises(FlanlabError, match=r"run/model is an adapter of the base model base, which could not be") as caught:
        load_model(str(model), device="cpu")
    assert f"its full path) or its Hub id into base_model of {path}" in caught.value.hint


def test_another_recipe_in_the_same_folder_is_refused(done: Path, home: Path, tiny_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    with pytest.raises(FlanlabError, match=r"holds a run of another recipe:\n  training.steps: 4 -> 5") as caught:
        run_recipe(read(home, tiny_folder, steps=5), done)
    assert "--out" in caught.value.hint
    assert "learning_rate" not in caught.value.message
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


def test_run_is_resumed_from_another_working_folder(
    done: Path, home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task folder and its model then have other paths, and the same content."""
    folder = Path(shutil.copytree(done, tmp_path / "copy"))
    read(home, tiny_folder)  # writes the file
    (home / "same").symlink_to(tiny_folder)
    monkeypatch.chdir(home)
    recipe = read_recipe(Path("recipe.yaml")).model_copy(update={"model": "same"})
    assert recipe.tasks.collections == ["tasks"]
    monkeypatch.setattr(predict_module, "predict_pairs", _never)
    monkeypatch.setattr(trainer, "train_step", _never)
    run_recipe(recipe, folder)
    assert read_results(folder).scores == read_results(done).scores


def test_other_content_at_the_same_place_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    train_recipe(read(tmp_path, tiny_folder, steps=1), tmp_path / "run")
    path = tmp_path / "tasks" / "counting.yaml"
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    task["templates"][0]["prompt"] = "Count on from {{ number }}."
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    with pytest.raises(FlanlabError, match=r"trained on something else:\n  tasks.counting.file: \w+ -> \w+\n  Hint"):
        train_recipe(read(tmp_path, tiny_folder, steps=1), tmp_path / "run")


def test_changed_evaluation_keeps_the_training(
    done: Path,
    home: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "copy"))
    recipe = read(home, tiny_folder)
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"rows": 4})})
    monkeypatch.setattr(trainer, "train_step", _never)
    results = run_recipe(recipe, folder)
    assert results.tasks["comments"].rows == 4
    assert results.variants["tuned"].identity == read_results(done).variants["tuned"].identity
    assert "evaluation.rows: 6 -> 4" in capsys.readouterr().err.replace("\n", " ")
    assert Recipe.model_validate(yaml.safe_load((folder / "recipe.yaml").read_text())).evaluation.rows == 4


def test_damaged_recipe_of_a_run_is_named(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: [", encoding="utf-8")
    with pytest.raises(FlanlabError, match=r"recipe\.yaml: is damaged"):
        run_recipe(read(home, tiny_folder), tmp_path)


def test_folder_with_something_else_is_refused(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(FlanlabError, match="not empty and holds no run"):
        run_recipe(read(home, tiny_folder), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_recipe_that_cannot_be_carried_out_leaves_the_folder_free(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match="no model folder"):
        run_recipe(read(home, Path("/no/such/model")), tmp_path / "run")
    train_recipe(read(home, tiny_folder, steps=1), tmp_path / "run")
    assert load_model(str(tmp_path / "run" / "model"), device="cpu").stamp is not None


def test_stamped_model_is_refused_for_what_it_has_seen(home: Path, done: Path, tmp_path: Path) -> None:
    """A second run from the tuned model that holds out what the first trained on."""
    content = recipe_content(done / "model")
    content["hold_out"] = {"clusters": ["miscellaneous"]}
    with pytest.raises(FlanlabError, match="counting: the model was trained on its train rows"):
        run_recipe(write_recipe(home, content), tmp_path / "second")
    assert not (tmp_path / "second").exists(), "it is refused before it costs"


def test_stamps_add_up(home: Path, done: Path) -> None:
    content = recipe_content(done / "model")
    content["hold_out"] = {"clusters": ["miscellaneous"]}
    stamp = make_stamp(make_plan(write_recipe(home, content)), load_model(str(done / "model"), device="cpu"))
    assert sorted(stamp["tasks"]) == ["comments", "counting"]
    assert stamp["clusters"] == ["miscellaneous", "sentiment"]


def test_training_key_follows_what_shapes_training(home: Path, tiny_folder: Path) -> None:
    recipe = read(home, tiny_folder)
    stamp = make_stamp(make_plan(recipe), load_model(str(tiny_folder), device="cpu"))
    key = training_key(stamp)

    def changed(*place: str, value: Any) -> str:
        other = copy.deepcopy(stamp)
        inner = other
        for part in place[:-1]:
            inner = inner[part]
        assert inner[place[-1]] != value
        inner[place[-1]] = value
        return training_key(other)

    assert changed("recipe", "training", "checkpoint_minutes", value=3.0) == key
    for name, value in {"workers": 2, "parallel": "fsdp", "dev_every": 5, "dev_examples": 7, "track": "wandb"}.items():
        assert changed("recipe", "training", name, value=value) == key
    assert changed("recipe", "evaluation", "rows", value=9) == key
    assert changed("recipe", "name", value="other") == key
    assert changed("recipe", "training", "learning_rate", value=1e-4) != key
    assert changed("recipe", "seed", value=1) != key
    assert changed("base_model", value="elsewhere/the same model") == key, "a place"
    assert changed("base_identity", value="other") != key
    assert changed("tasks", "counting", "hash", value="other") != key
    assert changed("tasks", "counting", "rows", value="other") != key


def test_overlap_that_is_allowed_is_carried_out_and_marked_as_seen(tiny_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    path = tmp_path / "tasks" / "counting.yaml"
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**task, "derived_from": {"comments": "made up"}}), encoding="utf-8")
    content = recipe_content(tiny_folder, steps=1) | {"evaluation": {"rows": 2, "templates_per_row": 1, "generate": False}}
    content["hold_out"]["overlap"] = "allow"
    results = run_recipe(write_recipe(tmp_path, content), tmp_path / "run")
    assert "shares comments" in str(results.tasks["comments"].seen)
    assert results.seen_tasks("tuned") == ["comments"]
    assert list(results.allowed_overlaps) == ["counting"]


@pytest.mark.parametrize(("kind", "method"), [("t5", "full"), ("bart", "lora")])
def test_run_of_an_encoder_decoder_model(
    kind: str, method: str, encoder_decoders: dict[str, Path], home: Path, tmp_path: Path
) -> None:
    results = run_recipe(read(home, encoder_decoders[kind], method=method, steps=2), tmp_path / "run")
    assert set(results.variants) == {"untuned_instruction", "tuned"}
    tuned = load_model(str(tmp_path / "run" / "model"), device="cpu")
    assert tuned.stamp is not None
    assert set(tuned.stamp["tasks"]) == {"counting"}
    assert tuned.identity != load_model(str(encoder_decoders[kind]), device="cpu").identity


def test_run_tells_the_best_template_on_dev(tiny_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    path = tmp_path / "tasks" / "comments.yaml"
    path.write_text(path.read_text().replace("train: all[:10]", "train: all[:4]\n    dev: all[4:10]"))
    content = recipe_content(tiny_folder, steps=1)
    content["evaluation"]["choose_template"] = True
    results = run_recipe(write_recipe(tmp_path, content), tmp_path / "run")
    best = results.tasks["comments"].best_on_dev
    assert best is not None
    assert set(best) == set(results.scored("task", "comments", "accuracy", BEST_ON_DEV)) == set(VARIANTS)
    assert {one.dev_rows for one in best.values()} == {6}
    assert sorted(path.name for path in (tmp_path / "run" / "dev_predictions").iterdir()) == sorted(VARIANTS)
    assert [variant.stamped for variant in results.variants.values()] == [False, False, True]
    assert results.variants["tuned"].settings["choose_template"] is True
    hashes = results.tasks["comments"].hashes
    assert hashes is not None
    assert hashes.task == load_task(path).hash


def test_run_trains_on_arms_and_reports_with_and_without_options(tiny_folder: Path, tmp_path: Path) -> None:
    content = recipe_content(tiny_folder, steps=1, loss_average="examples")
    content["mixture"] = {"options": "mixed", "shots": {0: 0.5, 2: 0.5}}
    few = {"rows": 3, "templates_per_row": 1, "generate": False}
    content["evaluation"] = {**few, "options": ["none", "shuffled"], "shots": [0, 1]}
    run = tmp_path / "run"
    results = run_recipe(write_recipe(tmp_path, content), run)
    arms = ["", "_options_shuffled", "_1_shot", "_1_shot_options_shuffled"]
    names = [f"{way}{arm}" for way in ("untuned_instruction", "untuned_chat", "tuned") for arm in arms]
    assert list(results.variants) == names
    assert results.variants["tuned_1_shot_options_shuffled"].title == "tuned, 1 shot, OPTIONS shuffled"
    for name, variant in results.variants.items():
        assert variant.stamped == name.startswith("tuned")
        order = "shuffled" if "shuffled" in name else "none"
        assert (variant.settings["shots"], variant.settings["options"]) == (int("1_shot" in name), order)
        rows = read_predictions(run / "predictions" / name / "comments").to_pylist()
        assert {"OPTIONS:" in row["prompt"] for row in rows} == {"shuffled" in name}
        assert {len(row["exemplars"]) for row in rows} == {int("1_shot" in name)}
    for compared in results.differences:
        assert compared.after == "tuned"
        assert "1_shot" not in compared.before
    assert {"0", "2"} == set(json.loads((run / "mixture.json").read_text())["exemplars"])
    # Read back from its own recipe, the run is the same one.
    assert run_recipe(read_recipe(tmp_path / "recipe.yaml"), run).scores == results.scores
    assert write_report(run).is_file()


def test_loss_on_dev_is_that_of_the_tasks_trained_on(tiny_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    path = tmp_path / "tasks" / "counting.yaml"
    recipe = write_recipe(tmp_path, recipe_content(tiny_folder, dev_every=4))
    with pytest.raises(FlanlabError, match="no task that is trained on has dev rows"):
        train_recipe(recipe, tmp_path / "run")
    path.write_text(path.read_text().replace("train: all[:16]", "train: all[:12]\n    dev: all[12:16]"))
    train_recipe(recipe, tmp_path / "run")
    lines = (tmp_path / "run" / "training" / "log.jsonl").read_text().splitlines()
    measured = [json.loads(line) for line in lines if "dev_loss" in line]
    assert [record["step"] for record in measured] == [1, 4]
    assert all(list(record["dev_loss"]) == ["miscellaneous"] for record in measured)


def test_precision_is_chosen_once_and_written_everywhere(
    home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is settled when the run begins; another machine resumes in the same numbers."""
    recipe = read(home, tiny_folder, compute_dtype="auto", steps=1)
    monkeypatch.setattr(precision, "bfloat16_gain", lambda _: 5.0)
    results = run_recipe(recipe, tmp_path / "run")
    tuned = results.variants["tuned"]
    assert (tuned.trained_in, tuned.dtype) == ("bfloat16", "float32")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["precision"] == {"training": "bfloat16", "scoring": "float32"}
    assert facts["train_embeddings"] is True
    stamp = json.loads((tmp_path / "run" / "model" / "flanlab.json").read_text())
    assert stamp["recipe"]["training"]["compute_dtype"] == "bfloat16"
    written = (tmp_path / "run" / "model" / "flanlab.json").stat().st_mtime_ns
    monkeypatch.setattr(precision, "bfloat16_gain", lambda _: 0.1)
    assert run_recipe(recipe, tmp_path / "run").variants["tuned"] == tuned
    assert (tmp_path / "run" / "model" / "flanlab.json").stat().st_mtime_ns == written, "trained again"
    other = run_recipe(recipe, tmp_path / "other")
    assert other.variants["tuned"].trained_in == "float32"
    keys = [json.loads((tmp_path / name / "training" / "finished.json").read_text()) for name in ("run", "other")]
    assert keys[0] != keys[1]


def test_in_domain_tasks_are_scored_beside_zero_shot_ones(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    content = recipe_content(tiny_folder, steps=1) | {"in_domain": "all"}
    results = run_recipe(write_recipe(home, content), tmp_path / "run")
    assert results.in_domain == ["counting"]
    assert list(results.averaged) == ["comments"], "means over zero-shot tasks leave in-domain ones out"
    assert results.tasks["counting"].mark == "in-domain"
    assert results.difference("in_domain", None, MAIN_METRIC) is not None
    alone = results.difference("task", "comments", results.tasks["comments"].main_metric)
    over_clusters = results.difference("clusters", None, MAIN_METRIC)
    assert alone is not None
    assert over_clusters is not None
    assert over_clusters.difference == pytest.approx(alone.difference)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "in-domain" in page
    assert results.main_scores("counting")["tuned"].seen
    assert not results.main_scores("comments")["tuned"].seen

    def evaluated(split: Split) -> Results:
        tasks = load_collection(home / "tasks")
        place, settings = tmp_path / split, EvaluationSettings(rows=2, split=split)
        found = evaluate_model(str(tmp_path / "run" / "model"), tasks, settings, place, allow_seen=True)
        assert found is not None
        return found

    asked = evaluated("test")
    assert {name: task.mark for name, task in asked.tasks.items()} == {"comments": "", "counting": "in-domain"}, "as in the run"
    assert "no zero-shot result" not in write_report(tmp_path / "test").read_text(encoding="utf-8")
    assert evaluated("train").tasks["counting"].mark == "seen in training", "these very rows trained"


def test_a_recipe_without_a_hold_out_scores_what_it_trains_on(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    content = recipe_content(tiny_folder, steps=1)
    del content["hold_out"]
    results = run_recipe(write_recipe(home, content), tmp_path / "run")
    assert results.hold_out == []
    assert sorted(results.in_domain) == sorted(results.tasks) == ["comments", "counting"]
    assert results.difference("tasks", None, "exact_match") or results.difference("clusters", None, MAIN_METRIC)
    assert "held out" not in write_report(tmp_path / "run").read_text(encoding="utf-8").split("<table")[0]


def test_an_in_domain_task_without_test_rows_is_refused(home: Path, tiny_folder: Path) -> None:
    recipe = write_recipe(home, recipe_content(tiny_folder) | {"in_domain": ["sentiment"]})
    with pytest.raises(FlanlabError, match="sentiment"):
        make_plan(recipe)
