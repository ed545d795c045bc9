from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlab.tasks.printing import TemplatingError
from flanlab.tasks.templating import check_syntax, compile_source, is_expression, variables_in
from tests.task_files import is_fine_or_refused, refusal

ROW = {"text": "sea", "label": 1, "words": ["a", "b"], "nothing": None, "facts": {"name": "Ann"}}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{{ label }}", 1),
        ("  {{ words }}\n", ["a", "b"]),
        ("{{ label >= 1 }}", True),
        ("{{ nothing }}", None),
        ("{{ [text, label] }}", ["sea", 1]),
        ("{{ words | map('upper') }}", ["A", "B"]),
        ("{{- label -}}", 1),
        ("{{-label}}", 1),
        ("{{ -label }}", -1),
        ("{{ label }} ", 1),
        ("{{ label }}.", "1."),
        ("{{ text }} {{ text }}", "sea sea"),
        ("{% if label %}yes{% endif %}", "yes"),
        ("{{ facts.name }}", "Ann"),
        ("text", "text"),
        ("{{ text if label == 0 }}", ""),
        ("a{{ text if label == 0 }}", "a"),
    ],
)
def test_a_lone_expression_keeps_its_type_and_all_else_is_text(source: str, value: Any) -> None:
    found = compile_source(source)(ROW)
    assert found == value
    assert type(found) is type(value)


def test_a_value_can_be_read_more_than_once() -> None:
    words = compile_source("{{ words | map('upper') }}")(ROW)
    assert list(words) == list(words) == ["A", "B"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "a {{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ text['__class__'] }}",
        "{{ text | attr('__class__') }}",
        "{{ words.__init__.__globals__ }}",
        "{{ range.__globals__ }}",
        "{{ (text ~ '').format.__self__.__class__ }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ words.append('c') }}",
        "{{ facts.update({'name': 'Bob'}) }}",
    ],
)
def test_the_sandbox_keeps_templates_from_python_and_from_changing_rows(source: str) -> None:
    error = refusal(lambda: compile_source(source)(ROW))
    assert isinstance(error, TemplatingError)
    assert "sandbox" in error.message
    assert ROW["words"] == ["a", "b"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ txet }}",
        "a {{ txet }}",
        "{{ [text, txet] }}",
        "{{ {'a': txet} }}",
        "{{ facts.age }}",
        "{{ facts.age.years }}",
        "{{ words[7] }}",
        "{{ words | map('upper') | map(attribute='txet') }}",
        "{{ txet | map('upper') }}",
    ],
)
def test_undefined_names_are_errors_wherever_they_hide(source: str) -> None:
    error = refusal(lambda: compile_source(source)(ROW))
    assert source[:20] in error.message
    assert "Known names: facts, label, nothing, text, words." in error.hint or "undefined" not in error.message


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{{ text", "line 1"),
        ("one\n{{ text }}\n{% if %}", "line 3"),
        ("{% for word in words %}", "line 1"),
        ("{{ text | shout }}", "shout"),
        ("{% if text is loud %}a{% endif %}", "loud"),
        ("{{ words | random }}", "random"),
        ("{{ }}", "line 1"),
        ("{{ text }} {% break %}", "break"),
    ],
)
def test_invalid_jinja_is_refused_before_any_row_is_seen(source: str, fault: str) -> None:
    assert fault in refusal(lambda: check_syntax(source)).message
    assert fault in refusal(lambda: compile_source(source)).message


@pytest.mark.parametrize(
    "source",
    [
        "{{ text + label }}",
        "{{ label // 0 }}",
        "{{ range(10 ** 9) | list }}",
        "{% include 'other' %}",
        "{{ facts | sort(attribute=1) | first | tojson }}{{ words | sum }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ label() }}",
        "{{ words | join(1, 2, 3, 4) }}",
        "{{ lipsum() }}",
    ],
)
def test_faults_of_a_row_are_told_as_such(source: str) -> None:
    refusal(lambda: compile_source(source)(ROW))


def test_null_is_never_written_as_a_word() -> None:
    error = refusal(lambda: compile_source("Value: {{ nothing }}")(ROW))
    assert "null" in error.message
    assert compile_source("Value: {{ nothing or 'none given' }}")(ROW) == "Value: none given"


