"""More wordings of a task than its templates, made by rule: what is asked stays the same, only its form differs.

Each forward template is crossed with neutral variants: the instruction before or after the input, where the two can be told
apart; single line breaks, blank lines or a dashed line between paragraphs; and the style of the OPTIONS block.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

from flanlab.data.choices import short_permutation
from flanlab.tasks.schema import Task, Template

_JINJA = re.compile(r"(\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\})", re.DOTALL)
_PLACE = re.compile(
    r"\b(above|below|follow\w*|next|previous|preceding|before|after|here|last|first|end|begin\w*)\b", re.IGNORECASE
)
"""Words that may tell where in the prompt something stands."""
_OPTION_STYLES = {
    "": ("OPTIONS:\n", "- ", "\n"),
    "stars": ("Options:\n", "* ", "\n"),
    "choices": ("Choices:\n", "- ", "\n"),
    "answers": ("Possible answers:\n", "- ", "\n"),
    "line": ("Options: ", "", "; "),
}
"""Name to what stands before all options, before each, and between two."""


class Wording(Template):
    """A template made from another by rule."""

    name: str
    """The number of that template and the rules, such as `3-moved-stars`: the same in each evaluation."""
    option_style: str = ""

    def listed(self, options: Sequence[str]) -> str:
        """The OPTIONS block in this wording's style."""
        heading, mark, between = _OPTION_STYLES[self.option_style]
        return heading + between.join(mark + option for option in options)


def worded(task: Task, count: int, *, with_options: bool) -> Task:
    """The task with its own templates, under their numbers, and after them as many variants as make `count` forward ones.

    Each template gets equally many variants, where it has so many; there may be fewer than asked for, but never fewer than its
    own. A lower count gives the first of the same variants.

    Args:
        task: as it is written.
        count: all wordings together.
        with_options: whether prompts show OPTIONS, so that the style of the block makes a difference.
    """
    forward = task.forward_templates()
    by_template = []
    for number in forward:
        variants = _variants(task.templates[number - 1], number, with_options and task.is_classification)
        by_template.append([variants[place] for place in short_permutation(len(variants), (task.name, "wordings", number))])
    in_turn = (one for turn in itertools.zip_longest(*by_template) for one in turn if one is not None)
    return task.model_copy(update={"templates": [*task.templates, *itertools.islice(in_turn, max(0, count - len(forward)))]})


def _variants(template: Template, number: int, with_options: bool) -> list[Wording]:
    """All wordings of a template but its own."""
    own = template.prompt.strip()
    prompts = {own: ""}
    orders = [("", own), *([("moved", moved)] if (moved := _moved(own)) else [])]
    for (order, prompt), (breaks, change) in itertools.product(orders, _BREAKS.items()):
        prompts.setdefault(_literally(prompt, change), "-".join(filter(None, (order, breaks))))
    return [
        Wording(
            **template.model_dump(exclude={"prompt"}),
            prompt=prompt,
            name="-".join(filter(None, (str(number), form, style))),
            option_style=style,
        )
        for prompt, form in prompts.items()
        for style in (_OPTION_STYLES if with_options else ("",))
        if form or style
    ]


_BREAKS: dict[str, Callable[[str], str]] = {
    "": lambda text: text,
    "tight": lambda text: re.sub(r"\n{2,}", "\n", text),
    "loose": lambda text: re.sub(r"\n+", "\n\n", text),
    "dashes": lambda text: re.sub(r"\n{2,}", "\n\n---\n\n", text),
}


def _literally(prompt: str, change: Callable[[str], str]) -> str:
    """The prompt with its text changed, and its expressions as they are."""
    return "".join(part if place % 2 else change(part) for place, part in enumerate(_JINJA.split(prompt)))


def _moved(prompt: str) -> str | None:
    """The prompt with its instruction after the input instead of before it, or the other way round; None if it can't be told.

    It can where there are two paragraphs, of which one shows nothing of the row, does not lead over to the other with a colon,
    and says nothing of places in the prompt.
    """
    if "{%" in prompt or "\n\n" in "".join(_JINJA.findall(prompt)):
        return None
    paragraphs = prompt.split("\n\n")
    plain = [paragraph for paragraph in paragraphs if "{{" not in paragraph]
    if len(paragraphs) != 2 or len(plain) != 1 or plain[0].endswith(":") or _PLACE.search(plain[0]):
        return None
    return "\n\n".join(reversed(paragraphs))
