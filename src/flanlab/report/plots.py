"""Plots as inline SVG: text stays text, and colours are the page's CSS variables, so they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from flanlab.report.wording import count, number, signed
from flanlab.results.schema import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axes._secondary_axes import SecondaryAxis
    from matplotlib.figure import Figure

    from flanlab.report.training import TrainingStep
    from flanlab.report.views import Line

# matplotlib knows no CSS: it draws in these colours, which stand for a variable each.
_INK, _SOFT, _RULE, _PAPER = "#010001", "#010002", "#010003", "#010004"
_SERIES = ("#010011", "#010012", "#010013", "#010014", "#010015", "#010016")
_SINGLE = _SERIES[2]
"""Colour of what stands alone."""
_VARIABLES = {_INK: "ink", _SOFT: "soft", _RULE: "rule", _PAPER: "paper"} | {
    colour: f"series-{place}" for place, colour in enumerate(_SERIES)
}
MARKERS = ("o", "s", "D", "^", "v", "p")
_PIXELS = 72
"""A figure's inch: one unit of the SVG is then one CSS pixel at its natural size."""
_PANEL_WIDTH = 340.0
_LINES_WIDTH = 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 8.0, 46.0, 30.0, 26.0
_LABEL, _LINE, _GAP = 20.0, 15.0, 12.0
_NAME = 14.0
_TITLE_CHARACTERS, _TITLE_LINE = 36, 18.0


@dataclass(frozen=True)
class Drawing:
    """A figure as inline SVG, offered as a file if it has a name."""

    svg: Markup
    name: str = ""
    """Of the file, without its ending."""

    @cached_property
    def file(self) -> str:
        """The text of the file: the figure with the page's colours, by light, put into it."""
        text = re.sub(r"var\(--([\w-]+)\)", lambda found: _colours()[found.group(1)], str(self.svg))
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
        assert box is not None
        size = f'width="{box.group(1)}" height="{box.group(2)}" font-family="sans-serif"'
        head, _, rest = text.replace("font-family: inherit", "font-family: sans-serif").removeprefix("<svg").partition(">")
        paper = f'<rect width="100%" height="100%" fill="{_colours()["paper"]}"/>'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}{head}>{paper}{rest}'


