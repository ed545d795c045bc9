"""The front door: what `import flanlab` gives, how fast, and that every documented example runs."""

from __future__ import annotations

import ast
import doctest
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import flanlab
import flanlab as fl
from flanlab import progress
from flanlab.arguments import checked
from flanlab.errors import FlanlabError
from tests.tiny import make_config

FUNCTIONS = [name for name in flanlab.__all__ if name[0].islower() and name != "__version__"]
SOURCE = Path(flanlab.__file__).parent


@pytest.fixture
def examples(model: Any, model_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """What the documented examples take for granted."""
    recipe = {
        "name": "example",
        "model": str(model_folder),
        "tasks": {"collections": ["sampler"]},
        "hold_out": {"clusters": ["sentiment"]},
        "training": {"steps": 1, "tokens_per_step": 200, "learning_rate": 0.001},
        "evaluation": {"rows": 4, "templates_per_row": 1, "generate": False},
    }
    return {
        "example_model": model,
        "hf_model": AutoModelForCausalLM.from_pretrained(model_folder),
        "hf_tokenizer": AutoTokenizer.from_pretrained(model_folder),
        "example_recipe": recipe,
        "folder": tmp_path / "out",
    }


def test_importing_it_is_quick_since_it_loads_nothing_heavy() -> None:
    told = (
        "import sys, flanlab; print(*(name for name in ('torch', 'transformers', 'numpy', 'pydantic') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_tasks_need_no_torch() -> None:
    told = "import sys, flanlab as fl; fl.load_task('visitor_comments').render(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_there_are_few_names_and_each_is_documented() -> None:
    assert len(flanlab.__all__) <= 40
    assert {*flanlab._PLACES, "__version__"} == set(flanlab.__all__)
    for name in flanlab.__all__:
        assert getattr(flanlab, name).__doc__, name
    assert set(flanlab.__all__) <= set(dir(flanlab))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flanlab.nothing


@pytest.mark.parametrize("name", [*FUNCTIONS, "Recipe", "Run", "Run.predictions", "Table", "Task", "Task.render"])
def test_the_documented_example_runs(name: str, examples: dict[str, Any]) -> None:
    found: Any = flanlab
    for part in name.split("."):
        found = getattr(found, part)
    tests = [test for test in doctest.DocTestFinder(recurse=False).find(found, name, globs={}) if test.examples]
    assert tests, f"{name} has no example"
    for test in tests:
        test.globs |= {**examples, "Table": fl.Table}
        report: list[str] = []
        failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=report.append).failed
        assert not failed, "".join(report)


def test_a_model_in_memory_is_evaluated_as_its_folder_is(model: Any, examples: dict[str, Any], tmp_path: Path) -> None:
    wrapped = fl.load_model(examples["hf_model"], examples["hf_tokenizer"])
    options = {"rows": 6, "templates_per_row": 2, "new_tokens": 4}
    task = fl.load_task("product_reviews")
    ours = fl.evaluate(wrapped, task, out=tmp_path / "memory", **options)
    theirs = fl.evaluate(model, "product_reviews", out=tmp_path / "folder", **options)
    assert ours is not None
    assert theirs is not None
    assert wrapped.identity == model.identity
    assert ours.scores.column("mean") == theirs.scores.column("mean")
    table = pq.read_table(tmp_path / "memory" / "scores.parquet")
    assert table.equals(ours.scores.arrow)
    assert (tmp_path / "memory" / "report.html").is_file()
    assert len(ours.predictions("product_reviews", "instruction")) == 12
    assert all(row.difference == 0 for row in ours.compare(theirs).results.differences)


def test_every_number_of_exemplars_is_recorded_with_its_variant(model: Any, tmp_path: Path) -> None:
    run = fl.evaluate(model, "product_reviews", out=tmp_path, rows=4, templates_per_row=1, generate=False, shots=[0, 2])
    assert run is not None
    table = run.scores.where(metric="accuracy", template="mean", level="task")
    assert dict(zip(table.column("variant"), table.column("shots"), strict=True)) == {"instruction": 0, "instruction_2_shot": 2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fl.load_task("no_such_task"), "no_such_task"),
        (lambda: fl.load_task("sentiment"), "names"),
        (lambda: fl.load_task("visitor_comments").render(row=99_999), "rows 0 to"),
        (lambda: fl.load_task("visitor_comments").render(template=99), "templates 1 to"),
        (lambda: fl.load_model(3), "must be a transformers model with its tokenizer, not int"),
        (lambda: fl.load_task(pa.table({"text": ["a"]})), "A table of rows is no task yet"),  # type: ignore[arg-type]
        (lambda: fl.evaluate("smollm2-135m-instruct", [{"text": "a", "label": 0}]), "A table of rows is no task yet"),  # type: ignore[list-item]
        (lambda: fl.evaluate(("model", "tokenizer"), "visitor_comments", rows=1), "no model that can be asked: tuple"),  # type: ignore[arg-type]
        (lambda: fl.ask(object(), "Why?"), "no model that can be asked: object"),  # type: ignore[arg-type]
        (lambda: fl.Table.from_rows([{"level": 1}]).where(levl=1), "There is no column `levl`"),
        (lambda: fl.run({"name": "broken"}), "the field `model` is missing"),
        (lambda: fl.open_run("nowhere"), "there is no such file"),
    ],
)
def test_mistakes_are_told_with_a_hint(call: Any, message: str) -> None:
    with pytest.raises(FlanlabError, match=message) as raised:
        call()
    assert raised.value.hint


