"""What a run says before it begins: what it will do, about how long that takes, and what it will show."""

from __future__ import annotations

from collections.abc import Sequence

from flanlab.data.encoding import PromptStyle
from flanlab.experiments.checks import Prepared
from flanlab.experiments.cost import count_questions, run_prices
from flanlab.experiments.power import averaged, detects
from flanlab.experiments.recipe import Plan
from flanlab.models.loading import LoadedModel
from flanlab.progress import clock, say
from flanlab.training.precision import vocabulary_share


def announce(ready: Prepared, loaded: LoadedModel, scored: LoadedModel, styles: Sequence[PromptStyle]) -> None:
    """Say what will be done and about how long it takes on this machine."""
    plan, planned = ready.plan, ready.planned
    training, settings = plan.recipe.training, plan.recipe.evaluation
    prices = run_prices(plan, loaded, scored, planned, styles)
    before = count_questions(planned, settings, styles)
    before += count_questions(ready.dev_planned, settings, [style for style in styles if style != "baseline"])
    questions = count_questions([*planned, *ready.dev_planned], settings, ["instruction"])
    held_out = ", ".join(cluster.label for cluster in plan.split.hold_out.clusters) or "nothing"
    test_seconds = (before + questions) * prices.question
    say(f"{plan.recipe.name}: {loaded.name} ({loaded.parameters / 1e6:.0f}M parameters) on {loaded.model.device}")
    say(f"  held out    {held_out}" + (f": {', '.join(task.name for task in plan.split.test)}" if plan.split.test else ""))
    if plan.split.in_domain:
        say(f"  in-domain   {', '.join(task.name for task in plan.split.in_domain)}: test rows of tasks that are trained on")
    tasks, clusters = len(plan.split.train), len({task.clusters[0] for task in plan.split.train})
    other = "other " if plan.split.test else ""
    say(f"  trains on   {tasks} task{'s' * (tasks > 1)} of {clusters} {other}cluster{'s' * (clusters > 1)}")
    say(f"              {ready.per_step * training.steps} examples in {training.steps} steps")
    announce_training(plan, loaded)
    for name, reason in plan.split.left_out.items():
        if reason != "held out":
            say(f"  left out    {name}: {reason}")
    say(f"  evaluates   {before} questions before tuning ({', '.join(styles)} prompts) and {questions} after")
    say(f"  detects     {detects(averaged(plan, planned))}")
    say(f"  takes       about {clock(prices.training)} to train and {clock(test_seconds)} to evaluate on this machine")


def announce_training(plan: Plan, loaded: LoadedModel) -> None:
    """Say what `auto` has come to: the numbers that training computes in, and whether it changes the embeddings."""
    training = plan.recipe.training
    say(f"  computes    in {training.compute_dtype} while training; weights, gradients and optimizer are float32")
    if training.method == "full" and not training.train_embeddings:
        share = vocabulary_share(loaded.model)
        say(f"  keeps       the embeddings as they are: {share:.0%} of the parameters (training.train_embeddings)")