@cache
def _colours() -> dict[str, str]:
    """The page's colours by light."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#\w+)", style.partition("@media")[0]))


@dataclass(frozen=True)
class Curve:
    """Scores by place on the axis, with the score that they are held against, if any."""

    title: str
    scores: Mapping[int, Score] | Mapping[float, Score]
    reference: Score | None = None
    dashed: bool = False
    strong: bool = False


def score_panel(
    title: str,
    lines: Sequence[Line],
    columns: Mapping[str, str],
    about: str,
    *,
    percent: bool = False,
    strong: Collection[str] = (),
    named: bool = False,
) -> Drawing:
    """Dots with 95 % intervals for each column, lines from top to bottom; chance as a dashed tick.

    Args:
        title: what stands above it.
        lines: with scores by the key of the column, which a line may lack; they are 0 to 1 and drawn times 100. Scores of other
            keys are not drawn.
        columns: key to title, from top to bottom; colours and markers go by it.
        about: what a screen reader says first.
        percent: whether the axis reaches from 0 to 100 whatever the scores.
        strong: names of the lines that are means.
        named: write each column's key, a letter or two, before its score: colours come again after the sixth.
    """
    rows = {line.name: {key: line.scores[key] for key in columns if key in line.scores} for line in lines}
    told = [name for name in rows if name in strong] if len(rows) > 4 else []
    heard = " ".join(
        f"{name}: {', '.join(f'{columns[key]} {number(score.mean)}' for key, score in rows[name].items())}."
        for name in told or rows
    )
    ends = [end for row in rows.values() for score in row.values() for end in (score.mean, *score.interval)]
    limit = 100.0 if percent else _limit(ends, (10.0, 20.0, 40.0, 60.0, 80.0))
    figure, axes, tops = _dot_axes(title, rows, len(columns), (0.0, limit), strong, _NAME if named else 0.0)
    axes.set_xticks([limit * quarter / 4 for quarter in range(5)])
    for line in lines:
        top = tops[line.name]
        if line.chance is not None:
            axes.plot([line.chance * 100] * 2, [top - 3, top + _LINE * len(columns) + 1], "--", color=_SOFT, linewidth=1.5)
        for place, key in enumerate(columns):
            if (score := line.scores.get(key)) is not None:
                written = f"{key} {number(score.mean)}" if named else number(score.mean)
                _dot(axes, top, score.mean, score.interval, (1.04 * limit, written), place, hollow=key in line.hollow)
    return _svg(figure, f"{about}, times 100, with 95 % intervals. {heard} All numbers stand in the tables.")


def difference_panel(
    title: str, rows: Mapping[str, tuple[float, tuple[float, float]]], label: str, strong: Collection[str] = ()
) -> Drawing:
    """Dots with 95 % intervals about zero, filled where the interval excludes it, rows from top to bottom.

    Args:
        title: what the axis shows.
        rows: differences with their intervals; they are -1 to 1 and drawn times 100.
        label: what a screen reader says.
        strong: rows of means.
    """
    limit = _limit([abs(end) for value, ends in rows.values() for end in (value, *ends)], (2.0, 5.0, 10.0, 20.0, 50.0))
    figure, axes, tops = _dot_axes(title, rows, 1, (-limit, limit), strong)
    ticks = [limit * half / 2 for half in range(-2, 3)]
    axes.set_xticks(ticks, [signed(tick / 100).removesuffix(".0") for tick in ticks])
    axes.axvline(0, color=_SOFT, linewidth=1.2)
    for name, top in tops.items():
        value, (low, high) = rows[name]
        _dot(axes, top, value, (low, high), (1.08 * limit, signed(value)), hollow=not (low > 0 or high < 0))
    return _svg(figure, label)


def _dot(
    axes: Axes,
    top: float,
    value: float,
    ends: tuple[float, float],
    beside: tuple[float, str],
    place: int | None = None,
    *,
    hollow: bool,
) -> None:
    """A mark with its interval and, at some place, a text beside it; colour and marker go by its own place among others."""
    colour = _SINGLE if place is None else _SERIES[place % len(_SERIES)]
    marker = MARKERS[(place or 0) % len(MARKERS)]
    middle = top + _LINE * ((place or 0) + 0.5)
    axes.plot([end * 100 for end in ends], [middle] * 2, color=colour, linewidth=2)
    style: dict[str, Any] = {"markerfacecolor": _PAPER if hollow else colour, "markeredgewidth": 1.6, "clip_on": False}
    axes.plot(value * 100, middle, marker, color=colour, markersize=6.5 if marker == "D" else 7, **style)
    axes.text(beside[0], middle, beside[1], va="center_baseline", fontsize=11, color=_SOFT)


def _dot_axes(
    title: str, names: Collection[str], lines: int, ends: tuple[float, float], strong: Collection[str], right: float = 0.0
) -> tuple[Figure, Axes, dict[str, float]]:
    """Axes with the rows' names, each over room for so many lines of dots, and where that room begins."""
    height = _LABEL + _LINE * lines + _GAP
    head = wrap(title, _TITLE_CHARACTERS)
    top = _TOP + _TITLE_LINE * (len(head) - 1)
    figure = _figure(_PANEL_WIDTH, top + height * len(names) + _BOTTOM)
    axes = _axes(figure, _LEFT, _RIGHT + right, top, _BOTTOM)
    spare = 0.02 * (ends[1] - ends[0])
    axes.set_xlim(ends[0] - spare, ends[1] + spare)
    axes.set_ylim(height * len(names), 0)
    axes.set_yticks([])
    axes.grid(axis="x", color=_RULE, linewidth=1)
    axes.set_title("\n".join(head), loc="left", fontweight="bold", fontsize=14, color=_INK, pad=9, parse_math=False)
    # On paper of its own, since a long name crosses lines.
    paper = {"facecolor": _PAPER, "edgecolor": "none", "pad": 1.0}
    style: dict[str, Any] = {"color": _INK, "fontsize": 12, "parse_math": False, "bbox": paper}
    before = False
    for place, name in enumerate(names):
        if name in strong and not before:
            axes.axhline(place * height + 1, color=_SOFT, linewidth=1)
        before = name in strong
        axes.text(ends[0], place * height + _LABEL - 6, name, fontweight="bold" if before else "normal", **style)
    return figure, axes, {name: place * height + _LABEL for place, name in enumerate(names)}


