"""Which rows of a data set are train, dev and test."""

from __future__ import annotations

from collections.abc import Mapping

from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Split

DEV_ROWS = 200
"""Rows held back from a train split where there is no dev split."""
FEW_ROWS = 50
"""Rows from which on a single split is cut 80, 10 and 10 in a hundred."""


def guess_splits(usable: Mapping[str, tuple[list[int], int]]) -> tuple[dict[Split, str], str]:
    """Which rows are train, dev and test, and in words how that came about.

    Args:
        usable: split of the data to the numbers of those rows that the task keeps, and to how many rows it has.

    Raises:
        FlanlabError: too few rows.
    """
    kept = {split: rows for split, (rows, _) in usable.items() if rows}
    if list(kept) == ["test"]:
        return {"test": "test"}, "there are test rows only"
    dev = next((split for split in kept if split.startswith(("val", "dev"))), None)
    test = "test" if "test" in kept else None
    others = [split for split in kept if split not in (dev, test)] or ([dev] if dev else [])
    if not others:
        raise FlanlabError("No row has both an answer and an input.", hint="Name another answer with --answer COLUMN.")
    train = "train" if "train" in kept else max(others, key=lambda split: len(kept[split]))
    dev = None if dev == train else dev
    if dev and test:
        return {"train": train, "dev": dev, "test": test}, "as the data has them"
    rows, total = kept[train], usable[train][1]
    if (whole := dev or test) and len(rows) >= 2:
        held_back = total - rows[-min(DEV_ROWS, max(1, len(rows) // 10))]
        how = f"of the splits with answers only {train} and {whole} are left, so dev is the end of {train}"
        return {"train": f"{train}[:-{held_back}]", "dev": f"{train}[-{held_back}:]", "test": whole}, how
    if len(rows) < 3:
        raise FlanlabError(
            f"Only {len(rows)} rows have an answer and an input.",
            hint="Three are the least: one each to train on, to choose by, and to test on.",
        )
    # Of few rows more are kept aside, so that there is something to test on.
    first, second = (80, 90) if len(rows) >= FEW_ROWS else (50, 75)
    if len(rows) == total >= 4:
        cuts = f"[:{first}%]", f"[{first}%:{second}%]", f"[{second}%:]"
    else:
        # Counted in rows: those that are left out may stand anywhere.
        start, end = rows[max(1, len(rows) * first // 100)], rows[max(2, len(rows) * second // 100)]
        cuts = f"[:{start}]", f"[{start}:{end}]", f"[{end}:]"
    return {"train": train + cuts[0], "dev": train + cuts[1], "test": train + cuts[2]}, "the one split, cut in three"
