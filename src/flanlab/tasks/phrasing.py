"""A task without its instructions: only its inputs, or its inputs after the names of the task type and the data set.

The paper compares these with natural instructions (section 4.3). Only the templates change. So all later steps render, train
and score the task like any other.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task, Template
from flanlab.tasks.templating import variables_in

Phrasing = Literal["full", "name", "none"]
"""Natural instructions; "[Task type: data set]" before the inputs; the inputs alone."""


def phrased(task: Task, phrasing: Phrasing) -> Task:
    """The task unchanged (`full`), or with one bare template for each different target of its forward templates.

    An input is a field that at least half of those templates show. Inputs keep the order of the task's fields. Applying it
    twice changes nothing more.
    """
    if phrasing == "full":
        return task
    label = task.clusters[0].label
    heading = f"[{label[:1].upper()}{label[1:]}: {task.whole.name.replace('_', ' ')}]\n" if phrasing == "name" else ""
    forward = [task.templates[number - 1] for number in task.forward_templates()]
    templates = []
    for target in dict.fromkeys(template.target for template in forward):
        shown = [variables_in(template.prompt) for template in forward if template.target == target]
        inputs = _inputs(task, shown)
        if not inputs:
            raise FlanlabError(
                f"{task.path}: half of its prompts show no common input, so nothing is left without the instructions.",
                hint="Name the inputs in `fields` and show them in the prompts, or leave the task out.",
            )
        templates.append(Template(prompt=f"{heading}{{{{ [{', '.join(inputs)}] | as_lines }}}}", target=target))
    return task.model_copy(update={"templates": templates})


def _inputs(task: Task, shown: list[frozenset[str]]) -> list[str]:
    """Names that at least half of the prompts use."""
    counts = Counter(name for names in shown for name in names)
    often = {name for name, count in counts.items() if count * 2 >= len(shown)}
    order = [name for name in task.fields if name in often] if task.fields else sorted(often)
    return [name for name in order if name != "options"]
