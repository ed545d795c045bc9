"""Tasks and templates as task files of lm-evaluation-harness, with the rows rendered here, so that prompts are exactly ours.

Each forward template of a task becomes one YAML with the prompts of the evaluated rows in a JSONL file beside it; a group for
each task takes the mean over its templates, a group for each cluster the mean over all of its templates. Written for version
0.4.13, whose reading of a task file is what the comments below refer to.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flanlab import __version__
from flanlab.data.encoding import ANSWER_SEPARATOR
from flanlab.data.rendering import Example, prepare_row, render
from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.answers import ARTICLES, DROPPED
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask
from flanlab.evaluation.questions import EXTRA_TOKENS, evaluation_order
from flanlab.files import new_folder, write_json, write_text
from flanlab.tasks.schema import Task

EXPORT_FILE = "flanlab_export.json"
"""Marks a folder as an export, and says what it was made of."""
_PREFIX = "flanlab_"

_FIRST_LINE = r"\s*([^\n]+)"
"""An answer is the first line with text, as when flanlab generates."""

# As flanlab's normalize_answer, in its order: lm-eval deletes what these match, one after the other, and then lowers the case.
# It cannot be told to keep what would become nothing, such as an answer "?", nor of punctuation and forms beyond ASCII.
NORMALIZATION = (DROPPED, f"(?i){ARTICLES}", r"\A\s+|\s+\Z|\s(?=\s)")


def export_lm_eval(tasks: Sequence[PlannedTask], settings: EvaluationSettings, seed: int, folder: Path) -> dict[str, Any]:
    """Write tasks as lm-evaluation-harness reads them: `lm_eval --include_path FOLDER --tasks flanlab_<task or cluster>`.

    Args:
        tasks: the tasks with the rows and templates chosen, as `plan_task` gives them.
        settings: of the evaluation that is to be compared with. A prompt is not shortened, since no tokenizer is known here.
        seed: as of that evaluation: it decides the order in which options are shown.
        folder: a new one, or an earlier export, which is replaced. The task files name its rows by their full path.

    Returns:
        The content of flanlab_export.json.

    Raises:
        FlanlabError: the folder holds something else; two tasks that would get one name.
    """
    if folder.exists() and not (folder / EXPORT_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise FlanlabError(f"{folder} is not empty, and holds no export.", hint="Name another folder with --out.")
    taken = Counter([_name(planned.task) for planned in tasks])
    taken.update({_PREFIX + cluster.value for planned in tasks for cluster in planned.task.clusters})
    if twice := [name for name, count in taken.items() if count > 1]:
        raise FlanlabError(
            f"Two tasks, or a task and a cluster, would both be called {twice[0]} in lm-evaluation-harness.",
            hint="Export them into folders of their own.",
        )
    facts: dict[str, Any] = {
        "flanlab": __version__,
        "split": settings.split,
        "rows": settings.rows,
        "options": settings.order,
        "seed": seed,
        "tasks": {},
    }
    clusters: dict[str, list[str]] = {}
    with new_folder(folder) as temporary:
        for planned in tasks:
            name = _name(planned.task)
            members = []
            for template in planned.task.forward_templates():
                examples = [
                    _example(planned, row, template, settings, seed) for row, asked in planned.pairs if asked == template
                ]
                if examples:
                    members.append(f"{name}_t{template}")
                    _write_template(members[-1], planned, examples, settings, temporary / name, folder.resolve() / name)
            _write_group(temporary / name, name, members, [planned.task])
            for cluster in planned.task.clusters:
                clusters.setdefault(cluster.value, []).append(name)
            facts["tasks"][planned.task.name] = {
                "group": name,
                "templates": members,
                "task": planned.task.hash,
                "rows": planned.rows.source_hash,
            }
        for label, names in sorted(clusters.items()):
            _write_group(temporary, _PREFIX + label, names, [one.task for one in tasks if _name(one.task) in names])
        facts["clusters"] = {cluster: _PREFIX + cluster for cluster in sorted(clusters)}
        write_json(temporary / EXPORT_FILE, facts)
    return facts


def _name(task: Task) -> str:
    return _PREFIX + task.name.replace(".", "_")


def _example(planned: PlannedTask, row: int, template: int, settings: EvaluationSettings, seed: int) -> Example:
    prepared = prepare_row(planned.task, planned.rows[row], row)
    return render(planned.task, template, prepared, evaluation_order(planned.task, prepared, settings, seed))


def _write_template(
    name: str,
    planned: PlannedTask,
    examples: Sequence[Example],
    settings: EvaluationSettings,
    folder: Path,
    final_folder: Path,
) -> None:
    ranked = bool(examples[0].options)
    right = [[example.options.index(reference) for reference in example.references] if ranked else [] for example in examples]
    # A list of right options in one row must be a list in all.
    several = any(len(positions) > 1 for positions in right)
    records = []
    for example, positions in zip(examples, right, strict=True):
        if ranked:
            more = {"options": list(example.options), "answer": positions if several else positions[0]}
            records.append({"row": example.row, "prompt": example.prompt, **more})
        else:
            prompt = example.prompt + ANSWER_SEPARATOR
            records.append({"row": example.row, "prompt": prompt, "answer": list(example.references)})
    write_text(folder / f"{name}.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    content: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        # A path of its own would be taken relative to wherever lm-eval is started.
        "dataset_kwargs": {"data_files": {"test": str(final_folder / f"{name}.jsonl")}},
        "test_split": "test",
        "num_fewshot": 0,
        # Names of columns, which are taken as they are; any other text would be rendered once more.
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
    }
    if ranked:
        content |= {
            "output_type": "multiple_choice",
            "doc_to_choice": "options",
            "target_delimiter": ANSWER_SEPARATOR,
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    else:
        content |= {
            "output_type": "generate_until",
            # It stands at the end of the prompts already: lm-eval puts it before choices alone.
            "target_delimiter": "",
            "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": _answer_tokens(planned, settings)},
            "metric_list": [
                {
                    "metric": "exact_match",
                    "aggregation": "mean",
                    "higher_is_better": True,
                    "regexes_to_ignore": list(NORMALIZATION),
                    "ignore_case": True,
                }
            ],
        }
        if not any("\n" in reference for example in examples for reference in example.references):
            first_line = {"function": "regex", "regex_pattern": _FIRST_LINE, "fallback": ""}
            content["filter_list"] = [{"name": "first_line", "filter": [first_line, {"function": "take_first"}]}]
    content["metadata"] = {
        "version": 1.0,
        "flanlab": __version__,
        "task": planned.task.name,
        "template": examples[0].template,
        "split": settings.split,
        "task_hash": planned.task.hash,
        "rows_hash": planned.rows.source_hash,
    }
    _write_yaml(folder / f"{name}.yaml", content)


def _answer_tokens(planned: PlannedTask, settings: EvaluationSettings) -> int:
    """Most tokens of an answer: as many as flanlab allows, or more, since a reference has no more tokens than bytes and an end.

    What flanlab cuts off then is longer than any reference, so whether an answer equals one does not change.
    """
    return min(settings.new_tokens, (len(planned.longest_reference.encode()) + 1) * 3 // 2 + EXTRA_TOKENS)


def _write_group(folder: Path, name: str, members: Sequence[str], tasks: Sequence[Task]) -> None:
    metrics = sorted({"acc" if task.is_classification else "exact_match" for task in tasks})
    content = {
        "group": name,
        "task": list(members),
        # Templates count equally, as in flanlab's mean over templates.
        "aggregate_metric_list": [{"metric": metric, "aggregation": "mean", "weight_by_size": False} for metric in metrics],
        "metadata": {"version": 1.0, "flanlab": __version__},
    }
    _write_yaml(folder / f"{name}.yaml", content)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