def test_rows_of_a_data_frame_are_answered(model: Any) -> None:
    frame = pd.DataFrame({"comment": ["Lovely.", None, "Dull."], "ours": [1, 2, 3]}).dropna()
    answers = fl.predict(model, "visitor_comments", frame)
    assert answers.columns[:3] == ["row", "comment", "ours"]
    assert answers.column("comment") == ["Lovely.", "Dull."]


def test_what_a_model_got_wrong(model: Any, tmp_path: Path) -> None:
    run = fl.evaluate(model, ["visitor_comments", "note_headline"], out=tmp_path, rows=8, templates_per_row=1, end_token=False)
    asked = run.predictions("visitor_comments")
    right, wrong = asked.where(right=True), asked.where(right=False)
    assert all(row["prediction"] in row["references"] for row in right)
    assert all(row["prediction"] in row["options"] and row["prediction"] not in row["references"] for row in wrong)
    accuracy = run.scores.where(task="visitor_comments", level="task", metric="accuracy", template="mean").column("mean")
    assert accuracy == [len(right) / 8]
    written = run.predictions("note_headline")
    assert written.column("prediction") == written.column("generated")


def test_a_style_that_a_task_lacks_is_refused_before_anything_is_asked(model: Any, tmp_path: Path) -> None:
    task = fl.load_task("visitor_comments").model_copy(update={"baseline": None})
    with pytest.raises(FlanlabError, match="no baseline prompt: visitor_comments"):
        fl.evaluate(model, task, styles=["instruction", "baseline"], out=tmp_path)
    assert not (tmp_path / "predictions").exists()


def test_a_model_in_memory_is_scored_in_its_own_dtype(model: Any, examples: dict[str, Any]) -> None:
    wrapped = fl.load_model(examples["hf_model"], examples["hf_tokenizer"])
    with pytest.raises(FlanlabError, match="in memory in float32, so it is not scored in bfloat16"):
        fl.evaluate(wrapped, "visitor_comments", rows=1, dtype="bfloat16")
    run = fl.evaluate(model, "visitor_comments", rows=1, templates_per_row=1, generate=False, dtype="bfloat16")
    assert run.results.variants["instruction"].dtype == "bfloat16"


def test_a_run_of_a_model_in_memory_is_resumed(examples: dict[str, Any]) -> None:
    config = make_config("llama", len(examples["hf_tokenizer"]))  # without a dtype, unlike that of a model that was loaded
    wrapped = fl.load_model(LlamaForCausalLM(config), examples["hf_tokenizer"])
    recipe, folder = examples["example_recipe"], examples["folder"]
    first = fl.run(recipe, folder, model=wrapped)
    assert first.results.variants["untuned_instruction"].identity == wrapped.identity
    assert fl.run(recipe, folder, model=wrapped).scores.arrow.equals(first.scores.arrow)


