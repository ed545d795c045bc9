"""Rank classification side by side: lm-evaluation-harness and flanlab on the same requests, one run, one machine.

Both get the same texts (rows through flanlab's templates) and the same weights in float32, and each tokenizes for itself
within the time measured. They take turns, so that whatever else the machine does strikes both.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from flanlab.data.encoding import ANSWER_SEPARATOR
from flanlab.data.mixture import option_order
from flanlab.data.rendering import option_count, prepare_row, render
from flanlab.data.sources import load_rows, mirror_from_environment
from flanlab.evaluation.planning import EvaluationSettings, plan_task
from flanlab.models.embedded import EMBEDDED_MODEL, embedded_model_folder
from flanlab.models.loading import LoadedModel, load_model
from flanlab.models.scoring import Question, answer_questions
from flanlab.progress import say
from flanlab.tasks.loading import load_collection, select_tasks

SEED = 0
LONGEST_PROMPT = 1024


@dataclass(frozen=True)
class Group:
    """Questions of one kind, from the library where a mirror is at hand, else from the sampler."""

    name: str
    library: tuple[str, ...]
    sampler: tuple[str, ...]
    one_token: bool = False
    """Keep only questions whose options are all one token long, and leave such questions out otherwise."""


GROUPS = (
    Group("four options of several tokens", ("hellaswag", "openbookqa", "arc.easy"), ("general_knowledge",)),
    Group(
        "two options of several tokens",
        ("copa", "piqa", "story_cloze"),
        ("everyday_goals", "what_happens_next", "who_is_meant"),
    ),
    Group("one-token options", ("boolq", "rte", "mrpc"), ("passage_yes_no", "same_meaning", "product_reviews"), True),
)


@dataclass(frozen=True)
class Request:
    """One question as text."""

    prompt: str
    options: tuple[str, ...]


Scores = list[list[float]]
"""Per question, the log-probability of each option."""


def main() -> None:
    arguments = parse_arguments()
    model_name: str = arguments.model
    loaded = load_model(model_name, device="cpu", say=say)
    harness = load_harness(model_name, loaded, arguments.batch_size)
    mirror: Path | None = arguments.mirror or mirror_from_environment()
    groups = [(group, make_requests(group, loaded, mirror, arguments.questions)) for group in GROUPS]
    say(
        f"lm-eval {version('lm-eval')} (batch size {arguments.batch_size}), torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {'rows of the mirror' if mirror else 'rows of the sampler'}"
    )
    warm_up(loaded, harness, groups[0][1])
    results = [measure(group, requests, loaded, harness, arguments.rounds) for group, requests in groups]
    if arguments.json:
        print(json.dumps({"threads": torch.get_num_threads(), "batch_size": arguments.batch_size, "groups": results}))
    else:
        print_table(results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="folder with Hub data sets (else FLANLAB_MIRROR, else the sampler)")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="folder or Hub id of the model")
    parser.add_argument("--questions", type=int, default=12, help="questions of each group")
    parser.add_argument("--rounds", type=int, default=2, help="how often the two take turns")
    parser.add_argument("--batch-size", type=int, default=1, help="lm-eval's batch size (1 is its default)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser.parse_args()


def load_harness(model_name: str, loaded: LoadedModel, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    source = embedded_model_folder() if model_name == EMBEDDED_MODEL else model_name
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="sdpa").eval()
    return HFLM(pretrained=model, tokenizer=loaded.encoder.tokenizer, batch_size=batch_size)


def make_requests(group: Group, loaded: LoadedModel, mirror: Path | None, count: int) -> list[Request]:
    """The same number of questions of each task, templates taking turns."""
    collection, names = ("library", group.library) if mirror else ("sampler", group.sampler)
    tasks = select_tasks(load_collection(collection), names)
    settings = EvaluationSettings(rows=10 * count, templates_per_row=1)
    requests: list[Request] = []
    for number, task in enumerate(tasks):
        wanted = (count - len(requests)) // (len(tasks) - number)
        unit = plan_task(task, load_rows(task, "test", mirror), settings, SEED)
        found: list[Request] = []
        for row_index, template in unit.pairs:
            row = prepare_row(task, unit.rows[row_index], row_index)
            order = option_order("shuffled", option_count(task, row), (SEED, task.name, row_index))
            example = render(task, template, row, order)
            request = Request(example.prompt, example.options)
            if len(found) < wanted and _fits(group, request, loaded):
                found.append(request)
        requests += found
    return requests


def _fits(group: Group, request: Request, loaded: LoadedModel) -> bool:
    tokenizer = loaded.encoder.tokenizer
    lengths = [len(ids) for ids in tokenizer([request.prompt, *request.options], add_special_tokens=False)["input_ids"]]
    all_one = all(length == 1 for length in lengths[1:])
    return lengths[0] <= LONGEST_PROMPT and all_one == group.one_token


def warm_up(loaded: LoadedModel, harness: Any, requests: Sequence[Request]) -> None:
    score_with_flanlab(loaded, requests[:2])
    score_with_harness(harness, requests[:2])


def score_with_flanlab(loaded: LoadedModel, requests: Sequence[Request]) -> tuple[Scores, Scores]:
    """Scores with and without the end token, from one pass."""
    encoded = [loaded.encoder.encode(request.prompt, request.options) for request in requests]
    answers = dict(answer_questions(loaded.model, [Question(one.prompt, one.answers) for one in encoded]))
    ordered = [answers[position] for position in range(len(requests))]
    return [answer.scores for answer in ordered], [answer.scores_without_end for answer in ordered]


def score_with_harness(harness: Any, requests: Sequence[Request], end: str = "") -> Scores:
    """lm-eval's log-likelihoods; `end` is appended to every option."""
    from lm_eval.api.instance import Instance

    instances = [
        Instance("loglikelihood", {}, (request.prompt + ANSWER_SEPARATOR, option + end), position)
        for position, request in enumerate(requests)
        for option in request.options
    ]
    scores = iter(harness.loglikelihood(instances, disable_tqdm=True))
    return [[float(next(scores)[0]) for _ in request.options] for request in requests]


