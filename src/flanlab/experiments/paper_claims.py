"""The paper's nine claims, written down before a run: which cells are compared, and from which size on an effect counts.

Each claim is made of parts; a part is a weighted sum of cells of one ablation (`flanlab.experiments.claims` tests them).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Weights = Mapping[str, float]
"""Name of a cell to its weight."""


class Part(NamedTuple):
    """One comparison: the weighted sums of cells that it is the mean of, each over tasks of its own."""

    title: str
    sums: Sequence[Weights]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the test of it."""

    name: str
    statement: str
    section: str
    comparison: str
    smallest: float
    """The smallest effect that counts; of a claim that something matters little the margin. 0 to 1."""
    why: str
    """Why it is as large as that, from what the paper reports."""
    ablations: Sequence[str]
    """Where its cells come from: the first of these that has them all."""
    parts: Callable[[Collection[str]], Sequence[Part]]
    """From the names of an ablation's cells; empty where they lack some that the claim needs."""
    kind: Literal["gain", "little"] = "gain"
    statistic: Literal["mean", "spread"] = "mean"
    also: Callable[[Collection[str]], Sequence[Part]] = lambda names: ()
    """What is reported beside it, without a verdict."""


def _minus(title: str, after: str, before: str) -> Part:
    return Part(title, [{before: -1, after: 1}])


def _numbered(names: Collection[str], pattern: str) -> dict[int, str]:
    return {int(found[1]): name for name in names if (found := re.fullmatch(pattern, name))}


def _gain(names: Collection[str]) -> list[Part]:
    pairs: list[Weights] = [{f"un{name}": -1, name: 1} for name in names if name.startswith("tuned-") and f"un{name}" in names]
    if not pairs and {"untuned", "full-full"} <= set(names):
        pairs = [{"untuned": -1, "full-full": 1}]
    return [Part("tuned minus untuned", pairs)] if pairs else []


def _clusters(names: Collection[str]) -> list[Part]:
    """The rise of the least-squares line from the lowest number to the highest; empty for fewer than two numbers."""
    cells = _numbered(names, r"clusters-(\d+)")
    if len(cells) < 2:
        return []
    numbers = np.array(sorted(cells), float)
    centred = numbers - numbers.mean()
    weights = centred / (centred**2).sum() * (numbers[-1] - numbers[0])
    sums = {cells[int(number)]: float(weight) for number, weight in zip(numbers, weights, strict=True) if weight}
    return [Part("rise from fewest to most training clusters", [sums])]


def _grid(names: Collection[str]) -> dict[tuple[int, int], str]:
    """Cells by numbers of tasks and of templates; nothing unless the grid is whole and has two of each."""
    found = {name: re.fullmatch(r"tasks-(\d+)-templates-(\d+)", name) for name in names}
    grid = {(int(match[1]), int(match[2])): name for name, match in found.items() if match}
    counts = [len({place[axis] for place in grid}) for axis in (0, 1)]
    return grid if len(grid) == counts[0] * counts[1] and min(counts) > 1 else {}


def _ends(grid: Mapping[tuple[int, int], str], axis: int) -> tuple[int, int]:
    numbers = [place[axis] for place in grid]
    return min(numbers), max(numbers)


def _most_minus_fewest(names: Collection[str], axis: int, title: str) -> list[Part]:
    """Of tasks (axis 0) or templates (1), as the mean over the other."""
    grid = _grid(names)
    if not grid:
        return []
    ends = _ends(grid, axis)
    compared = {name: ends.index(place[axis]) for place, name in grid.items() if place[axis] in ends}
    weights = {name: (1 if is_most else -1) * 2 / len(compared) for name, is_most in compared.items()}
    return [Part(title.format(fewest=ends[0], most=ends[1]), [weights])]


def _interaction(names: Collection[str]) -> list[Part]:
    grid = _grid(names)
    if not grid:
        return []
    tasks, templates = _ends(grid, 0), _ends(grid, 1)
    weights = {grid[tasks[one], templates[other]]: 1 if one == other else -1 for one in (0, 1) for other in (0, 1)}
    return [Part("interaction: what templates bring with most tasks, minus with fewest", [weights])]


def _scale(names: Collection[str]) -> list[Part]:
    sizes = sorted(_numbered(names, r"tuned-held-out-(\d+)"))
    if len(sizes) < 2:
        return []
    small, large = sizes[0], sizes[-1]
    return [
        _minus("smallest model: loss by tuning", f"untuned-held-out-{small}", f"tuned-held-out-{small}"),
        _minus("largest model: gain by tuning", f"tuned-held-out-{large}", f"untuned-held-out-{large}"),
    ]


