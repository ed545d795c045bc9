"""Rows of the DeepMind mathematics set (Saxton et al. 2019), made by its package `mathematics_dataset`.

The released files are a sample of what the package generates. These rows are other draws from the same distributions.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flanlab.errors import FlanlabError
from flanlab.progress import Meter, meter

TRAIN_ROWS = 30_300
"""A third easy, a third medium, a third hard, in turns: FLAN's 30,000 rows and some for dev."""
TEST_ROWS = 10_000
_LONGEST_QUESTION, _LONGEST_ANSWER = 160, 30
"""Characters: the released set leaves out longer ones (Saxton et al. 2019, section 2.2)."""


def generate(config: str | None) -> dict[str, pa.Table]:
    """Columns `question` and `answer` of one module, such as algebra__linear_1d.

    Args:
        config: name of the module as the released files have it, with two underscores after the area.

    Returns:
        train, and test: the paper's interpolation test, without questions that are in train.

    Raises:
        FlanlabError: the package is missing, or there is no such module.
    """
    train_modules = [_module(config, level) for level in ("easy", "medium", "hard")]
    with meter(f"Generating {config}", TRAIN_ROWS + TEST_ROWS) as bar:
        train = _sample(train_modules, TRAIN_ROWS, frozenset(), 0, bar)
        test = _sample([_module(config, "test")], TEST_ROWS, frozenset(question for question, _ in train), 1, bar)
    return {
        split: pa.table([*zip(*pairs, strict=True)], ["question", "answer"])
        for split, pairs in (("train", train), ("test", test))
    }


def _sample(
    modules: Sequence[Callable[[], Any]], count: int, known: frozenset[str], seed: int, bar: Meter
) -> list[tuple[str, str]]:
    """Draw pairs from the modules in turns, no question twice. The package uses Python's global random generators."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    seen = set(known)
    pairs: list[tuple[str, str]] = []
    try:
        while len(pairs) < count:
            problem = modules[len(pairs) % len(modules)]()
            question, answer = str(problem.question), str(problem.answer)
            if question not in seen and len(question) <= _LONGEST_QUESTION and len(answer) <= _LONGEST_ANSWER:
                seen.add(question)
                pairs.append((question, answer))
                bar.advance()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return pairs


def _module(config: str | None, level: str) -> Callable[[], Any]:
    try:
        _mend_sympy()
        from mathematics_dataset.modules import modules
    except ImportError as error:
        raise FlanlabError(
            f"The package mathematics_dataset, which makes these rows, cannot be used: {error}.",
            hint='Install it with: pip install "flanlab[mathematics]".',
        ) from error
    found: Any = modules.test() if level == "test" else modules.train(_entropy_range(level))
    for name in (config or "").split("__"):
        found = found.get(name) if isinstance(found, dict) else None
    if not callable(found):
        raise FlanlabError(
            f"The mathematics set has no module `{config}`.", hint="Write source.config as area__module: algebra__linear_1d."
        )
    make: Callable[[], Any] = found
    return make


def _mend_sympy() -> None:
    """Restore a function in the place where sympy had it until version 1.5. The package still imports it from there."""
    package: Any = importlib.import_module("sympy.solvers.diophantine")
    module: Any = importlib.import_module("sympy.solvers.diophantine.diophantine")
    package.base_solution_linear = module.base_solution_linear


def _entropy_range(level: str) -> Callable[[tuple[float, float]], tuple[float, float]]:
    """Easy, medium and hard are the lower, middle and upper third of a module's range of entropy."""
    third = ("easy", "medium", "hard").index(level)

    def narrowed(whole: tuple[float, float]) -> tuple[float, float]:
        width = whole[1] - whole[0]
        return whole[0] + width * third / 3, whole[0] + width * (third + 1) / 3

    return narrowed
