"""Short answers: each data set's rule, on cases worked out by hand from its published program."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlab.evaluation.metrics.answers import (
    exact_match,
    normalize_answer,
    squad_f1,
    squad_form,
    trivia_qa_f1,
    trivia_qa_form,
    valid_answer,
)
from tests.evaluation.predictions import said, score


@pytest.mark.parametrize("form", [squad_form, normalize_answer])
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("a cat, an owl,  the  dog", "cat owl dog"),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("it's", "its"),
        ("well-known", "wellknown"),
        ("3,000", "3000"),
        ("5.", "5"),
        ("it is ...5", "it is 5"),
        ("", ""),
    ],
)
def test_normal_form_as_in_squad(form: object, text: str, normal: str) -> None:
    assert form(text) == normal  # type: ignore[operator]


@pytest.mark.parametrize(
    ("left", "right"), [("-32", "32"), ("1.5", "15"), (".5", "5"), ("-.5", ".5"), ("(-3)", "3"), ("$1.50", "$150")]
)
def test_a_number_keeps_its_sign_and_point_but_in_squad(left: str, right: str) -> None:
    """A task with exact match alone may be about numbers; beside F1, SQuAD's own rule holds, for its published scores."""
    assert normalize_answer(left) != normalize_answer(right)
    assert score("exact_match", [said(left, right)]) == 0.0
    assert score("exact_match", [said(f"The {left}.", left)]) == 1.0
    assert squad_form(left) == squad_form(right)
    assert score("exact_match", [said(left, right)], "exact_match", "f1") == 1.0
    assert score("f1", [said(left, right)]) == 1.0


@pytest.mark.parametrize("option", ["A", "An", "the", "?", "-", "+"])
def test_an_option_of_which_the_normal_form_leaves_nothing_is_still_itself(option: str) -> None:
    assert exact_match(said(option.lower(), option)) == 1.0
    assert valid_answer(said(option, "B", options=("B", option))) == 1.0
    for other in ("", "B", "a the", "!", "C"):
        assert exact_match(said(other, option)) == 0.0


def test_an_article_beside_a_word_does_not_count() -> None:
    assert exact_match(said("A dog.", "the dog")) == 1.0


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("C", "C++"), ("C", "C#"), ("C++", "C#"), ("A+", "A"), ("A-", "A"), ("AB-", "AB"), ("1e-5", "1e5"), ("-x", "x"),
        ("-x + 3", "x + 3"), ("(-n)", "(n)"),
        ("x > y", "x < y"), ("x>y", "x<y"), ("x = y", "x > y"), ("x <= y", "x < y"), ("x != y", "x = y"), ("< 5", "> 5"),
        ("<5", "5"),
        ("a > b", "> b"), ("a + b", "a b"), ("2+3", "23"), ("2 * 3", "2 + 3"), ("2 - 3", "2 + 3"),
        ("2**3", "23"), ("x^2", "x2"),
        ("1/2", "12"), ("\u00bd", "12"), ("1,2", "12"), ("10:30", "1030"), ("3-1", "31"), ("10\u00b2", "102"),
        ("vitamin A", "vitamin"), ("hepatitis a", "hepatitis"),
    ],
)  # fmt: skip
def test_what_says_something_else_is_another_answer(left: str, right: str) -> None:
    assert score("exact_match", [said(left, right)]) == score("exact_match", [said(right, left)]) == 0.0
    assert score("exact_match", [said(left, left)]) == score("exact_match", [said(f" {left}. ", left)]) == 1.0


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("**Paris**", "paris"), ("=> Paris", "Paris"), ("<Paris>", "Paris"), ("# Paris", "Paris"), ("- Paris", "Paris"),
        ("`x < y`", "x < y"), ("(C#)", "c#"), ("+5", "5"), ("1,234,567", "1234567"), ("1,00,000", "100000"), ("$5", "5"),
        ("AT&T", "ATT"), ("and/or", "andor"), ("Paris - France", "Paris, France"), ("A. Paris", "Paris"),
        ("1914\u20131918", "1914-1918"),
        ("it\u2019s", "it's"), ("\u201cParis\u201d", "Paris"), ("\u00bd", "1/2"),
        ("cafe\u0301", "caf\u00e9"), ("\u200bParis", "Paris"),
        ("\uff39\uff45\uff53\uff01", "yes"), ("\uff11\uff12", "12"), ("\u5317\u4eac\u3002", "\u5317\u4eac"),
        ("\u0420\u043e\u0441\u0441\u0438\u044f!", "\u0440\u043e\u0441\u0441\u0438\u044f"),
        ("\u0646\u0639\u0645\u061f", "\u0646\u0639\u0645"), ("\u0939\u093e\u0901\u0964", "\u0939\u093e\u0901"),
    ],
)  # fmt: skip
def test_punctuation_and_forms_of_any_script_say_nothing(left: str, right: str) -> None:
    assert score("exact_match", [said(left, right)]) == score("exact_match", [said(right, left)]) == 1.0