def _instructions(names: Collection[str]) -> list[Part]:
    others = {"none-full": "bare inputs", "name-full": "task names"}
    if not {"full-full", *others} <= set(names):
        return []
    return [_minus(f"trained with instructions minus with {told}", "full-full", name) for name, told in others.items()]


def _shots(names: Collection[str]) -> list[tuple[str, str]]:
    """The cells without exemplars, and with most in training and before the question; none where one is lacking."""
    most = max(_numbered(names, r"tuned-with-exemplars-(\d+)-shot"), default=0)
    return [("tuned-0-shot", f"tuned-with-exemplars-{most}-shot")] if most and "tuned-0-shot" in names else []


def _prompts(names: Collection[str]) -> list[Part]:
    rows = {match[1] for name in names if (match := re.fullmatch(r"tuned-(\d+|full)-.+", name))}
    if not rows:
        return []
    # With the fewest rows, where the paper finds most.
    fewest = min(rows - {"full"}, key=int, default="full")
    pairs: list[Weights] = [
        {f"un{name}": -1, name: 1} for name in names if name.startswith(f"tuned-{fewest}-") and f"un{name}" in names
    ]
    return [Part("prompt on the tuned minus on the untuned model", pairs)] if pairs else []


CLAIMS = (
    Claim(
        "held-out gain",
        "Instruction tuning raises zero-shot scores on kinds of task that it did not train on.",
        "4, figure 5",
        "tuned minus untuned, each by its best prompt",
        0.02,
        "half of the smallest of FLAN's three gains over zero-shot GPT-3 in figure 1 (3.9; the others are 13.3 and 13.7)",
        ("holdouts", "instructions"),
        _gain,
    ),
    Claim(
        "more clusters",
        "Held-out scores rise with the number of training clusters.",
        "4.1, figure 6",
        "rise of the line through all numbers of clusters",
        0.02,
        "in figure 6 the mean rises by 13.6 from one cluster to seven, which is 2.3 for each cluster added",
        ("figure-6", "clusters"),
        _clusters,
    ),
    Claim(
        "more data sets",
        "Held-out scores rise with the number of data sets in each training cluster.",
        "B.1, figure 11",
        "most minus fewest tasks of each cluster",
        0.02,
        "a fifth of the rise from 1 to 4 data sets, which the paper calls almost 10",
        ("tasks-by-templates",),
        lambda names: _most_minus_fewest(names, 0, "{most} minus {fewest} tasks of each cluster, mean over templates"),
    ),
    Claim(
        "scale",
        "Tuning raises held-out scores of large models and lowers those of small ones.",
        "4.2, figure 7",
        "untuned minus tuned for the smallest model, and tuned minus untuned for the largest",
        0.01,
        "figure 7 has no numbers; half of what counts elsewhere, because the claim needs two effects at once",
        ("scale",),
        _scale,
    ),
    Claim(
        "instructions matter",
        "Training with instructions raises held-out scores more than training on the same tasks without.",
        "4.3, figure 8",
        "trained with instructions minus bare inputs, and minus task names, all asked with instructions",
        0.02,
        "a quarter of the smaller of the two differences in the paper's table 3 (55.2 against 46.6 and 37.3)",
        ("instructions",),
        _instructions,
    ),
    Claim(
        "few-shot adds",
        "Exemplars in training and before the question raise the scores of a tuned model.",
        "4.4, figure 9",
        "trained and asked with exemplars minus trained and asked without",
        0.01,
        "figure 9 has no numbers; of 14 data sets quoted in both ways, the median gains 0.75 and none more than 1.7",
        ("few-shot",),
        lambda names: [_minus("with exemplars minus without", most, none) for none, most in _shots(names)],
    ),
    Claim(
        "few-shot shrinks the spread",
        "With exemplars, scores vary less over templates.",
        "4.4, figure 9",
        "standard deviation over templates, without exemplars minus with",
        0.005,
        "the paper gives no numbers; half of what counts for the mean",
        ("few-shot",),
        lambda names: [
            _minus("spread over templates without exemplars minus with", none, most) for none, most in _shots(names)
        ],
        statistic="spread",
    ),
    Claim(
        "prompt tuning",
        "A tuned model is a better start for continuous prompts than an untuned one.",
        "4.5, figure 10",
        "prompt learned on the tuned model minus on the untuned one, from the fewest rows",
        0.02,
        "a fifth of what the paper finds often with 32 rows, more than 10",
        ("prompt-tuning",),
        _prompts,
    ),
    Claim(
        "templates matter little",
        "The number of templates of each training task hardly changes held-out scores.",
        "B.1, figure 11",
        "most minus fewest templates, within the margin on either side of zero",
        0.02,
        "what more data sets must bring at least",
        ("tasks-by-templates",),
        lambda names: _most_minus_fewest(names, 1, "{most} minus {fewest} templates, mean over tasks"),
        kind="little",
        also=_interaction,
    ),
)
