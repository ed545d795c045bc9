"""What a run found: a verdict, three numbers and a summary in sentences, which claim no more than the intervals allow."""

from __future__ import annotations

from collections.abc import Iterable

from flanlab.report.page import Cell
from flanlab.report.training import RunFiles
from flanlab.report.views import Line, clear, headlines, is_mixed, line_of
from flanlab.report.wording import (
    amount,
    capital,
    cluster_title,
    counted,
    listed,
    metric_title,
    number,
    parameters,
    signed,
    some,
)
from flanlab.results.schema import MAIN_METRIC, TUNED, Results, Score

_NUMBERS = 3
_FEW = 3
"""So many tasks are told of one by one; more are counted."""
_GLOSSES = {
    "valid_answers": "an answer is valid when it is one of the answers offered, right or wrong",
    "exact_match": "an answer matches when it is the right answer, word for word",
    "accuracy": "ranking asks which of the offered answers the model finds likeliest",
}
"""What a metric means, said once."""
_LEVEL = "95\N{NARROW NO-BREAK SPACE}%"
_POWER = "80\N{NARROW NO-BREAK SPACE}%"


def _first(results: Results) -> list[Line]:
    """The first three headlines; where trained tasks stand beside held-out ones, also the last, by which they differ most.

    Of many clusters, the mean alone: which of them come first says nothing.
    """
    lines = headlines(results)
    most = 1 if is_mixed(results) and len(lines) > _NUMBERS else _NUMBERS
    both = 0 < len(results.in_domain) < len(results.tasks)
    return [*lines[:most], *(line for line in lines[most:][-1:] if both and line.in_domain)]


def verdict(results: Results) -> str:
    """The first numbers as a line: what changed, or how good the model is."""
    told = []
    for line in _first(results):
        one, score = line.difference, next(iter(line.scores.values()))
        what = amount(line.metric, score.mean)
        if one is not None:
            what = f"{signed(one.difference)} points" if one.is_clear else "no change detected"
        elif line.chance is not None:
            what += f", {_beside(score, line.chance)} guessing ({amount(line.metric, line.chance)})"
        told.append(f"{line.name}: {what}")
    return capital("; ".join(told)) + "."


def numbers(results: Results) -> list[tuple[str, Cell]]:
    """The first numbers: differences where there are some, else scores."""
    found = []
    for line in _first(results):
        one, scores = line.difference, line.scores
        if one is not None:
            below = [f"from {amount(line.metric, scores[one.before].mean)} to {amount(line.metric, scores[one.after].mean)}"]
            below += [] if one.is_clear else [clear(one)]
            cell = Cell(one.difference, signed, one.interval, below=below, kind="clear" if one.is_clear else "unclear")
            found.append((f"{capital(line.name)}, points", cell))
            continue
        (_, score), *others = scores.items()
        below = [f"{results.variants[name].title}: {number(other.mean)}" for name, other in others]
        below += [] if line.chance is None else [f"guessing: {number(line.chance)}"]
        found.append((capital(line.name), Cell(score.mean, interval=score.interval, below=below)))
    return found


def summary(run: RunFiles) -> Iterable[str]:
    """What was done, then each headline metric before and after, or as it is."""
    results = run.results
    yield from _done(run)
    if results.in_domain:
        yield f"Scored in-domain, on test rows of tasks that it was trained on: {some(results.in_domain)}."
    if seen := [name for name, task in results.tasks.items() if task.seen and not task.in_domain]:
        yield f"This is no zero-shot result: the model was trained on {some(seen)}, or on something close to it."
    lines = headlines(results)
    if is_mixed(results):
        told = results.averaged if len(results.averaged) <= _FEW else {}
        lines = [line_of(results, "task", name, task.main_metric, name) for name, task in told.items()] or _first(results)
    yield from (_sentence(results, line) for line in lines)
    # An average must not hide the tasks that fell.
    rows = {name: results.difference("task", name, task.main_metric) for name, task in results.averaged.items()}
    rose = [name for name, row in rows.items() if row and row.is_clear and row.difference > 0]
    fell = [name for name, row in rows.items() if row and row.is_clear and row.difference < 0]
    if len(rows) > 1 and results.differences:
        lower = f"clearly lower on {len(fell)}{f' ({some(fell)})' if fell else ''}"
        yield f"Task by task, by the main metric: clearly higher on {len(rose)} of {len(rows)}, {lower}."
    untuned = [name for name in results.variants if not name.startswith(TUNED)]
    if len(untuned) > 1 and TUNED in results.variants:
        yield "“Before” is the untuned model asked in whichever way suits it better, measure by measure."