@pytest.mark.parametrize(
    "options", [("C", "C++", "C#"), ("x < y", "x > y", "x = y"), ("5%", "5"), ("A", "a"), ("so!", "so", "So")]
)
def test_options_that_differ_are_never_the_same_answer(options: tuple[str, ...]) -> None:
    for answer in options:
        for right in options:
            prediction = said(answer, right, options=options)
            assert exact_match(prediction) == float(answer == right)
            assert valid_answer(prediction) == 1.0
    assert valid_answer(said("something else", options[0], options=options)) == 0.0


@given(st.text("abc .,!?'\"()thean", max_size=40))
def test_plain_words_are_as_in_squad(text: str) -> None:
    """But for an article that no word follows, and for a text of nothing else."""
    words = f"{text} word"
    assert normalize_answer(words) == squad_form(words)


def test_squads_form_sees_no_difference_between_two_ways_to_write_an_accent() -> None:
    decomposed, whole = "cafe\u0301 noir", "caf\u00e9 noir"
    for declared in ("f1", "trivia_qa_f1", "drop_f1", "edit_similarity"):
        assert score(declared, [said(decomposed, whole)]) == 1.0
        assert score("exact_match", [said(decomposed, whole)], declared, "exact_match") == 1.0


def test_minus_sign_and_hyphen_are_one() -> None:
    assert exact_match(said("\N{MINUS SIGN}32", "-32")) == 1.0


# Examples published with SQuAD and in Rajpurkar et al. (2016): articles and case do not count; any reference will do.
@pytest.mark.parametrize(
    ("given", "references", "match", "f1"),
    [
        ("Denver Broncos", ("Denver Broncos",) * 3, 1.0, 1.0),
        ("the Denver Broncos.", ("Denver Broncos", "Broncos"), 1.0, 1.0),
        ("Santa Clara, California", ("Levi's Stadium", "Santa Clara"), 0.0, 0.8),
        ("gold", ("gold", "golden"), 1.0, 1.0),
        ("February 7", ("February 7, 2016",), 0.0, 0.8),
        ("black black cat", ("black cat cat",), 0.0, 2 / 3),
        ("Carolina", ("Denver Broncos",), 0.0, 0.0),
        ("1976", ("1976",), 1.0, 1.0),
        ("", ("Denver",), 0.0, 0.0),
        # Where nothing is left of an answer, the program of SQuAD 2.0 takes it for "no answer".
        ("the", ("a",), 1.0, 1.0),
        ("the", ("a", "Denver"), 0.0, 0.0),
        ("Denver", ("a", "Denver"), 1.0, 1.0),
    ],
)
def test_squad(given: str, references: tuple[str, ...], match: float, f1: float) -> None:
    assert score("exact_match", [said(given, *references)], "f1", "exact_match") == match
    assert squad_f1(said(given, *references)) == pytest.approx(f1)


# TriviaQA's program puts a space where SQuAD's leaves nothing, and knows more quotes; it has no rule for empty answers.
@pytest.mark.parametrize(
    ("given", "references", "match", "f1"),
    [
        ("Jean-Paul Sartre", ("Jean Paul Sartre",), 1.0, 1.0),
        ("JeanPaul Sartre", ("Jean-Paul Sartre",), 0.0, 0.4),
        ("New_York_City", ("new york city",), 1.0, 1.0),
        ("\u2018Rock\u2019n\u2019Roll\u2019", ("rock n roll",), 1.0, 1.0),
        ("U.S.A.", ("USA",), 0.0, 0.0),
        ("U.S.A.", ("USA", "U. S. A."), 1.0, 1.0),
        ("The Beatles", ("Beatles", "Fab Four"), 1.0, 1.0),
        ("the", ("A",), 1.0, 0.0),
        ("the", ("A", "Denver"), 1.0, 0.0),
    ],
)
def test_trivia_qa(given: str, references: tuple[str, ...], match: float, f1: float) -> None:
    assert exact_match(said(given, *references), trivia_qa_form) == match
    assert trivia_qa_f1(said(given, *references)) == pytest.approx(f1)
    assert score("exact_match", [said(given, *references)], "exact_match", "trivia_qa_f1") == match
    assert score("trivia_qa_f1", [said(given, *references)]) == pytest.approx(f1)


def test_valid_answer_asks_for_an_option_right_or_wrong() -> None:
    options = ("positive", "negative")
    assert valid_answer(said("Negative.", "positive", options=options)) == 1.0
    assert valid_answer(said("I think positive", "positive", options=options)) == 0.0
