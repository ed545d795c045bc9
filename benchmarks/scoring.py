"""Rank classification side by side: lm-evaluation-harness and flanlab on the same requests, one run, one machine.

Both get the same texts (rows through flanlab's templates, every row through each) and the same weights in the same number type.
Each tokenizes for itself within the time measured. Each is a process of its own (scoring_sides.py), so its memory is its own,
and they take turns task by task, so that whatever else the machine does strikes both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from flanlab.data.choices import permutation
from flanlab.data.encoding import TextEncoder
from flanlab.data.mirror import mirror_from_environment
from flanlab.data.sources import load_rows
from flanlab.evaluation.planning import EvaluationSettings, Setup, plan_task
from flanlab.evaluation.questions import ask
from flanlab.models.answering import Model
from flanlab.models.built_in import SMOLLM2
from flanlab.models.loading import load_encoder
from flanlab.models.sources import base_source
from flanlab.progress import say
from flanlab.tasks.loading import load_collection, select_tasks
from flanlab.tasks.schema import Task

SEED = 0
LIBRARY_TASKS = (
    "hellaswag",
    "copa",
    "piqa",
    "story_cloze",
    "openbookqa",
    "arc.easy",
    "cosmos_qa",
    "winogrande",
    "rte",
    "trec",
    "ag_news",
    "boolq",
)
Question = tuple[str, tuple[str, ...]]
"""A prompt and its options, as text."""


def main() -> None:
    arguments = parse_arguments()
    mirror: Path | None = arguments.mirror or mirror_from_environment()
    folder = base_source(arguments.model)
    encoder = load_encoder(folder)
    asked = {
        task.name: make_questions(task, mirror, encoder, arguments.rows, arguments.templates)
        for task in chosen_tasks(mirror, arguments.tasks)
    }
    trial: dict[int, float] = {}
    if len(arguments.batch_sizes) > 1:
        trial = {size: try_batch_size(folder, arguments.dtype, asked, size) for size in arguments.batch_sizes}
        say("lm-eval, processor seconds by batch size: " + ", ".join(f"{size}: {time:.1f}" for size, time in trial.items()))
    batch_size = min(trial, key=lambda size: trial[size]) if trial else arguments.batch_sizes[0]
    dtype = arguments.dtype
    with side("harness", folder, dtype, batch_size) as harness, side("flanlab", folder, dtype) as flanlab:
        measured = measure(asked, harness, flanlab, arguments.rounds, arguments.with_end)
        result = {
            **totals(measured),
            **memory(harness, flanlab),
            "dtype": dtype,
            "batch_size": batch_size,
            "batch_size_trial": trial,
            "threads": {"harness": harness.facts["threads"], "flanlab": flanlab.facts["threads"]},
            "versions": {name: version(name) for name in ("flanlab", "lm-eval", "torch", "transformers")},
            "rows": "mirror" if mirror else "sampler",
            "tasks": [summary(name, turns) for name, turns in measured.items()],
        }
    if arguments.json:
        print(json.dumps(result))
    else:
        print_table(result)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="folder with Hub data sets (else FLANLAB_MIRROR, else the sampler)")
    parser.add_argument("--model", default=SMOLLM2, help="folder or Hub id of the model")
    parser.add_argument("--tasks", nargs="+", help="tasks of the library (of the sampler without a mirror); else twelve (all)")
    parser.add_argument("--rows", type=int, default=4, help="rows of each task")
    parser.add_argument("--templates", type=int, default=3, help="forward templates that each row is shown through")
    parser.add_argument("--rounds", type=int, default=2, help="how often the two take turns")
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[1],
        help="lm-eval's batch size (1 is its default); of several, the fastest",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="numbers of both sides")
    parser.add_argument("--with-end", action="store_true", help="also let lm-eval score every option with the end token")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser.parse_args()


def chosen_tasks(mirror: Path | None, names: Sequence[str] | None) -> list[Task]:
    if mirror:
        return select_tasks(load_collection("library"), names or LIBRARY_TASKS)
    tasks = load_collection("sampler")
    return select_tasks(tasks, names) if names else [task for task in tasks if task.options]


def make_questions(task: Task, mirror: Path | None, encoder: TextEncoder, rows: int, templates: int) -> list[Question]:
    """What an evaluation asks: the same rows through each of some forward templates."""
    settings = EvaluationSettings(rows=rows, generate=False)
    unit = plan_task(task, load_rows(task, "test", mirror), settings, SEED)
    forward = task.forward_templates()
    chosen = {forward[int(place)] for place in permutation(len(forward), (SEED, task.name, "benchmark"))[:templates]}
    pairs = [(row, template) for row, template in unit.pairs if template in chosen]
    # Of the model nothing but its encoder is needed here.
    setup = Setup(cast(Model, SimpleNamespace(encoder=encoder)), settings, SEED)
    examples = (ask(setup, unit, row, template).example for row, template in pairs)
    return [(example.prompt, example.options) for example in examples]


@dataclass
class Side:
    """A process that answers; see scoring_sides.py."""

    process: subprocess.Popen[str]
    facts: dict[str, Any] = field(default_factory=dict)
    peak_bytes: int = 0

    def ask(self, work: str, questions: Sequence[Question], end: str = "") -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"work": work, "questions": questions, "end": end}) + "\n")
        self.process.stdin.flush()
        answer = self.read()
        self.peak_bytes = answer["peak_bytes"]
        return answer

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("One of the sides has stopped; its message stands above.")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def side(name: str, folder: str, dtype: str, batch_size: int = 0) -> Iterator[Side]:
    """A side's process, its model loaded."""
    command = [sys.executable, str(Path(__file__).with_name("scoring_sides.py")), name, folder, dtype, str(batch_size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            started = Side(process)
            started.facts = started.read()
            yield started
        finally:
            assert process.stdin
            process.stdin.close()


def try_batch_size(folder: str, dtype: str, asked: dict[str, list[Question]], batch_size: int) -> float:
    """Processor seconds of lm-eval for a few questions of each task."""
    with side("harness", folder, dtype, batch_size) as harness:
        harness.ask("score", next(iter(asked.values()))[:1])
        return sum(float(harness.ask("score", questions[:6])["processor_seconds"]) for questions in asked.values())


@dataclass
class Turns:
    """What was measured of one task."""

    questions: list[Question]
    tokens: dict[str, list[tuple[list[int], list[list[int]]]]]
    """Each side's tokens of the questions."""
    separators: list[float]
    """Per question, what lm-eval's scores of its options have in common: the separator's log-probability."""
    times: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Per side ("harness_with_end" being lm-eval's second task), seconds on the clock and of the processor, by rounds."""
    scores: dict[str, list[list[float]]] = field(default_factory=dict)


def measure(asked: dict[str, list[Question]], harness: Side, flanlab: Side, rounds: int, with_end: bool) -> dict[str, Turns]:
    sides = {"harness": harness, "flanlab": flanlab}
    ends = {"harness": "", "flanlab": ""} | ({"harness_with_end": str(flanlab.facts["end"])} if with_end else {})
    measured: dict[str, Turns] = {}
    for name, questions in asked.items():
        tokens = {who: one.ask("encode", questions)["found"] for who, one in sides.items()}
        alone = harness.ask("score", [(prompt, ("",)) for prompt, _ in questions])["found"]
        measured[name] = Turns(questions, tokens, [score for [score] in alone])
    for one in sides.values():  # once, so that nothing is measured that happens only once
        one.ask("score", next(iter(asked.values()))[:2])
    for number in range(rounds):
        for name, turns in measured.items():
            for turn, end in list(ends.items())[:: -1 if number % 2 else 1]:
                answer = sides[turn.removesuffix("_with_end")].ask("score", turns.questions, end)
                times = turns.times.setdefault(turn, {"seconds": [], "processor_seconds": []})
                for kind, found in times.items():
                    found.append(answer[kind])
                if turn == "flanlab":
                    turns.scores["flanlab_with_end"] = [scores for scores, _ in answer["found"]]
                    turns.scores["flanlab"] = [scores for _, scores in answer["found"]]
                else:
                    turns.scores[turn] = [
                        [score - separator for score in scores]
                        for scores, separator in zip(answer["found"], turns.separators, strict=True)
                    ]
            spent = (
                f"{turn} {times['seconds'][-1]:.1f} s (processor {times['processor_seconds'][-1]:.2f} s)"
                for turn, times in turns.times.items()
            )
            say(f"round {number + 1}, {name}: {', '.join(spent)}")
    return measured


def same_tokens(turns: Turns) -> list[bool]:
    """Per question, whether the two read the same tokens.

    lm-eval counts white space at the end of a context to the answer, so what it scores begins with the separator:

        flanlab    p p p sep | a0 a1 </s>
        lm-eval    p p p | sep a0 a1
    """

    def texts(prompt: list[int], answers: list[list[int]], ended: bool) -> list[list[int]]:
        return [prompt + (answer[:-1] if ended else answer) for answer in answers]

    both = zip(turns.tokens["flanlab"], turns.tokens["harness"], strict=True)
    return [texts(*own, ended=True) == texts(*other, ended=False) for own, other in both]


def summary(name: str, turns: Turns) -> dict[str, Any]:
    """A task's times, their ratios, and how far the scores differ where the tokens are the same."""
    same = same_tokens(turns)
    lengths = [[len(answer) - 1 for answer in answers] for _, answers in turns.tokens["flanlab"]]
    result: dict[str, Any] = {
        "task": name,
        "questions": len(turns.questions),
        "one_token_questions": sum(max(options) == 1 for options in lengths),
        "options": sum(map(len, lengths)),
        "other_tokens": same.count(False),
        **{kind: {turn: [round(value, 3) for value in times[kind]] for turn, times in turns.times.items()} for kind in KINDS},
        "questions_per_second": {
            turn: len(turns.questions) * len(times["seconds"]) / sum(times["seconds"]) for turn, times in turns.times.items()
        },
        **ratios([turns]),
    }
    for turn in turns.times.keys() - {"flanlab"}:
        suffix = turn.removeprefix("harness")
        both = zip(turns.scores[turn], turns.scores["flanlab" + suffix], same, strict=True)
        pairs = [(theirs, own) for theirs, own, equal in both if equal]
        differences = (abs(a - b) for theirs, own in pairs for a, b in zip(theirs, own, strict=True))
        result["largest_difference" + suffix] = max(differences, default=0.0)
        result["same_answers" + suffix] = sum(best(theirs) == best(own) for theirs, own in pairs)
    return result


KINDS = ("seconds", "processor_seconds")


def best(scores: list[float]) -> int:
    return scores.index(max(scores))


def ratios(measured: Sequence[Turns]) -> dict[str, float]:
    """How many times as long lm-eval takes, over all rounds of the tasks."""
    found = {}
    for turn in measured[0].times.keys() - {"flanlab"}:
        for kind, prefix in zip(KINDS, ("", "processor_"), strict=True):
            spent = {who: sum(chain.from_iterable(one.times[who][kind] for one in measured)) for who in (turn, "flanlab")}
            found[prefix + "ratio" + turn.removeprefix("harness")] = spent[turn] / spent["flanlab"]
    return found


def totals(measured: dict[str, Turns]) -> dict[str, Any]:
    turns = list(measured.values())
    seconds = {
        kind: {turn: sum(chain.from_iterable(one.times[turn][kind] for one in turns)) for turn in turns[0].times}
        for kind in KINDS
    }
    return {**ratios(turns), **seconds, "questions": sum(len(one.questions) for one in turns)}


def memory(harness: Side, flanlab: Side) -> dict[str, Any]:
    """Peak memory of each, whole and beyond what is resident once the model has answered a short question.

    The ratios are flanlab's as a share of lm-eval's.
    """
    peaks = {"harness": harness.peak_bytes, "flanlab": flanlab.peak_bytes}
    found: dict[str, Any] = {"peak_bytes": peaks, "memory_ratio": peaks["flanlab"] / peaks["harness"]}
    if harness.facts["resident_bytes"] and flanlab.facts["resident_bytes"]:
        beyond = {"harness": harness.peak_bytes - harness.facts["resident_bytes"]}
        beyond["flanlab"] = flanlab.peak_bytes - flanlab.facts["resident_bytes"]
        found["bytes_beyond_loaded"] = beyond
        found["memory_ratio_beyond_loaded"] = beyond["flanlab"] / beyond["harness"]
    return found


def print_table(result: dict[str, Any]) -> None:
    print(
        f"lm-eval {result['versions']['lm-eval']}, batch size {result['batch_size']}, {result['dtype']}, "
        f"torch {result['versions']['torch']}, threads {result['threads']}, rows of the {result['rows']}"
    )
    print(
        f"{'':14}{'questions':>10}{'one-token':>10}{'options':>9}{'other tokens':>13}{'lm-eval q/s':>13}{'flanlab q/s':>13}"
        f"{'ratio':>7}{'cpu ratio':>10}{'largest diff':>14}{'same answer':>13}"
    )
    for task in result["tasks"]:
        for suffix, title in (("", task["task"]), ("_with_end", "  with end")):
            if "ratio" + suffix not in task:
                continue
            rate = task["questions_per_second"]
            print(
                f"{title:14}{task['questions']:>10}{task['one_token_questions']:>10}{task['options']:>9}{task['other_tokens']:>13}"
                f"{rate['harness' + suffix]:>13.2f}{rate['flanlab']:>13.2f}{task['ratio' + suffix]:>7.2f}"
                f"{task['processor_ratio' + suffix]:>10.2f}{task['largest_difference' + suffix]:>14.1e}"
                f"{task['same_answers' + suffix]:>9}/{task['questions'] - task['other_tokens']}"
            )
    for suffix, title in (("", "total"), ("_with_end", "total, with end")):
        if "ratio" + suffix in result:
            print(
                f"{title:16} {result['questions']} questions: ratio {result['ratio' + suffix]:.2f}, of processor time "
                f"{result['processor_ratio' + suffix]:.2f}"
            )
    peaks = {name: f"{size / 1e9:.2f} GB" for name, size in result["peak_bytes"].items()}
    print(f"peak memory {peaks}, ratio {result['memory_ratio']:.2f}", end="")
    if beyond := result.get("bytes_beyond_loaded"):
        sizes = {name: f"{size / 1e9:.2f} GB" for name, size in beyond.items()}
        print(f"; beyond the loaded model {sizes}, ratio {result['memory_ratio_beyond_loaded']:.2f}", end="")
    print()


if __name__ == "__main__":
    main()
