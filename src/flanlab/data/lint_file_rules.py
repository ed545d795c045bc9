"""The linter's rules about the task file: its templates, options and splits, before any row is read."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from flanlab.data.lint_sample import Problem, Sample, input_variables, numbered_prompts, rule
from flanlab.data.mirror import shard_of
from flanlab.tasks.schema import SPLITS
from flanlab.tasks.templating import variables_in


@rule("warning", "missing-split", 'Add it to source.splits. A slice of another split is fine, such as "train[-200:]".')
def splits_are_there(sample: Sample) -> Iterator[Problem]:
    """Train, dev and test are all needed: to tune, to choose the best template, and to report."""
    missing = [split for split in SPLITS if not sample.task.has_split(split)]
    if missing:
        yield Problem(f"The task has no {' and no '.join(missing)} split.")


@rule("warning", "one-shard", "Join the files into one, and name it.")
def files_are_whole(sample: Sample) -> Iterator[Problem]:
    """A file of the task is a whole split, and not one of several files that a split was cut into."""
    for source in sample.task.sources.values():
        files = source.files.values() if isinstance(source.files, dict) else [source.files]
        for shard, file in ((shard_of(Path(file)), file) for file in files if file):
            if shard is not None and shard.total > 1:
                yield Problem(f"{file} is one of {shard.total} files of the split {shard.split}; the others are not read.")


@rule("warning", "few-templates", "Write more templates.")
def templates_are_enough(sample: Sample) -> Iterator[Problem]:
    """There are ten templates (section 2.1)."""
    if (count := len(sample.task.templates)) < 10:
        yield Problem(f"The task has {count} templates, fewer than 10.")


@rule("warning", "many-inverted", "Replace some of the inverted templates with forward ones.")
def templates_ask(sample: Sample) -> Iterator[Problem]:
    """At most three templates are inverted (section 2.1)."""
    count, forward = len(sample.task.templates), len(sample.task.forward_templates())
    if count - forward > 3:
        yield Problem(f"{count - forward} templates are inverted, more than 3.")
    if sample.task.is_classification and count >= 10 and forward < 7:
        message = f"Only {forward} of {count} templates are forward; the others are not scored."
        yield Problem(message, rule="few-forward", hint="Write at least 7 forward templates.")


@rule("warning", "similar-templates", "Rewrite one of the two with other words and in another form.")
def templates_differ(sample: Sample) -> Iterator[Problem]:
    """No template repeats another one."""
    templates = enumerate(sample.task.templates, 1)
    sources = [(number, template, _plain_source(template.prompt)) for number, template in templates]
    for (first, one, plain), (second, other, other_plain) in itertools.combinations(sources, 2):
        if (one.direction, one.target) == (other.direction, other.target):
            likeness = _likeness(plain, other_plain)
            same = plain == other_plain and one.options == other.options
            how = "the same" if same else f"nearly the same (similarity {likeness:.2f})"
            if likeness > 0.9:
                yield Problem(f"Templates {first} and {second} are {how}.", second, level="error" if same else None)


def _plain_source(source: str) -> str:
    """Words of a template. An expression counts as its first name, or long ones would make all templates similar."""
    without = re.sub(r"\{%.*?%\}", " ", source, flags=re.DOTALL)
    without = re.sub(r"\{\{\s*(\w+)[^{}]*\}\}", r" {\1} ", without)
    return " ".join(without.casefold().split())


def _likeness(first: str, second: str) -> float:
    words, other_words = set(re.findall(r"\w+", first)), set(re.findall(r"\w+", second))
    shared = len(words & other_words) / max(1, len(words | other_words))
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return max(shared, matcher.ratio() if matcher.quick_ratio() > 0.9 else 0.0)


@rule("error", "no-field", "")
def templates_use_the_row(sample: Sample) -> Iterator[Problem]:
    """A prompt shows something of the row: an input, its own options, or the answer if it is inverted."""
    hint = f"Use one of: {', '.join(sample.task.fields) or 'the columns of the data'}."
    for number, template in enumerate(sample.task.templates, 1):
        given = {"answer"} if template.direction == "inverted" else set[str]()
        given |= {"options"} if isinstance(sample.task.options, str) else set()
        if not input_variables(sample.task, template.prompt) and not variables_in(template.prompt) & given:
            yield Problem("The prompt uses no field: it is the same for every row.", number, hint=hint)


@rule("error", "equal-options", "Use different words for each answer.")
def options_differ(sample: Sample) -> Iterator[Problem]:
    """No two options differ only in capital letters."""
    templates = enumerate(sample.task.templates, 1)
    for number, options in [(None, sample.task.options), *((number, template.options) for number, template in templates)]:
        spelled = Counter(map(str.casefold, options if isinstance(options, list) else ()))
        if twice := [option for option, count in spelled.items() if count > 1]:
            yield Problem(f"Two options are {twice[0]!r}, apart from capital letters.", number)


@rule(
    "warning",
    "unfinished-prompt",
    "End with a question, an instruction, or a label such as `Answer:`. The answer starts on a new line.",
)
def prompts_are_finished(sample: Sample) -> Iterator[Problem]:
    """A prompt is complete: it leaves nothing open that the answer would have to close."""
    for number, template in enumerate(sample.task.templates, 1):
        written = re.sub(r"\{[{%].*?[%}]\}", "", template.prompt, flags=re.DOTALL).rstrip()
        last_line = written.rpartition("\n")[2]
        if last_line.endswith(("(", "[", "{", ",", "“", "«")) or (last_line.endswith('"') and last_line.count('"') % 2):
            yield Problem(f"The prompt is incomplete: it ends with ...{last_line[-40:]!r}.", number)


@rule(
    "warning",
    "no-baseline",
    "Write `baseline`, for example labelled lines that end in `Answer:`. The answer follows after one space.",
)
def baseline_is_there(sample: Sample) -> Iterator[Problem]:
    """There is a prompt for untuned models."""
    if sample.task.baseline is None:
        yield Problem("The task has no baseline prompt, so an untuned model is only asked with instructions.")


@rule("warning", "missing-separator", "Put a space or a line break between them.")
def separators_are_there(sample: Sample) -> Iterator[Problem]:
    """A field does not run into the words of the template, and no `n` is left from a line break without its backslash."""
    for number, prompt in numbered_prompts(sample.task):
        for source in (prompt.prompt, prompt.target):
            if lost := _LOST_BACKSLASH.search(source):
                message = f"A letter n seems to be a broken line break: ...{lost.group()!r}."
                hint = "Use a | block in YAML and write a real line break."
                yield Problem(message, number, level="error", rule="lost-newline", hint=hint)
            elif fused := _FUSED.search(source):
                yield Problem(f"A field runs into the words next to it: ...{fused.group()!r}.", number)


_LOST_BACKSLASH = re.compile(r"\w+\s*\}\}n(?![a-z'\u2019])")
# A plain field next to a letter. Endings such as a plural s, or 's, are intended. An expression that gives the ending
# begins with a quote or an `if`, and is not a plain field.
_FUSED = re.compile(r"\{\{-?\s*[a-z_]\w*\s*-?\}\}(?!(?:s|es|th|ly)\b)\w+|\w+\{\{-?\s*[a-z_]\w*\s*-?\}\}")