def line_panel(curves: Sequence[Curve], places: Mapping[float, str], axis: str, about: str) -> Drawing:
    """Scores with 95 % intervals against a number, a curve for each; dashed across where it has a reference.

    Args:
        curves: scores are 0 to 1 and drawn times 100.
        places: ticks of the axis, with what is written there.
        axis: what the number is.
        about: what a screen reader says first.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(_LINES_WIDTH, 300)
    axes = _axes(figure, 34, 14, 14, 42)
    ends = [
        end * 100 for curve in curves for score in (*curve.scores.values(), curve.reference) if score for end in score.interval
    ]
    margin = max(1.0, 0.06 * (max(ends) - min(ends)))
    axes.set_ylim(max(0.0, min(ends) - margin), max(ends) + margin)
    reach = max(places) - min(places) or 1.0
    axes.set_xlim(min(places) - 0.06 * reach, max(places) + 0.06 * reach)
    axes.set_xticks(list(places), list(places.values()))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.grid(axis="y", color=_RULE, linewidth=1)
    axes.set_xlabel(axis, color=_SOFT, fontsize=12)
    for turn, curve in enumerate(curves):
        colour = _INK if curve.strong else _SERIES[turn % len(_SERIES)]
        marker = MARKERS[turn % len(MARKERS)]
        # Beside each other, so that intervals of one place can be told apart.
        shift = 0.012 * reach * (turn - (len(curves) - 1) / 2)
        at = [place + shift for place in curve.scores]
        means = [score.mean * 100 for score in curve.scores.values()]
        for place, score in zip(at, curve.scores.values(), strict=True):
            axes.plot([place] * 2, [end * 100 for end in score.interval], color=colour, linewidth=1.2)
        style: dict[str, Any] = {"color": colour, "markersize": 6.5, "linewidth": 2.4 if curve.strong else 1.8}
        if curve.dashed:
            style |= {"linestyle": "--", "markerfacecolor": _PAPER, "markeredgewidth": 1.6}
        axes.plot(at, means, marker=marker, **style)
        if curve.reference is not None:
            axes.axhline(curve.reference.mean * 100, color=colour, linestyle="--", linewidth=1.4)
    heard = []
    for curve in curves:
        told = ", ".join(f"{number(score.mean)} at {places[place]}" for place, score in curve.scores.items())
        heard.append(f"{curve.title}: {told}{f'; {number(curve.reference.mean)} dashed' if curve.reference else ''}.")
    return _svg(figure, f"{about}, main metric times 100 against {axis}. {' '.join(heard)}")


def learning_curve(steps: Sequence[TrainingStep], label: str) -> Drawing:
    """Loss per target token (natural log) against step, with its running mean, and examples seen along the top."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(420, 280)
    axes = _axes(figure, 42, 14, 46, 42)
    numbers = [step.step for step in steps]
    losses = [step.loss for step in steps]
    axes.plot(numbers, losses, color=_SINGLE, linewidth=1, alpha=0.45)
    if len(steps) < 3:
        axes.plot(numbers, losses, MARKERS[0], color=_SINGLE)
    axes.plot(numbers, running_mean(steps), color=_SINGLE, linewidth=2.2)
    axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
    axes.set_ylim(0, max(losses) * 1.05 or 1)
    axes.grid(axis="y", color=_RULE, linewidth=1)
    axes.set_xlabel("step", color=_SOFT, fontsize=12)
    for text, side, place in (("loss per target token", "left", (0, 1)), ("examples seen", "right", (1, 1))):
        offset = (-34 if side == "left" else 8, 26)
        axes.annotate(text, place, offset, "axes fraction", "offset points", fontsize=12, color=_SOFT, horizontalalignment=side)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    seen = dict(zip(numbers, accumulate(step.examples for step in steps), strict=True))
    above = axes.secondary_xaxis("top")
    ticks = [tick for tick in axes.get_xticks() if numbers[0] <= tick <= numbers[-1]]
    above.set_xticks(ticks, [count(seen[int(tick)]) if int(tick) in seen else "" for tick in ticks])
    _quiet(above)
    return _svg(figure, label)


