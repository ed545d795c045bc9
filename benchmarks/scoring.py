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
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM

from flanlab.data.encoding import ANSWER_SEPARATOR
from flanlab.data.mixture import option_order
from flanlab.data.rendering import option_count, prepare_row, render
from flanlab.data.sources import load_rows, mirror_from_environment
from flanlab.evaluation.predict import EvaluationSettings, plan_task
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
    Group("four options of several tokens", ("hellaswag", "openbookqa", "arc_easy"), ("general_knowledge",)),
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


Result = TypeVar("Result")
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
    parser.add_argument("--questions", type=int, default=24, help="questions of each group")
    parser.add_argument("--rounds", type=int, default=2, help="how often the two take turns")
    parser.add_argument("--batch-size", type=int, default=16, help="lm-eval's batch size")
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
    tasks = select_tasks(*((load_collection("library"), group.library) if mirror else (load_collection("sampler"), group.sampler)))
    settings = EvaluationSettings(rows=10 * count, templates_per_row=1)
    requests = []
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


def measure(
    group: Group, requests: Sequence[Request], loaded: LoadedModel, harness: Any, rounds: int
) -> dict[str, Any]:
    """Seconds of each, the ratios, and how far the scores differ."""
    end = str(loaded.encoder.tokenizer.eos_token)
    check_same_tokens(requests, loaded, harness, end)
    seconds: dict[str, list[float]] = {"harness": [], "flanlab": [], "harness_with_end": []}
    for number in range(rounds):
        plain, spent = timed(lambda: score_with_harness(harness, requests))
        seconds["harness"].append(spent)
        (ours_with_end, ours), spent = timed(lambda: score_with_flanlab(loaded, requests))
        seconds["flanlab"].append(spent)
        with_end, spent = timed(lambda: score_with_harness(harness, requests, end))
        seconds["harness_with_end"].append(spent)
        say(f"{group.name}, round {number + 1}: " + ", ".join(f"{name} {times[-1]:.1f} s" for name, times in seconds.items()))
    own = sum(seconds["flanlab"])
    return {
        "group": group.name,
        "questions": len(requests),
        "options": sum(len(request.options) for request in requests),
        "seconds": {name: [round(value, 3) for value in times] for name, times in seconds.items()},
        "questions_per_second": {name: rounds * len(requests) / sum(times) for name, times in seconds.items()},
        "ratio": sum(seconds["harness"]) / own,
        "ratio_with_end": sum(seconds["harness_with_end"]) / own,
        "largest_difference": largest_difference(plain, ours),
        "largest_difference_with_end": largest_difference(with_end, ours_with_end),
        "same_predictions": same_predictions(plain, ours),
        "same_predictions_with_end": same_predictions(with_end, ours_with_end),
    }


def check_same_tokens(requests: Sequence[Request], loaded: LoadedModel, harness: Any, end: str) -> None:
    """Stop where the two would score different tokens: their scores could then not be compared."""
    for request in requests:
        own = loaded.encoder.encode(request.prompt, request.options)
        for option, answer in zip(request.options, own.answers, strict=True):
            context = request.prompt + ANSWER_SEPARATOR
            if harness._encode_pair(context, option) != (own.prompt, answer[:-1]):
                raise SystemExit(f"lm-eval and flanlab cut {option!r} into other tokens; use another model.")
            if harness._encode_pair(context, option + end) != (own.prompt, answer):
                raise SystemExit(f"lm-eval does not read {end!r} as the end token; use another model.")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def largest_difference(first: Scores, second: Scores) -> float:
    return max(abs(a - b) for left, right in zip(first, second, strict=True) for a, b in zip(left, right, strict=True))


def same_predictions(first: Scores, second: Scores) -> int:
    """Questions where both hold the same option most likely."""
    return sum(a.index(max(a)) == b.index(max(b)) for a, b in zip(first, second, strict=True))


def print_table(results: Sequence[dict[str, Any]]) -> None:
    print(
        f"{'':31}{'questions':>10}{'options':>9}{'lm-eval s':>11}{'flanlab s':>11}{'lm-eval q/s':>13}{'flanlab q/s':>13}"
        f"{'ratio':>8}{'largest diff':>14}{'same answer':>13}"
    )
    for result in results:
        for name, title in (("", result["group"]), ("_with_end", "  with end token")):
            rate = result["questions_per_second"]
            times = result["seconds"]
            print(
                f"{title:31}{result['questions']:>10}{result['options']:>9}"
                f"{sum(times['harness' + name]):>11.1f}{sum(times['flanlab']):>11.1f}"
                f"{rate['harness' + name]:>13.2f}{rate['flanlab']:>13.2f}{result['ratio' + name]:>8.2f}"
                f"{result['largest_difference' + name]:>14.1e}"
                f"{result['same_predictions' + name]:>10}/{result['questions']}"
            )


if __name__ == "__main__":
    main()
