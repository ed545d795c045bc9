"""One side of scoring.py, a process of its own: loads the model, then answers one JSON line for each that it reads.

The sides share no imports but the standard library's, torch and transformers, so that the memory of each is its own.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Texts = Sequence[tuple[str, Sequence[str]]]
"""Questions as text: each a prompt and its options."""
Tokens = list[tuple[list[int], list[list[int]]]]
"""The same as tokens."""


def main() -> None:
    side, folder, dtype, batch_size = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What libraries print is no answer.
    asked, facts = {"flanlab": flanlab_side, "harness": harness_side}[side](folder, dtype, int(batch_size))

    def reply(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    asked("score", [("Which letter comes after A?", ("B", "C"))], "")  # Weights are in memory only once they are read.
    reply({**facts, "resident_bytes": resident_bytes(), "peak_bytes": peak_bytes()})
    for line in sys.stdin:
        request = json.loads(line)
        started, processor_started = time.perf_counter(), time.process_time()
        found = asked(request["work"], request["questions"], request["end"])
        processor_seconds, seconds = time.process_time() - processor_started, time.perf_counter() - started
        reply({"found": found, "seconds": seconds, "processor_seconds": processor_seconds, "peak_bytes": peak_bytes()})


Side = tuple[Callable[[str, Texts, str], Any], dict[str, Any]]
"""What does the work ("score" or "encode") on questions, and what is to be known of it."""


def flanlab_side(folder: str, dtype: Any, _: int) -> Side:
    import torch

    from flanlab.models.answering import Question
    from flanlab.models.loading import load_model
    from flanlab.models.scoring import answer_questions

    loaded = load_model(folder, device="cpu", dtype=dtype)

    def encode(questions: Texts) -> Tokens:
        encoded = loaded.encoder.encode_batch([(prompt, options) for prompt, options in questions])
        return [(one.prompt, one.answers) for one in encoded]

    def score(questions: Texts) -> list[tuple[list[float], list[float]]]:
        """Per question, the options' log-probabilities with the end token and without: both come from one pass."""
        encoded = [Question(prompt, options) for prompt, options in encode(questions)]
        answers = dict(answer_questions(loaded.model, encoded))
        ordered = [answers[position] for position in range(len(encoded))]
        return [(answer.scores, answer.scores_without_end) for answer in ordered]

    facts = {"end": loaded.encoder.tokenizer.eos_token, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return lambda work, questions, _: encode(questions) if work == "encode" else score(questions), facts


def harness_side(folder: str, dtype: str, batch_size: int) -> Side:
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    separator = "\n"  # flanlab.data.encoding.ANSWER_SEPARATOR
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
    model: Any = HFLM(pretrained=weights, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch_size)

    def encode(questions: Texts, end: str) -> Tokens:
        """lm-eval's own cut: white space at the end of a context counts to the answer."""
        encoded = []
        for prompt, options in questions:
            pairs = [model._encode_pair(prompt + separator, option + end) for option in options]
            encoded.append((pairs[0][0], [answer for _, answer in pairs]))
        return encoded

    def score(questions: Texts, end: str) -> list[list[float]]:
        instances = [
            Instance("loglikelihood", {}, (prompt + separator, option + end), position)
            for position, (prompt, options) in enumerate(questions)
            for option in options
        ]
        scores = iter(model.loglikelihood(instances, disable_tqdm=True))
        return [[float(next(scores)[0]) for _ in options] for _, options in questions]

    facts = {"threads": torch.get_num_threads(), "batch_size": batch_size}
    return lambda work, questions, end: encode(questions, end) if work == "encode" else score(questions, end), facts


def resident_bytes() -> int | None:
    """Memory held now; None where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None


def peak_bytes() -> int:
    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