def test_a_recipe_that_was_changed_is_checked_again(examples: dict[str, Any]) -> None:
    recipe = fl.Recipe.model_validate(examples["example_recipe"])
    with pytest.raises(FlanlabError, match=r"the field `training\.steps` is missing"):
        fl.run(recipe.model_copy(update={"training": {"learning_rate": 0.1}}))


def test_a_missing_argument_is_told_with_the_name_of_the_function() -> None:
    with pytest.raises(TypeError, match="claims: missing a required argument: 'folder'"):
        fl.claims()  # type: ignore[call-arg]


def test_a_notebook_shows_the_line_of_the_user_and_the_message() -> None:
    with pytest.raises(FlanlabError) as raised:
        fl.load_task("no_such_task")
    shown = "".join(raised.value._render_traceback_())
    assert shown.count("File ") == 1
    assert 'fl.load_task("no_such_task")' in shown
    assert "FlanlabError: There is no task or cluster called `no_such_task`.\n  Hint: " in shown


def test_progress_in_a_notebook_is_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "console", progress._open_console())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)  # as that of a Jupyter kernel
    with progress.meter("Work", 2) as bar:
        bar.advance(2, "done")
    assert capsys.readouterr().out == "Work: 2/2, 0 s left done\n"


def test_types_of_checked_functions_are_kept() -> None:
    assert get_type_hints(fl.evaluate)["return"] is fl.Run
    assert "Result" in str(get_type_hints(checked)["return"])


def test_objects_are_shown_briefly(model: Any, examples: dict[str, Any]) -> None:
    run = fl.evaluate(model, "visitor_comments", out=examples["folder"], rows=2, templates_per_row=1, generate=False)
    assert repr(fl.load_task("visitor_comments")) == "Task visitor_comments (sentiment): 10 templates, 2 options, accuracy"
    assert repr(run).splitlines()[1].split() == ["task", "variant", "metric", "mean", "low", "high"]
    assert str(run.results).startswith("Results of evaluation of ")
    assert len(str(run.results)) < 400
    compared = repr(run.compare(run)).splitlines()
    assert compared[0].startswith("No difference is clear")
    assert compared[-1].split()[:3] == ["visitor_comments", "accuracy", "0"]
    assert repr(fl.TrainingSettings(steps=3, learning_rate=0.1)) == "TrainingSettings(steps=3, learning_rate=0.1)"


def test_models_and_wide_tables_are_shown_briefly(model: Any) -> None:
    assert len(repr(model).splitlines()) == 1
    wide = repr(fl.Table.from_rows([{f"column_{number}": number for number in range(20)}]))
    assert "column_11" in wide
    assert "column_12" not in wide
    assert wide.endswith("... 20 columns, listed by `columns`; `select` chooses some")


LAYERS = ("tasks", "data", "models", "training", "results", "evaluation", "experiments", "report", "ui", "cli")
"""A package imports only from those before it."""
BESIDES = ("arguments", "errors", "files", "yaml_files", "progress", "processes", "hub", "settings")
"""Modules that any package may import."""
ALLOWED = {
    ("tasks/schema.py", "data"): "Task.render is where a person looks for it",
}


def imports_of(path: Path) -> set[str]:
    """The parts of flanlab that a module imports, wherever in it; what is for type checking alone is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    names |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    return {name.split(".")[1] for name in names if name.startswith("flanlab.")}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_package_imports_only_what_stands_above_it(layer: str) -> None:
    allowed = {*LAYERS[: LAYERS.index(layer) + 1], *BESIDES, *(["api", "cli"] if layer == "cli" else [])}
    for path in sorted((SOURCE / layer).rglob("*.py")):
        place = str(path.relative_to(SOURCE))
        besides = {name for name in imports_of(path) - allowed if (place, name) not in ALLOWED}
        assert not besides, f"{place} imports {', '.join(sorted(besides))}"


def test_the_reference_page_has_every_public_name() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^### `flanlab\.(\w+)`$", page, re.MULTILINE)
    assert sorted(listed) == sorted(set(fl.__all__) - {"__version__"})