@pytest.mark.parametrize(
    "value", [None, float("nan"), b"sea", ["sea", "sky"], {"a": "sea"}, ["sea", None]], ids=lambda value: str(type(value))
)
@pytest.mark.parametrize(
    "source",
    [
        "{{ x }}!",
        "{{ x | trim }}",
        "{{ x | upper }}",
        "{{ x | title }}",
        "{{ x | replace('e', 'a') }}",
        "{{ 'x' | replace('x', x) }}",
        "{{ x | truncate(3) }}",
        "{{ [x] | map('lower') | join(' ') }}",
        "{{ [x] | map('replace', 'e', 'a') | list }}",
        "{{ [x] | join(', ') }}",
        "{{ [{'a': x}] | join(', ', attribute='a') }}",
        "{{ 'Value: ' ~ x }}",
        "{{ 'Value: %s' % x }}",
        "{{ 'Value: %s and %s' % (1, x) }}",
        "{{ '%s' | format(x) }}",
    ],
)
def test_filters_and_operators_make_no_text_of_what_is_none(source: str, value: Any) -> None:
    told = "missing" if value is None or value != value else "bytes" if isinstance(value, bytes) else "Python code"
    assert told in refusal(lambda: compile_source(source)({"x": value})).message


@pytest.mark.parametrize("value", [None, float("nan"), b"sea"], ids=str)
def test_str_format_makes_no_text_of_what_is_none(value: Any) -> None:
    refusal(lambda: compile_source("{{ 'Value: {} {}'.format(1, x) }}")({"x": value}))
    assert compile_source("{{ '{a[b]}'.format(a=x) }} {{ '%(b)s' % x }}")({"x": {"b": "sea"}}) == "sea sea"


def test_a_label_as_text_may_be_missing_in_a_filter() -> None:
    keep = compile_source("{{ label | string in ['0', '1'] }}")
    assert [keep({"label": label}) for label in (0, "1", None, -1, "")] == [True, True, False, False, False]


@pytest.mark.parametrize("value", ["", None, "x", "1,000", float("nan"), [1]], ids=str)
@pytest.mark.parametrize("name", ["int", "float"])
def test_what_is_no_number_is_not_read_as_0(name: str, value: Any) -> None:
    assert "is not a number" in refusal(lambda: compile_source(f"{{{{ x | {name} }}}}")({"x": value})).message
    assert compile_source(f"{{{{ x | {name}(-1) }}}}")({"x": value}) == -1
    assert compile_source(f"{{{{ x | {name}(default=-1) }}}}")({"x": value}) == -1


def test_what_is_a_number_is_read_as_such() -> None:
    assert compile_source("{{ ['7', ' 7 ', 7.9, '7.9', true, 7] | map('int') | list }}")({}) == [7, 7, 7, 7, 1, 7]
    assert compile_source("{{ ['1e-3', 7] | map('float') | list }}")({}) == [0.001, 7.0]
    assert compile_source("{{ '1f' | int(0, 16) }}")({}) == 31


@pytest.mark.parametrize("label", [-1, 2, None, "0", 0.5])
@pytest.mark.parametrize(
    "source", ["{{ endings[label] }}", "{{ ['a', 'b'][label] }}", "{{ ('a', 'b')[label] }}", "{{ 'ab'[label] }}"]
)
def test_a_label_that_is_none_is_no_place_in_a_list(source: str, label: Any) -> None:
    error = refusal(lambda: compile_source(source)({"endings": ["a", "b"], "label": label}))
    assert f"[{label!r}] does not exist: labels go from 0 to 1" in error.message
    assert ("This label is text" in error.hint) == isinstance(label, str)


def test_places_that_are_written_may_count_from_the_end() -> None:
    row = {"a": ["x", "y", "z"], "n": 2, "d": {-1: "none", "k": "v"}, "label": -1, "k": "k"}
    source = "{{ a[-1] }}{{ a[-n] }}{{ a[n - 1] }}{{ a[-2:] | join }}{{ d[label] }}{{ d[k] }}{{ 'abc'[-1] }}{{ a[true] }}"
    assert compile_source(source)(row) == "zyyyznonevcy"
    assert compile_source("{{ a[n / 1] }}")(row) == "z"
    assert "'place' is undefined" in refusal(lambda: compile_source("{{ a[place] }}")(row)).message


