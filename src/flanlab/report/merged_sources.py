"""What is laid side by side: variants of runs, of evaluations and of the cells of sweeps, read and told apart."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.evaluation.comparison import Side, folder_and_variant, one_side, open_sides
from flanlab.experiments.sweep_file import CellFacts, SweepFacts, read_sweep_facts
from flanlab.report.sweep import is_sweep
from flanlab.report.wording import counted

_EQUAL = " = "
"""Between names of what is the same."""


@dataclass
class Source:
    """A side with the places it comes from, each the parts of a path that a cell's name ends.

    Cells share equal work, within a sweep and between sweeps: such a side has several places, and is one column.
    """

    side: Side
    folder: str
    names: list[str] = field(default_factory=list)
    places: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """All its names."""
        return _EQUAL.join(dict.fromkeys(self.names))

    def label(self, sources: Iterable[Source]) -> str:
        """The end of each of its places, as long as it takes to tell it from the others."""
        others = [place for other in sources for place in other.places if place not in self.places]
        ends = []
        for place in self.places:
            length = 1
            while length < len(place) and any(other[-length:] == place[-length:] for other in others):
                length += 1
            ends.append("/".join(place[-length:]))
        return _EQUAL.join(dict.fromkeys(ends))


def open_sources(texts: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Read folders: each variant of a run or an evaluation, and of every finished cell of a sweep.

    Args:
        texts: `folder`, for all its variants, or `folder:variant`.

    Returns:
        The sources, each side once; and a sentence for each sweep that has cells which are not done.

    Raises:
        FlanlabError: results are missing, damaged or too old, there is no such variant, or no cell of a sweep is done.
    """
    found: dict[tuple[Path, str], Source] = {}
    left_out: list[str] = []
    for folder, variant in map(folder_and_variant, texts):
        sweep = read_sweep_facts(folder) if is_sweep(folder) else None
        cells: list[CellFacts | None] = [None]
        if sweep is not None:
            cells = list(_done(folder, variant, sweep))
            if missing := len(sweep.cells) - len(cells):
                verb = "is" if missing == 1 else "are"
                left_out.append(f"{counted(missing, 'cell')} of {len(sweep.cells)} in {folder} {verb} not done and left out.")
        for cell in cells:
            opened = open_sides(folder / cell.folder if cell else folder)
            for side in [one_side(opened, variant)] if variant else opened.values():
                shown = os.path.normpath(folder / cell.folder) if cell else str(folder)
                source = found.setdefault((side.folder.resolve(), side.name), Source(side, shown))
                source.names.append(f"{sweep.title}: {cell.title}" if sweep and cell else side.results.name)
                source.places.append((*folder.resolve().parts[1:], *([cell.name] if cell else [])))
    return list(found.values()), left_out


def _done(folder: Path, variant: str, sweep: SweepFacts) -> list[CellFacts]:
    """The finished cells of a sweep."""
    if variant:
        raise FlanlabError(
            f"{folder}: is the folder of a sweep, whose cells have variants of their own.",
            hint=f"Name it without :{variant}, or name a folder of one cell's results with it.",
        )
    done = [cell for cell in sweep.cells if cell.state == "done"]
    if not done:
        raise FlanlabError(f"{folder}: no cell of the sweep is done yet.", hint="Go on with `flan ablate`, or leave it out.")
    return done
