"""bfloat16 beside float32: the same questions scored in both, and how far scores and chosen answers differ.

Scores are exactly those of an evaluation, with end tokens. On a CPU without instructions for bfloat16 it is many times slower:
take few questions there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from scoring import Question, chosen_tasks, make_questions

from flanlab.data.mirror import mirror_from_environment
from flanlab.models import answering
from flanlab.models.built_in import SMOLLM2
from flanlab.models.loading import LoadedModel, load_model


def main() -> None:
    arguments = parse_arguments()
    mirror: Path | None = arguments.mirror or mirror_from_environment()
    # On a GPU it would be loaded rounded.
    loaded = load_model(arguments.model, device="cpu")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    tasks = chosen_tasks(mirror, arguments.tasks)
    asked = {task.name: make_questions(task, mirror, loaded.encoder, arguments.rows, arguments.templates) for task in tasks}
    scores: dict[torch.dtype, dict[str, list[list[float]]]] = {}
    seconds: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        model: torch.nn.Module = loaded.model
        model.to(device, dtype)
        started = time.perf_counter()
        scores[dtype] = {name: score(loaded, questions) for name, questions in asked.items()}
        seconds[dtype] = time.perf_counter() - started
    result = {
        "device": str(loaded.model.device),
        "rows": "mirror" if mirror else "sampler",
        "seconds": {"float32": seconds[torch.float32], "bfloat16": seconds[torch.bfloat16]},
        "tasks": {name: compared(scores[torch.float32][name], scores[torch.bfloat16][name]) for name in asked},
    }
    print(json.dumps(result)) if arguments.json else print_table(result)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, help="folder with Hub data sets (else FLANLAB_MIRROR, else the sampler)")
    parser.add_argument("--model", default=SMOLLM2, help="folder or Hub id of the model")
    parser.add_argument("--device", help="cpu or cuda; a GPU where there is one, if not given")
    parser.add_argument("--tasks", nargs="+", help="tasks of the library (of the sampler without a mirror); else twelve (all)")
    parser.add_argument("--rows", type=int, default=2, help="rows of each task")
    parser.add_argument("--templates", type=int, default=1, help="forward templates that each row is shown through")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser.parse_args()


def score(loaded: LoadedModel, questions: list[Question]) -> list[list[float]]:
    """Each option's log-probability with its end token."""
    encoded = [loaded.encoder.encode(prompt, list(options), "instruction") for prompt, options in questions]
    asked = [answering.Question(one.prompt, one.answers) for one in encoded]
    found = dict(loaded.answer(asked, 4096))
    return [found[number].scores for number in range(len(asked))]


def compared(exact: list[list[float]], rounded: list[list[float]]) -> dict[str, Any]:
    """How far the scores of some questions lie apart, and how many choose another answer."""
    differences = [
        abs(one - other) for left, right in zip(exact, rounded, strict=True) for one, other in zip(left, right, strict=True)
    ]
    same = sum(left.index(max(left)) == right.index(max(right)) for left, right in zip(exact, rounded, strict=True))
    return {
        "questions": len(exact),
        "same_answer": same,
        "largest_difference": max(differences),
        "mean_difference": sum(differences) / len(differences),
    }


def print_table(result: dict[str, Any]) -> None:
    tasks = result["tasks"]
    print(f"{'':<14}{'questions':>10}{'same answer':>13}{'mean difference':>17}{'largest':>10}   (log-probabilities)")
    for name, one in tasks.items():
        means = f"{one['mean_difference']:>17.4f}{one['largest_difference']:>10.4f}"
        print(f"{name:<14}{one['questions']:>10}{one['same_answer']:>13}{means}")
    questions, same = (sum(one[key] for one in tasks.values()) for key in ("questions", "same_answer"))
    taken = ", ".join(f"{dtype} {seconds:.1f} s" for dtype, seconds in result["seconds"].items())
    print(f"{'all':<14}{questions:>10}{same:>13}   on {result['device']}: {taken}")


if __name__ == "__main__":
    main()