def measure(group: Group, requests: Sequence[Request], loaded: LoadedModel, harness: Any, rounds: int) -> dict[str, Any]:
    """Seconds of each, the ratios, and how far the scores differ."""
    end = str(loaded.encoder.tokenizer.eos_token)
    check_same_tokens(requests, loaded, harness, end)
    separators = score_separators(harness, requests)
    turns: dict[str, Callable[[], list[Scores]]] = {
        "harness": lambda: [score_with_harness(harness, requests)],
        "flanlab": lambda: list(score_with_flanlab(loaded, requests)),
        "harness_with_end": lambda: [score_with_harness(harness, requests, end)],
    }
    scores: dict[str, list[Scores]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    processor: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name, work in turns.items():
            if number and name == "harness_with_end":
                continue  # Beside the main comparison, and the longest of the three: once is enough.
            started, processor_started = time.perf_counter(), time.process_time()
            scores[name] = work()
            processor[name].append(time.process_time() - processor_started)
            seconds[name].append(time.perf_counter() - started)
        say(
            f"{group.name}, round {number + 1}: "
            + ", ".join(f"{name} {times[-1]:.1f} s (processor {processor[name][-1]:.1f} s)" for name, times in seconds.items())
        )
    result: dict[str, Any] = {
        "group": group.name,
        "questions": len(requests),
        "options": sum(len(request.options) for request in requests),
        "seconds": rounded(seconds),
        "processor_seconds": rounded(processor),
        "questions_per_second": {name: len(requests) / mean(times) for name, times in seconds.items()},
    }
    ours_with_end, ours = scores["flanlab"]
    for suffix, own in (("", ours), ("_with_end", ours_with_end)):
        theirs = without_separators(scores["harness" + suffix][0], separators)
        result["ratio" + suffix] = mean(seconds["harness" + suffix]) / mean(seconds["flanlab"])
        result["processor_ratio" + suffix] = mean(processor["harness" + suffix]) / mean(processor["flanlab"])
        result["largest_difference" + suffix] = largest_difference(theirs, own)
        result["same_predictions" + suffix] = same_predictions(theirs, own)
    return result


def rounded(times: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [round(value, 3) for value in values] for name, values in times.items()}


def check_same_tokens(requests: Sequence[Request], loaded: LoadedModel, harness: Any, end: str) -> None:
    """Stop where the two would read different tokens: their scores could then not be compared.

    lm-eval counts white space at the end of a context to the answer, so what it scores begins with the separator:

        flanlab    p p p sep | a0 a1
        lm-eval    p p p | sep a0 a1
    """
    for request in requests:
        own = loaded.encoder.encode(request.prompt, request.options)
        context = request.prompt + ANSWER_SEPARATOR
        before, separator = harness._encode_pair(context, "")
        if before + separator != own.prompt:
            raise SystemExit("lm-eval and flanlab cut a prompt into other tokens; use another model.")
        for option, answer in zip(request.options, own.answers, strict=True):
            if harness._encode_pair(context, option) != (before, separator + answer[:-1]):
                raise SystemExit(f"lm-eval and flanlab cut {option!r} into other tokens; use another model.")
            if harness._encode_pair(context, option + end) != (before, separator + answer):
                raise SystemExit(f"lm-eval does not read {end!r} as the end token; use another model.")


def score_separators(harness: Any, requests: Sequence[Request]) -> Scores:
    """What lm-eval's scores of each question's options have in common: the separator's log-probability."""
    return score_with_harness(harness, [Request(request.prompt, ("",)) for request in requests])


def without_separators(scores: Scores, separators: Scores) -> Scores:
    return [[score - separator for score in row] for row, [separator] in zip(scores, separators, strict=True)]


def largest_difference(first: Scores, second: Scores) -> float:
    return max(abs(a - b) for left, right in zip(first, second, strict=True) for a, b in zip(left, right, strict=True))


def same_predictions(first: Scores, second: Scores) -> int:
    """Questions where both hold the same option most likely."""
    return sum(a.index(max(a)) == b.index(max(b)) for a, b in zip(first, second, strict=True))


def print_table(results: Sequence[dict[str, Any]]) -> None:
    print(
        f"{'':31}{'questions':>10}{'options':>9}{'lm-eval s':>11}{'flanlab s':>11}{'lm-eval q/s':>13}{'flanlab q/s':>13}"
        f"{'ratio':>8}{'cpu ratio':>11}{'largest diff':>14}{'same answer':>13}"
    )
    for result in results:
        for name, title in (("", result["group"]), ("_with_end", "  with end token")):
            rate = result["questions_per_second"]
            times = result["seconds"]
            print(
                f"{title:31}{result['questions']:>10}{result['options']:>9}"
                f"{mean(times['harness' + name]):>11.1f}{mean(times['flanlab']):>11.1f}"
                f"{rate['harness' + name]:>13.2f}{rate['flanlab']:>13.2f}{result['ratio' + name]:>8.2f}"
                f"{result['processor_ratio' + name]:>11.2f}"
                f"{result['largest_difference' + name]:>14.1e}"
                f"{result['same_predictions' + name]:>10}/{result['questions']}"
            )


if __name__ == "__main__":
    main()