def _done(run: RunFiles) -> Iterable[str]:
    """What the model was trained on and asked."""
    results = run.results
    first = next(iter(results.variants.values()))
    size = f" ({parameters(first.parameters)} parameters)" if first.parameters else ""
    model = f"The model {first.model}{size}"
    if TUNED not in results.variants:
        yield f"{model} was evaluated on {some(results.tasks)}."
        if first.trained_on:
            yield f"It had been tuned on {counted(len(first.trained_on), 'task')} before."
        return
    trained_on = results.variants[TUNED].trained_on or {}
    kinds = list(dict.fromkeys(map(cluster_title, trained_on.values())))
    named = kinds if len(kinds) <= _FEW + 1 else [*kinds[:_FEW], f"{len(kinds) - _FEW} more"]
    extent = f", on {counted(run.mixture.planned_examples, 'example')}" if run.mixture else ""
    if run.steps:
        examples = sum(step.examples for step in run.steps)
        extent = f", on {counted(examples, 'example')} in {counted(len(run.steps), 'step')}"
    yield f"{model} was tuned on {counted(len(trained_on), 'task')} of {counted(len(kinds), 'kind')} ({listed(named)}){extent}."
    if held_out := [cluster_title(cluster) for cluster in results.hold_out]:
        yield (
            f"{'One kind of task was' if len(held_out) == 1 else f'{len(held_out)} kinds of task were'} held out,"
            f" {listed(held_out)}: {some(results.averaged)}, the same rows before and after."
        )
    if results.allowed_overlaps:
        overlaps = some(results.allowed_overlaps)
        yield f"Not all of that is new to it: it was trained on {overlaps}, which the hold-out would leave out."


def _sentence(results: Results, line: Line) -> str:
    """A line in words."""
    subject = "The main metric" if line.metric == MAIN_METRIC else metric_title(results, line.metric)
    tasks = len(results.in_domain if line.in_domain else results.averaged)
    where = f" on average over {counted(tasks, 'in-domain task' if line.in_domain else 'task')}" if tasks > 1 else ""
    where = " on the in-domain task" if line.in_domain and tasks == 1 else where
    where = f" on {line.task}" if line.task else f" ({line.name})" if line.metric == MAIN_METRIC else where
    gloss = f"; {_GLOSSES[line.metric]}" if line.metric in _GLOSSES and not line.in_domain else ""
    if line.difference is None:
        return _as_it_is(results, line, f"{subject}{where}", gloss)
    one = line.difference
    before, after = line.scores[one.before], line.scores[one.after]
    first, second = amount(line.metric, before.mean), amount(line.metric, after.mean)
    difference = f"difference {signed(one.difference)} points, {_LEVEL} interval {signed(one.low)} to {signed(one.high)}"
    if one.is_clear:
        told = f"{subject} {'rose' if one.low > 0 else 'fell'} from {first} to {second}{where} ({difference}){gloss}."
    else:
        size = "no difference, however large," if one.detectable is None else f"{number(one.detectable)} points"
        difference += f"; {size} would have been detected with {_POWER} power"
        told = f"{subject}: no clear difference{where}: {first} before, {second} after ({difference}){gloss}."
    if line.chance is not None:
        stands = [_beside(score, line.chance) for score in (before, after)]
        told += f" Guessing would reach {amount(line.metric, line.chance)}: {stands[0]} it before, {stands[1]} it after."
    return told


def _as_it_is(results: Results, line: Line, subject: str, gloss: str) -> str:
    told = []
    for variant, score in line.scores.items():
        low, high = score.interval
        text = f"{amount(line.metric, score.mean)} ({_LEVEL} interval {number(low)} to {number(high)})"
        if line.chance is not None:
            text += f", {_beside(score, line.chance)} the {amount(line.metric, line.chance)} of guessing"
        told.append(f"{results.variants[variant].title}: {text}" if len(line.scores) > 1 else text)
    return f"{subject}: {'; '.join(told)}{gloss}."


def _beside(score: Score, chance: float) -> str:
    low, high = score.interval
    return "clearly above" if low > chance else "clearly below" if high < chance else "not clearly apart from"
