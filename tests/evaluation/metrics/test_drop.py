"""DROP's exact match and F1 on cases worked out by hand from the rules of its program."""

from __future__ import annotations

import pytest

from tests.evaluation.predictions import said, score


@pytest.mark.parametrize(
    ("given", "references", "match", "f1"),
    [
        # Numbers by value; a number that differs leaves nothing, however many words are shared.
        ("3", ("3",), 1.0, 1.0),
        ("3.0", ("3",), 1.0, 1.0),
        ("1,200", ("1200",), 1.0, 1.0),
        ("$1,200", ("1200.00",), 1.0, 1.0),
        ("1.5", ("15",), 0.0, 0.0),
        ("4 yards", ("3 yards",), 0.0, 0.0),
        ("3 yards", ("3",), 0.0, 0.67),
        ("yards", ("3 yards",), 0.0, 0.0),
        ("about 3 yards", ("3 yards",), 0.0, 0.8),
        # A hyphen parts words; so a sign is lost.
        ("-5", ("5",), 1.0, 1.0),
        ("80-yard", ("80 yard",), 1.0, 1.0),
        # Articles, case and punctuation as in SQuAD; words count once.
        ("The Denver Broncos.", ("denver broncos",), 1.0, 1.0),
        ("Broncos", ("the Denver Broncos",), 0.0, 0.67),
        ("black black cat", ("black cat cat",), 0.0, 1.0),
        ("Raiders", ("Denver Broncos",), 0.0, 0.0),
        ("", ("Denver",), 0.0, 0.0),
        # Dates as the program writes them.
        ("10 June 1943", ("10 June 1943",), 1.0, 1.0),
        ("June 1943", ("10 June 1943",), 0.0, 0.8),
        ("10 June 1944", ("10 June 1943",), 0.0, 0.67),
        ("12 June 1944", ("10 June 1943",), 0.0, 0.0),
        # The best reference counts, for each score by itself.
        ("Broncos", ("Raiders", "Broncos"), 1.0, 1.0),
        # Several spans: any order; paired best; what is left over counts 0.
        ("Tom Brady; Peyton Manning", ("Peyton Manning; Tom Brady",), 1.0, 1.0),
        ("Brady; Peyton Manning", ("Peyton Manning; Tom Brady",), 0.0, 0.83),
        ("Peyton Manning", ("Peyton Manning; Tom Brady",), 0.0, 0.5),
        ("Peyton Manning; Tom Brady; Eli", ("Peyton Manning; Tom Brady",), 0.0, 0.67),
        ("Peyton Manning; Peyton Manning", ("Peyton Manning",), 0.0, 0.5),
        # The pairing is the best as a whole: the span that is right would do better to leave its place to the other.
        ("red blue green gold; gold", ("red blue green gold; red blue green",), 0.0, 0.63),
    ],
)
def test_drop(given: str, references: tuple[str, ...], match: float, f1: float) -> None:
    rows = [said(given, *references)]
    assert score("exact_match", rows, "drop_f1", "exact_match") == match
    assert score("drop_f1", rows) == f1


def test_mean_of_rounded_rows() -> None:
    """The program rounds each row: two thirds count 0.67."""
    rows = [said("Broncos", "the Denver Broncos"), said("3 yards", "3"), said("no", "3")]
    assert score("drop_f1", rows) == pytest.approx((0.67 + 0.67) / 3)
