"""Tables that notebooks show and other libraries take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from flanlab.errors import FlanlabError

_SHOWN_ROWS = 20
_SHOWN_COLUMNS = 12
_SHOWN_CHARACTERS = 40


class Table:
    """An Arrow table that can be read: it shows itself, gives its rows as dicts, and becomes a frame.

    `table.to_pandas()` is a pandas frame, `polars.DataFrame(table)` one of polars, `table.arrow` the Arrow table.

    >>> table = Table.from_rows([{"task": "rte", "mean": 0.5}, {"task": "cb", "mean": 0.25}])
    >>> table.where(task="cb").column("mean")
    [0.25]
    >>> print(table)
    task  mean
    rte   0.5
    cb    0.25
    """

    def __init__(self, arrow: pa.Table) -> None:
        self.arrow = arrow
        """The table itself; libraries that know the Arrow PyCapsule interface (polars, DuckDB) take this object too."""

    @classmethod
    def from_rows(cls, rows: list[dict[str, Any]]) -> Table:
        """A table of dicts with the same keys."""
        return cls(pa.Table.from_pylist(rows))

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        names: list[str] = self.arrow.column_names
        return names

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.columns:
                near = get_close_matches(name, self.columns, n=1)
                meant = f"Did you mean `{near[0]}`? " if near else ""
                raise FlanlabError(f"There is no column `{name}`.", hint=f"{meant}The columns are: {', '.join(self.columns)}.")

    def where(self, **equal: Any) -> Table:
        """The rows in which each of these columns has this value; None stands for an empty field.

        Raises:
            FlanlabError: there is no such column, or a value has another type than its column.
        """
        self._refuse_unknown(equal)
        found = self.arrow
        for name, value in equal.items():
            column = found[name]
            try:
                found = found.filter(pc.is_null(column) if value is None else pc.equal(column, pa.scalar(value)))
            except pa.ArrowException as error:
                raise FlanlabError(
                    f"The column {name} has values of the type {column.type}, and {value!r} is none.",
                    hint="Give a value of this type, or None for an empty field.",
                ) from error
        return Table(found)

    def select(self, *names: str) -> Table:
        """Only these columns, in this order.

        Raises:
            FlanlabError: there is no such column.
        """
        self._refuse_unknown(names)
        return Table(self.arrow.select(list(names)))

    def column(self, name: str) -> list[Any]:
        """The values of one column.

        Raises:
            FlanlabError: there is no such column.
        """
        self._refuse_unknown([name])
        values: list[Any] = self.arrow[name].to_pylist()
        return values

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dicts."""
        found: list[dict[str, Any]] = self.arrow.to_pylist()
        return found

    def to_pandas(self) -> Any:
        """A pandas DataFrame."""
        return self.arrow.to_pandas()

    def to_csv(self, path: Any) -> None:
        """Write a CSV file; an empty field stands for None."""
        pa_csv.write_csv(self.arrow, str(path))

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.arrow.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        shown = self.columns[:_SHOWN_COLUMNS]
        rows = self.arrow.select(shown).slice(0, _SHOWN_ROWS).to_pylist()
        texts = [[_text(value) for value in row.values()] for row in rows]
        widths = [max(map(len, column)) for column in zip(shown, *texts, strict=True)]
        lines = [
            "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in [shown, *texts]
        ]
        if len(self) > _SHOWN_ROWS:
            lines.append(f"... {len(self):,} rows")
        if len(self.columns) > _SHOWN_COLUMNS:
            lines.append(f"... {len(self.columns)} columns, listed by `columns`; `select` chooses some")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(self.to_pandas()._repr_html_())


def _text(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value).replace("\n", " ")
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
