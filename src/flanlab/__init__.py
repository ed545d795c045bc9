"""flanlab: instruction-tune language models on task clusters, and measure them zero-shot on clusters they never saw.

All public names are imported from here, when they are first used:

    import flanlab as fl

    task = fl.load_task("rte")
    model = fl.load_model("smollm2-135m-instruct")
    run = fl.evaluate(model, ["rte", "sentiment"], rows=100)
    run.scores
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from inspect import isfunction
from typing import TYPE_CHECKING, Any

from flanlab.arguments import checked

if TYPE_CHECKING:
    from flanlab.api import ablate, evaluate, load_model, mix, power, run, score, train
    from flanlab.data.mixture import MixtureSettings
    from flanlab.data.rendering import Example
    from flanlab.errors import FlanlabError
    from flanlab.evaluation.classification import accuracy_by, calibration, confusion
    from flanlab.evaluation.planning import EvaluationSettings
    from flanlab.experiments.ask import ask
    from flanlab.experiments.claims_plan import plan_claims
    from flanlab.experiments.contamination import check_contamination
    from flanlab.experiments.export_model import export_model
    from flanlab.experiments.predict_rows import predict
    from flanlab.experiments.recipe import Recipe
    from flanlab.experiments.training_plan import plan_training
    from flanlab.models.completions import Endpoint
    from flanlab.models.loading import LoadedModel as Model
    from flanlab.report.claims import claims
    from flanlab.report.run import Comparison, Run, compare, open_run
    from flanlab.report.sweep import SweepRead as Ablation
    from flanlab.report.wordings import compare_templates
    from flanlab.results.schema import Difference, Results, Score
    from flanlab.results.table import Table
    from flanlab.tasks.loading import find_task as load_task
    from flanlab.tasks.loading import find_tasks as load_tasks
    from flanlab.tasks.schema import Task
    from flanlab.training.settings import TrainingSettings

_PLACES = {
    **dict.fromkeys(("load_task", "load_tasks"), "tasks.loading"),
    **dict.fromkeys(("ablate", "evaluate", "load_model", "mix", "power", "run", "score", "train"), "api"),
    **dict.fromkeys(("accuracy_by", "calibration", "confusion"), "evaluation.classification"),
    **dict.fromkeys(("Comparison", "Run", "compare", "open_run"), "report.run"),
    **dict.fromkeys(("Difference", "Results", "Score"), "results.schema"),
    "Ablation": "report.sweep",
    "EvaluationSettings": "evaluation.planning",
    "MixtureSettings": "data.mixture",
    "TrainingSettings": "training.settings",
    "claims": "report.claims",
    "Endpoint": "models.completions",
    "Example": "data.rendering",
    "FlanlabError": "errors",
    "Model": "models.loading",
    "Recipe": "experiments.recipe",
    "Table": "results.table",
    "Task": "tasks.schema",
    "ask": "experiments.ask",
    "check_contamination": "experiments.contamination",
    "compare_templates": "report.wordings",
    "export_model": "experiments.export_model",
    "plan_claims": "experiments.claims_plan",
    "plan_training": "experiments.training_plan",
    "predict": "experiments.predict_rows",
}
_NAMES = {"Ablation": "SweepRead", "Model": "LoadedModel", "load_task": "find_task", "load_tasks": "find_tasks"}
"""Public names that differ from the names in their modules."""

__all__ = [
    "Ablation",
    "Comparison",
    "Difference",
    "Endpoint",
    "EvaluationSettings",
    "Example",
    "FlanlabError",
    "MixtureSettings",
    "Model",
    "Recipe",
    "Results",
    "Run",
    "Score",
    "Table",
    "Task",
    "TrainingSettings",
    "__version__",
    "ablate",
    "accuracy_by",
    "ask",
    "calibration",
    "check_contamination",
    "claims",
    "compare",
    "compare_templates",
    "confusion",
    "evaluate",
    "export_model",
    "load_model",
    "load_task",
    "load_tasks",
    "mix",
    "open_run",
    "plan_claims",
    "plan_training",
    "power",
    "predict",
    "run",
    "score",
    "train",
]

try:
    __version__ = version("flanlab")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+source"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import flanlab` alone loads neither torch nor transformers."""
    if name not in _PLACES:
        raise AttributeError(f"module 'flanlab' has no attribute {name!r}")
    found = getattr(import_module(f"flanlab.{_PLACES[name]}"), _NAMES.get(name, name))
    if isfunction(found):
        found = checked(found, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
