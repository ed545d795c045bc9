"""Two wordings of the same questions compared: what changed in the text, in the score, and in single answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal

from markupsafe import Markup

from flanlab.evaluation.sides import Side
from flanlab.evaluation.wordings import compare_wordings, open_wordings
from flanlab.report.comparison import cautions, ways_told
from flanlab.report.page import Block, Facts, Figure, Group, Page, Verbatim, text, write_page
from flanlab.report.page import Table as PageTable
from flanlab.report.plots import difference_panel
from flanlab.report.run import Run
from flanlab.report.views import Line, difference_cell, table
from flanlab.report.wording import capital, counted, headline_metrics, interval_told, listed, number, signed, unclear_told
from flanlab.results.table import Table
from flanlab.results.wordings import Flip, TemplatePair, Wordings

SHOWN_FLIPS = 20
"""Rows of each direction that a page shows."""
_LEAST_ALIKE = 0.4
"""Two texts that are less alike are shown one after the other: marks at every second word would be hard to read."""
_PROMPT_CHARACTERS = 90


@dataclass(frozen=True)
class TemplateComparison:
    """Two wordings on the same rows: B minus A."""

    wordings: Wordings
    """Everything: pairs of templates with their texts, scores, differences and flipped rows."""

    @property
    def differences(self) -> Table:
        """B minus A: a row for each pair of templates and metric, with its interval and p-values."""
        return Table.from_rows(
            [
                {"template_a": pair.template_a, "template_b": pair.template_b, **row.model_dump()}
                for pair in self.wordings.pairs
                for row in pair.differences
            ]
        )

    @property
    def flips(self) -> Table:
        """The rows whose answer is right in one wording and wrong in the other (or scores better and worse)."""
        return Table.from_rows(
            [
                {
                    "task": pair.task,
                    "template_a": pair.template_a,
                    "template_b": pair.template_b,
                    "row": flip.row,
                    **{f"{name}_a": value for name, value in flip.a.model_dump().items()},
                    **{f"{name}_b": value for name, value in flip.b.model_dump().items()},
                    "references": flip.references,
                }
                for pair in self.wordings.pairs
                for flip in pair.flips
            ]
        )

    @property
    def verdict(self) -> Sequence[str]:
        """What the numbers allow to say, in sentences."""
        return list(verdict(self.wordings))

    def write_page(self, path: str | Path) -> Path:
        """Write the comparison as one HTML file that opens offline."""
        found = self.wordings
        sides = found.results.variants.items()
        main = {pair_title(pair): pair.main for pair in found.pairs}
        rows = {title: (row.difference, row.interval) for title, row in main.items()}
        label = "B minus A by each pair's main metric; all numbers stand in the tables."
        drawn = difference_panel("B minus A, points", rows, label)
        page = Page(
            "comparison of wordings",
            f"{listed(list(found.results.tasks))}: {counted(len(found.pairs), 'template')}, B against A",
            verdict(found),
            {pair_title(pair): _pair_blocks(found, pair) for pair in found.pairs},
            "Made by flanlab from the files of the two folders alone.",
            "; ".join(f"{name.upper()} is {side.folder} ({side.title}), {side.model}" for name, side in sides) + ".",
            [(f"{title}, points", difference_cell(row)) for title, row in list(main.items())[:3]],
            Figure([drawn], text("wordings_picture"), kind="single") if len(main) > 1 else None,
        )
        write_page(page, Path(path))
        return Path(path)


def compare_templates(first: Run | str | Path, second: Run | str | Path, *, margin: float | None = None) -> TemplateComparison:
    """Compare two wordings on the same rows: two versions of a task file, or two templates of one task.

    Both must have been asked the same rows with the same seed and settings, and should be of the same model.

    Args:
        first: a run, its folder, or `folder[:variant][:task[:template]]`, such as `runs/a:rte:3`. Without a template, every
            template whose wording differs is compared with its counterpart.
        second: the same.
        margin: how far apart two scores may be and still count as the same (0.02: two points of accuracy), as in `compare`.

    Returns:
        `differences` and `flips` as tables, `verdict` in sentences, `write_page(path)`, and `wordings`, which holds everything.

    Raises:
        FlanlabError: other rows, seeds or settings, no difference in wording, or no row that was asked through both.

    Examples:
        >>> import flanlab as fl
        >>> run = fl.evaluate(example_model, "visitor_comments", rows=8, out=folder)
        >>> found = fl.compare_templates(f"{folder}:visitor_comments:1", f"{folder}:visitor_comments:2")
        >>> found.wordings.pairs[0].rows
        8
    """
    return TemplateComparison(compare_wordings(_opened(first), _opened(second), margin=margin))


def _opened(side: Run | str | Path) -> Side:
    return open_wordings(str(side.folder if isinstance(side, Run) else side))


def word_diff(first: str, second: str) -> list[tuple[Literal["=", "-", "+"], str]]:
    """A text as pieces that both have (=), that only the first has (-), and that only the second has (+); word by word."""
    words = [re.findall(r"\w+|\s+|[^\w\s]", text) for text in (first, second)]
    matcher = SequenceMatcher(None, words[0], words[1], autojunk=False)
    if matcher.ratio() < _LEAST_ALIKE:
        return [("-", first), ("+", second)]
    pieces: list[tuple[Literal["=", "-", "+"], str]] = []
    for how, start, end, other_start, other_end in matcher.get_opcodes():
        old, new = "".join(words[0][start:end]), "".join(words[1][other_start:other_end])
        if how == "equal":
            pieces.append(("=", old))
            continue
        if old:
            pieces.append(("-", old))
        if new:
            pieces.append(("+", new))
    return pieces


def prompt_ends(prompt: str, length: int = _PROMPT_CHARACTERS) -> str:
    """The beginning and the end of a prompt on one line, without its OPTIONS block."""
    text = " ".join(prompt.split("\n\nOPTIONS:\n")[0].split())
    half = (length - 5) // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


def verdict(found: Wordings) -> Iterable[str]:
    """The comparison in sentences that claim no more than the numbers."""
    results = found.results
    for pair in found.pairs:
        main = pair.main
        told = f"no clear difference: B minus A is {signed(main.difference)} points"
        if main.is_clear:
            told = f"B is {number(abs(main.difference))} points {'higher' if main.difference > 0 else 'lower'}"
        flips = f"; of {counted(pair.rows, 'row')}, {len(pair.better)} got better and {len(pair.worse)} worse"
        told += f" ({interval_told(main)}){flips if pair.flip_metric else ''}.{unclear_told(main)}"
        yield f"{pair_title(pair)}, {pair.main_metric.replace('_', ' ')}: {told}"
    for name, task in results.tasks.items():
        pairs = sum(pair.task == name for pair in found.pairs)
        row = results.difference("task", name, task.main_metric)
        if pairs > 1 and row is not None:
            told = f"{signed(row.difference)} points ({interval_told(row)}; over rows and templates)"
            yield f"{name}, over the {pairs} pairs together: {told}."
    for name, count in found.unchanged.items():
        if count:
            yield f"{counted(count, 'template')} of {name} {'is' if count == 1 else 'are'} the same in both and not compared."
    for name, sides in found.only.items():
        for side, templates in sides.items():
            if templates:
                noun = "template" if len(templates) == 1 else "templates"
                yield f"Only {side.upper()} has {noun} {listed([str(one) for one in templates])} of {name}."
    a, b = results.variants["a"], results.variants["b"]
    if other := [*(["the model"] if a.identity != b.identity else []), *ways_told(a, b)]:
        yield f"Not only the wording differs, but also {listed(other)}: the difference is of both together."
    yield from cautions(results)


def pair_title(pair: TemplatePair) -> str:
    """The task and the templates of a pair."""
    if pair.template_a == pair.template_b:
        return f"{pair.task}, template {pair.template_a}"
    return f"{pair.task}, template {pair.template_a} in A and {pair.template_b} in B"


def _pair_blocks(found: Wordings, pair: TemplatePair) -> Iterable[Block]:
    marked = {"=": Markup("{}"), "-": Markup("<del>{}</del>"), "+": Markup("<ins>{}</ins>")}
    pieces = word_diff(pair.wording_a, pair.wording_b)
    between = "" if any(how == "=" for how, _ in pieces) else "\n\n"
    yield Verbatim(Markup(between).join(marked[how].format(words) for how, words in pieces))
    yield "Struck out: only in A. Underlined: only in B."
    yield pair_table(found, pair)
    yield text("wordings", rows=counted(pair.rows, "row"), pairs=counted(len(found.pairs), "pair"))
    for place, (title, flips) in enumerate(directions(pair)):
        shown = f", {SHOWN_FLIPS} shown" if len(flips) > SHOWN_FLIPS else ""
        blocks = [_flip(flip) for flip in flips[:SHOWN_FLIPS]]
        yield Group(f"{capital(title)}: {counted(len(flips), 'row')}{shown}", blocks, "fold" if place else "fold open")


def _flip(flip: Flip) -> Group:
    title = Markup('<span class="source">Row {}</span> <q>{}</q>, then <q>{}</q> <span class="preview">{}</span>').format(
        flip.row, flip.a.answer, flip.b.answer, prompt_ends(flip.b.prompt)
    )
    answers = Facts({"Answer in A": flip.a.answer, "Answer in B": flip.b.answer, "Right answer": " / ".join(flip.references)})
    kind = "right" if flip.b.score > flip.a.score else "wrong"
    asked: list[Block] = ["Prompt in A:", Verbatim(flip.a.prompt), "Prompt in B:", Verbatim(flip.b.prompt)]
    return Group(title, [*asked, answers], f"fold example {kind}")


def directions(pair: TemplatePair) -> list[tuple[str, list[Flip]]]:
    """The flipped rows of both directions, with a title each."""
    right_or_wrong = all(one.score in (0, 1) for flip in pair.flips for one in (flip.a, flip.b))
    titles = ("right in A, wrong in B", "wrong in A, right in B") if right_or_wrong else ("worse in B", "better in B")
    return [(title, flips) for title, flips in zip(titles, (pair.worse, pair.better), strict=True) if flips]


def pair_table(found: Wordings, pair: TemplatePair, *, headlines: bool = False) -> PageTable:
    """A pair by each metric, those that the task is judged by first, or those alone."""
    task = found.results.tasks[pair.task]
    first = headline_metrics([task])
    names = first if headlines else list(dict.fromkeys([*first, *task.metrics]))
    rows = {row.metric: row for row in pair.differences}
    lines = []
    for name in names:
        if name in rows:
            scores = {score.variant: score for score in pair.scores if score.metric == name}
            lines.append(Line(task.metrics[name].title, name, scores, rows[name], task=pair.task))
    title = f"{pair_title(pair)}, over {counted(pair.rows, 'row')}"
    return table(title, lines, found.results, ["p_value", "p_holm"], corner="metric")