@pytest.mark.parametrize(
    "source", ["a {{ self }}", "a {{ x.items }}", "{{ x.keys ~ '' }}", "{{ text.title | trim }}", "{{ range }}!"]
)
def test_methods_make_no_text(source: str) -> None:
    row = {"x": {"items": "I", "keys": "K"}, "text": "sea"}
    assert "which means something of its own in jinja2" in refusal(lambda: compile_source(source)(row)).message
    assert compile_source("{{ x['items'] }} {{ x['keys'] }} {{ text.title() }}")(row) == "I K Sea"


def test_a_decimal_prints_its_digits() -> None:
    row = {"a": Decimal("0E-10"), "b": Decimal("1.0E-7")}
    assert compile_source("{{ a }} {{ b ~ '' }} {{ [a] | join }} {{ {'b': [b]} | tojson }}")(row) == (
        '0.0000000000 0.00000010 0.0000000000 {"b": [0.00000010]}'
    )
    assert compile_source("{{ '%.2f' % b }} {{ '%.2f' | format(b) }}")(row) == "0.00 0.00"


def test_a_decimal_is_a_number_in_json() -> None:
    assert compile_source("{{ [price] | tojson }}")({"price": Decimal("1.10")}) == "[1.10]"


def test_true_is_printed_as_jinja2_does_and_as_json_by_tojson() -> None:
    assert compile_source("It is {{ value }}.")({"value": True}) == "It is True."
    assert compile_source("It is {{ value | tojson }}.")({"value": True}) == "It is true."


def test_nothing_random_can_be_written() -> None:
    source = "{{ words | join(' ') }} {{ text | upper }} {% for word in words %}{{ loop.index }}{% endfor %}"
    assert compile_source(source)(ROW) == "a b SEA 12"
    refusal(lambda: compile_source("{{ words | shuffle }}"))


def test_variables_in_names_what_comes_from_outside() -> None:
    assert variables_in("{% for word in words %}{{ word }}{{ text }}{% endfor %}") == {"words", "text"}


def test_is_expression() -> None:
    assert is_expression("{{ label >= 0 }}")
    assert not is_expression("label >= 0")
    assert not is_expression("{{ a }} and {{ b }}")


_FRAGMENTS = ["{{", "}}", "{%", "%}", "{#", "#}", "text", "label", " ", "|", ".", "if", "endif", "for", "in", "(", ")"]
_FRAGMENTS += ["[", "]", "'", "-", "+", "0", "1", "__class__", "set", "=", "raw", "\n", "upper", "words", ",", ":"]


@given(st.lists(st.sampled_from(_FRAGMENTS), max_size=14).map("".join))
def test_no_source_raises_anything_but_a_templating_error(source: str) -> None:
    assert is_fine_or_refused(lambda: compile_source(source)(ROW))


@pytest.mark.parametrize(
    "source",
    [
        "{{ 10 ** 1000000000 }}",
        "{{ text * 10 ** 9 }}",
        "{{ 10 ** 9 * [1] }}",
        "{{ text | center(10 ** 10) }}",
        "{{ text | indent(width=10 ** 10) }}",
        "{{ text | batch(10 ** 10, 'x') | list }}",
        "{{ text.ljust(10 ** 10) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (10 ** 10, 1) }}",
        "{{ '%9999999999s' | format(text) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 10) }}",
    ],
)
def test_nothing_grows_without_bound(source: str) -> None:
    with pytest.raises(TemplatingError, match="too large"):
        compile_source(source)({"text": "a"})


def test_ordinary_arithmetic_is_computed() -> None:
    source = "{{ 2 ** 8 }} {{ '-' * 3 }} {{ 7 % 4 }} {{ '%.2f' % 1 }} {{ text.center(5) }} {{ '{:>3}'.format(text) }}"
    assert compile_source(source)({"text": "a"}) == "256 --- 3 1.00   a     a"
