"""What is laid side by side: variants of runs, of evaluations and of the cells of sweeps, read and told apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.evaluation.sides import Side, folder_and_variant, one_side, open_sides
from flanlab.experiments.sweep_file import read_sweep_facts
from flanlab.report.sweep import is_sweep
from flanlab.report.wording import counted

_EQUAL = " = "
"""Between names of what is the same."""
_Place = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A side with the places it comes from, each the parts of a path that a cell's name ends.

    Cells share equal work, within a sweep and between sweeps: such a side has several places, and is one column.
    """

    side: Side
    folder: str
    names: tuple[str, ...]
    places: tuple[_Place, ...]

    @property
    def name(self) -> str:
        """All its names."""
        return _EQUAL.join(self.names)


def open_sources(texts: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Read folders: each variant of a run or an evaluation, and of every finished cell of a sweep.

    Args:
        texts: `folder`, for all its variants, or `folder:variant`.

    Returns:
        The sources, each side once; and a sentence for each sweep that has cells which are not done.

    Raises:
        FlanlabError: results are missing, damaged or too old, there is no such variant, or no cell of a sweep is done.
    """
    opened: list[Source] = []
    left_out: list[str] = []
    for folder, variant in map(folder_and_variant, texts):
        if is_sweep(folder):
            cells, waiting = _cells(folder, variant)
            opened += cells
            left_out += waiting
        else:
            own = open_sides(folder)
            chosen = [one_side(own, variant)] if variant else list(own.values())
            opened += [Source(side, str(folder), (side.results.name,), (folder.resolve().parts[1:],)) for side in chosen]
    return _without_repeats(opened), left_out


def label_of(source: Source, sources: Sequence[Source]) -> str:
    """The end of each of its places, as long as it takes to tell it from the others."""
    others = [place for other in sources for place in other.places if place not in source.places]
    return _EQUAL.join(dict.fromkeys(_end(place, others) for place in source.places))


def _cells(folder: Path, variant: str) -> tuple[list[Source], list[str]]:
    """The finished cells of a sweep, with a sentence for those that are not."""
    if variant:
        raise FlanlabError(
            f"{folder}: is the folder of a sweep, whose cells have variants of their own.",
            hint=f"Name it without :{variant}, or name a folder of one cell's results with it.",
        )
    facts = read_sweep_facts(folder)
    done = [cell for cell in facts.cells if cell.state == "done"]
    if not done:
        raise FlanlabError(f"{folder}: no cell of the sweep is done yet.", hint="Go on with `flan ablate`, or leave it out.")
    sources = [
        Source(
            side,
            os.path.normpath(folder / cell.folder),
            (f"{facts.title}: {cell.title}",),
            ((*folder.resolve().parts[1:], cell.name),),
        )
        for cell in done
        for side in open_sides(folder / cell.folder).values()
    ]
    missing = len(facts.cells) - len(done)
    verb = "is" if missing == 1 else "are"
    told = f"{counted(missing, 'cell')} of {len(facts.cells)} in {folder} {verb} not done and left out."
    return sources, [told] if missing else []


def _without_repeats(opened: Sequence[Source]) -> list[Source]:
    """Each side once, with all its places."""
    found: dict[tuple[Path, str], Source] = {}
    for source in opened:
        key = (source.side.folder.resolve(), source.side.name)
        if earlier := found.get(key):
            names = tuple(dict.fromkeys([*earlier.names, *source.names]))
            places = tuple(dict.fromkeys([*earlier.places, *source.places]))
            found[key] = replace(earlier, names=names, places=places)
        else:
            found[key] = source
    return list(found.values())


def _end(place: _Place, others: Sequence[_Place]) -> str:
    length = 1
    while length < len(place) and any(other[-length:] == place[-length:] for other in others):
        length += 1
    return "/".join(place[-length:])