def dev_curves(steps: Sequence[TrainingStep], titles: Mapping[str, str], label: str) -> Drawing:
    """Loss on dev rows against step, a small panel for each cluster, all on one scale; each panel says its last loss.

    Args:
        steps: those after which the loss was measured.
        titles: what is written over a cluster's panel, in the order of the panels.
        label: what a screen reader says.
    """
    columns, width, height, between = 3, 176.0, 106.0, 24.0
    rows = -(-len(titles) // columns)
    size = (columns * width + (columns - 1) * between, rows * height)
    figure = _figure(size[0], size[1])
    numbers = [step.step for step in steps]
    highest = max(loss for step in steps for loss in step.dev_loss.values())
    for place, (cluster, title) in enumerate(titles.items()):
        left, top = place % columns * (width + between), place // columns * height
        axes = _axes(figure, left, size[0] - left - width + 34, top + 38, size[1] - top - height + 12)
        losses = [step.dev_loss[cluster] for step in steps]
        axes.plot(numbers, losses, color=_SERIES[-1], linewidth=2)
        axes.plot(numbers[-1], losses[-1], MARKERS[0], color=_SERIES[-1], markersize=5, clip_on=False)
        axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
        axes.set_ylim(0, highest * 1.05 or 1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.axhline(0, color=_RULE, linewidth=1)
        # The longest, reading comprehension with commonsense, takes two lines.
        axes.set_title("\n".join(wrap(title, 26)), loc="left", fontsize=12, color=_INK, pad=6, parse_math=False)
        style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 11, "color": _SOFT}
        axes.annotate(f"{losses[-1]:.2f}", (numbers[-1], losses[-1]), (8, 0), **style)
    return _svg(figure, label)


def window(steps: Sequence[TrainingStep]) -> int:
    """How many steps a running mean spans: a tenth."""
    return max(1, len(steps) // 10)


def running_mean(steps: Sequence[TrainingStep]) -> list[float]:
    """Mean loss per target token over the last tenth of the steps up to each one."""
    width = window(steps)
    means = []
    for place in range(len(steps)):
        latest = steps[max(0, place + 1 - width) : place + 1]
        tokens = sum(step.target_tokens for step in latest)
        means.append(sum(step.loss * step.target_tokens for step in latest) / tokens if tokens else latest[-1].loss)
    return means


def _limit(values: Iterable[float], limits: Iterable[float]) -> float:
    """The first of some limits that no value passes, times 100; else 100."""
    highest = 100 * max(values, default=0.0)
    return next((limit for limit in limits if highest <= limit), 100.0)


def _figure(width: float, height: float) -> Figure:
    """A figure of so many pixels."""
    from matplotlib.figure import Figure  # not at the top: half a second, which a comparison without a page does not need

    return Figure(figsize=(width / _PIXELS, height / _PIXELS))


def _axes(figure: Figure, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with margins in pixels, without a frame."""
    width, height = (float(side) * _PIXELS for side in figure.get_size_inches())
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    axes.set_axisbelow(True)
    _quiet(axes)
    return axes


def _quiet(axes: Axes | SecondaryAxis) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelcolor=_SOFT, labelsize=11)


def _svg(figure: Figure, label: str) -> Drawing:
    """The figure as an <svg> element that asks for nothing from outside and shares no ids but its own markers'."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-z0-9_.]+_\d+"', "", text, flags=re.IGNORECASE)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = text.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    size = re.search(r'viewBox="[^"]*"', text)
    assert size is not None
    opening = Markup('<svg {} role="img" aria-label="{}">').format(Markup(size.group()), escape(label))
    return Drawing(opening + Markup(text[text.index(">") + 1 :]))
