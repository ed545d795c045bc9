"""Each rule of the linter finds the fault planted for it, and a sound task has none."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flanlab.data.encoding import TextEncoder
from flanlab.data.lint import Finding, TaskLint, lint_task
from flanlab.data.lint_sample import unguarded_variables_in
from flanlab.data.reader import rows_within_reach
from flanlab.data.sources import Rows, load_rows
from flanlab.tasks.loading import load_collection
from flanlab.tasks.schema import Task

PROMPTS = [
    "{{ text }}\n\nIs this friendly, yes or no?",
    "Read the following remark and tell me if its author means well.\n\n{{ text }}",
    'A colleague sent me "{{ text }}" this morning. Should I take it kindly?',
    "Remark: {{ text }}\nKind:",
    "I sort letters to the editor. Would this one go onto the pile of kind ones?\n{{ text }}",
    "Here is what they wrote under my photograph:\n{{ text }}\nWas that nice of them?",
    "Judge the tone. {{ text }}",
    "Somebody shouted this across the street: {{ text }} Did it warm the heart of whoever heard it?",
]
INVERTED = [
    {"direction": "inverted", "prompt": "Make up a remark. Friendly: {{ answer }}", "target": "{{ text }}"},
    {"direction": "inverted", "prompt": "What might someone say whose mood is good ({{ answer }})?", "target": "{{ text }}"},
]
THINGS = ["hat", "garden", "song", "bread", "dog", "letter", "plan", "boat", "lamp", "story"]


def remarks(first: int, count: int) -> list[dict[str, Any]]:
    """Rows of a sound yes/no task, all different."""
    tones = ["I dislike your", "What a lovely"]
    return [{"text": f"{tones[n % 2]} {THINGS[n % 10]} number {n}", "label": n % 2} for n in range(first, first + count)]


def sound_splits() -> dict[str, list[dict[str, Any]]]:
    return {"train": remarks(0, 60), "dev": remarks(100, 20), "test": remarks(200, 40)}


def make_task(**changes: Any) -> Task:
    content: dict[str, Any] = {
        "name": "planted",
        "cluster": "sentiment",
        "source": {"files": {split: f"{split}.jsonl" for split in ("train", "dev", "test")}},
        "licence": "none",
        "fields": {"text": "{{ text }}"},
        "options": ["no", "yes"],
        "answer": "{{ options[label] }}",
        "metrics": ["accuracy"],
        "templates": [*({"prompt": prompt} for prompt in PROMPTS), *INVERTED],
        "baseline": {"prompt": "Remark: {{ text }}\nIs it friendly?"},
    }
    return Task.model_validate({key: value for key, value in {**content, **changes}.items() if value is not None})


def with_prompt(prompt: str, **more: Any) -> list[dict[str, Any]]:
    """The sound templates with another first one."""
    return [{"prompt": prompt, **more}, *({"prompt": other} for other in PROMPTS[1:]), *INVERTED]


def lint(
    task: Task,
    splits: dict[str, list[dict[str, Any]]] | None = None,
    encoder: TextEncoder | None = None,
    metadata: dict[str, str] | None = None,
) -> TaskLint:
    tables = {
        name: pa.Table.from_pylist(rows).replace_schema_metadata(metadata) for name, rows in (splits or sound_splits()).items()
    }
    rows = {name: Rows(table, range(table.num_rows), name) for name, table in tables.items()}
    return lint_task(task, rows, {"the tiny tokenizer": encoder} if encoder else {})


def only(result: TaskLint) -> Finding:
    """The one finding there is: a planted fault sets off its own rule and no other."""
    assert len(result.findings) == 1, result.findings
    return result.findings[0]


def errors(result: TaskLint) -> list[Finding]:
    return [finding for finding in result.findings if finding.level == "error"]


def about(finding: Finding) -> tuple[str, str, int | None]:
    return finding.level, finding.rule, finding.template


def change(splits: dict[str, list[dict[str, Any]]], every: int, **columns: Any) -> dict[str, list[dict[str, Any]]]:
    """The splits with columns replaced in each `every`-th row."""
    return {
        name: [{**row, **columns} if number % every == 0 else row for number, row in enumerate(rows)]
        for name, rows in splits.items()
    }


def test_a_sound_task_has_no_finding() -> None:
    result = lint(make_task())
    assert result.findings == []
    assert result.rows_checked == {"train": 60, "dev": 20, "test": 40}
    assert result.label_histogram["test"] == {"no": 20, "yes": 20}
    assert result.prompt_tokens is None


def test_rows_are_sampled_and_the_same_each_time() -> None:
    splits = {**sound_splits(), "train": remarks(300, 500)}
    # One bad row in seven, so that which rows are sampled shows in the finding.
    task = make_task(answer="{{ 'perhaps' if text[-1:] == '7' else options[label] }}")
    first, second = lint(task, splits), lint(task, splits)
    assert first.rows_checked["train"] == 200
    assert first.findings == second.findings
    assert only(first).row is not None


# ---- rows that do not render


def test_answer_that_is_no_option_is_told_once_for_all_templates() -> None:
    finding = only(lint(make_task(answer="{{ ['no', 'perhaps'][label] if text[-1:] == '9' else options[label] }}")))
    assert about(finding) == ("error", "not-renderable", None)
    assert "12 of 120 rows" in finding.message
    assert "'perhaps' is not among the options" in finding.message
    assert finding.row == 9
    assert finding.hint


def test_target_that_is_no_option_names_its_template() -> None:
    finding = only(lint(make_task(templates=with_prompt(PROMPTS[0], target="It is {{ answer }}"))))
    assert about(finding) == ("error", "not-renderable", 1)
    assert "120 of 120 rows" in finding.message


def test_field_that_cannot_be_worked_out() -> None:
    splits = change(sound_splits(), 3, label=5)
    rules = {finding.rule for finding in errors(lint(make_task(), splits))}
    assert rules == {"not-renderable"}
    finding = errors(lint(make_task(fields={"text": "{{ [text, text][label] }}"}), splits))[0]
    assert about(finding) == ("error", "unreadable-row", None)
    assert "1 of 120 rows" in finding.message
    assert "field text" in finding.message


# ---- rules about the file


def test_missing_splits() -> None:
    task = make_task(source={"files": {"test": "test.jsonl"}})
    finding = only(lint(task, {"test": sound_splits()["test"]}))
    assert about(finding) == ("warning", "missing-split", None)
    assert "train" in finding.message
    assert "dev" in finding.message


def test_too_few_templates() -> None:
    assert about(only(lint(make_task(templates=[{"prompt": prompt} for prompt in PROMPTS])))) == (
        "warning",
        "few-templates",
        None,
    )


def test_too_many_inverted_templates_leave_too_few_forward_ones() -> None:
    more = [
        {"direction": "inverted", "prompt": "Please invent a comment; kindness wanted? {{ answer }}", "target": "{{ text }}"},
        {"direction": "inverted", "prompt": "{{ answer }}. That is how warm your line shall be.", "target": "{{ text }}"},
    ]
    templates = [*({"prompt": prompt} for prompt in PROMPTS[:6]), *INVERTED, *more]
    assert [finding.rule for finding in lint(make_task(templates=templates)).findings] == ["few-forward", "many-inverted"]
    assert [finding.rule for finding in lint(make_task(templates=[*templates, {"prompt": PROMPTS[6]}])).findings] == [
        "many-inverted"
    ]


def test_the_same_template_twice_is_an_error_and_nearly_the_same_a_warning() -> None:
    same = lint(make_task(templates=with_prompt("  " + PROMPTS[1].replace("\n\n", "\n\n\n"))))
    assert about(only(same)) == ("error", "similar-templates", 2)
    near = lint(make_task(templates=with_prompt(PROMPTS[1].replace("tell me", "tell us"))))
    assert about(only(near)) == ("warning", "similar-templates", 2)


def test_opposite_directions_of_one_prompt_are_not_similar() -> None:
    task = make_task(
        fields={"text": "{{ text }}", "other": "{{ text | upper }}"},
        options=None,
        answer="{{ text | upper }}",
        metrics=["rouge"],
        templates=[
            *({"prompt": prompt} for prompt in PROMPTS),
            {"prompt": "Change the case of this line: {{ text }}"},
            {"prompt": "Change the case of this line: {{ other }}", "target": "{{ text }}"},
        ],
    )
    assert lint(task).findings == []


def test_prompt_without_a_field() -> None:
    finding = only(lint(make_task(templates=with_prompt("Is this friendly?"))))
    assert about(finding) == ("error", "no-field", 1)
    assert "text" in finding.hint


def test_inverted_prompt_without_a_field() -> None:
    inverted = {"direction": "inverted", "prompt": "Write a remark.", "target": "{{ text }}"}
    templates = [*({"prompt": prompt} for prompt in PROMPTS), INVERTED[0], inverted]
    assert about(only(lint(make_task(templates=templates)))) == ("error", "no-field", 10)


def test_prompt_that_shows_only_the_options_of_the_row_is_fine() -> None:
    assert "no-field" not in {
        finding.rule for finding in lint(per_row_task("Which is better: {{ options | join(' or ') }}?")).findings
    }
    assert "no-field" in {finding.rule for finding in lint(per_row_task("Which is better?")).findings}


def test_options_that_differ_only_in_capitals() -> None:
    same = lint(make_task(templates=with_prompt(PROMPTS[0], options=["Kind", "kind"])))
    assert about(only(same)) == ("error", "equal-options", 1)


@pytest.mark.parametrize("ending", ["{{ text }} is kind (", 'She said of {{ text }}: "', "To tell the truth about {{ text }},"])
def test_prompt_that_breaks_off(ending: str) -> None:
    assert about(only(lint(make_task(templates=with_prompt(ending))))) == ("warning", "unfinished-prompt", 1)


# ---- rules about rows


@pytest.mark.parametrize(
    ("prompt", "title", "rule"),
    [
        ("{{ title }}\n{{ text }}\nKind or not?", " ", "empty-field"),
        ("{{ title }}\n{{ text }}\nKind or not?", "NaN", "null-field"),
    ],
)
def test_empty_and_null_fields(prompt: str, title: str, rule: str) -> None:
    task = make_task(fields={"text": "{{ text }}", "title": "{{ title }}"}, templates=with_prompt(prompt))
    splits = change(change(sound_splits(), 1, title="A note"), 10, title=title)
    finding = only(lint(task, splits))
    assert about(finding) == ("error", rule, 1)
    assert "`title`" in finding.message
    assert "12 of 120 rows (first: train row 0)" in finding.message


def test_null_that_keeps_a_row_from_rendering_is_told_once() -> None:
    prompt = "{{ title | upper }}\n{{ text }}\nKind or not?"
    task = make_task(fields={"text": "{{ text }}", "title": "{{ title }}"}, templates=with_prompt(prompt))
    splits = change(change(sound_splits(), 1, title="A note"), 10, title=None)
    assert about(only(lint(task, splits))) == ("error", "not-renderable", 1)


def test_null_that_became_a_word() -> None:
    fields = {"text": "{{ text }}", "title": "{{ title }}, {{ place | string }}"}
    task = make_task(fields=fields, templates=with_prompt("{{ title }}\n{{ text }}\nKind or not?"))
    splits = change(change(sound_splits(), 1, title="A note", place="Bern"), 10, place=None)
    finding = only(lint(task, splits))
    assert about(finding) == ("error", "null-field", 1)
    assert "'none'" in finding.message
    said = change(sound_splits(), 1, title="None of us", place="Bern")
    assert lint(task, said).findings == []


def test_null_that_was_written_as_a_word() -> None:
    fields = {"text": "{{ text }}", "title": "{{ title }}"}
    task = make_task(fields=fields, templates=with_prompt("{{ title }}\n{{ text }}\nKind or not?"))
    finding = only(lint(task, change(change(sound_splits(), 1, title="A note"), 10, title="None")))
    assert about(finding) == ("warning", "null-field", 1)
    assert "'None' in the data" in finding.message


def test_field_that_the_template_asks_for_first_may_be_empty() -> None:
    task = make_task(
        fields={"text": "{{ text }}", "title": "{{ title }}"},
        templates=with_prompt("{% if title %}{{ title }}\n{% endif %}{{ text }}\nKind or not?"),
    )
    assert lint(task, change(change(sound_splits(), 1, title="A note"), 10, title=None)).findings == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{{ a }} {% if a %}{{ b }}{% endif %}", {"a", "b"}),
        ("{% if a and b %}{{ a }}{{ b }}{% endif %}", set()),
        ("{% if a is none %}-{% else %}{{ a }}{% endif %}", set()),
        ("{{ a or 'nothing' }} {{ b | default('', true) }} {{ c if c else d }}", {"d"}),
    ],
)
def test_variables_printed_without_asking(source: str, names: set[str]) -> None:
    assert unguarded_variables_in(source) == names


def test_expression_left_as_written() -> None:
    assert about(only(lint(make_task(templates=with_prompt("{text}\n{{ text }}\nKind?"))))) == ("error", "unfilled", 1)
    quoted = with_prompt("{{ '{{ text }}' }}\n{{ text }}\nKind?")
    assert about(only(lint(make_task(templates=quoted)))) == ("error", "unfilled", 1)
    assert errors(lint(make_task(), change(sound_splits(), 2, text="I keep writing {{ text }} in my notes"))) == []


def test_lists_written_as_python_code() -> None:
    splits = {split: [{**row, "tags": ["old", "new"]} for row in rows] for split, rows in sound_splits().items()}
    task = make_task(
        fields={"text": "{{ text }}", "tags": "{{ tags | trim }}"},
        templates=with_prompt("{{ text }}\n{{ tags }}\nIs it {{ options | join(' or ') }}?"),
    )
    finding = only(lint(task, splits))
    assert about(finding)[:2] == ("error", "unreadable-row")
    assert "printed as Python code (['old', 'new'])" in finding.message


def test_answer_in_a_forward_prompt() -> None:
    task = make_task(
        fields={"text": "{{ text }}", "mood": "{{ ['no', 'yes'][label] }}"},
        templates=with_prompt("{{ text }}\nMood: {{ mood }}\nKind?"),
    )
    finding = only(lint(task))
    assert about(finding) == ("error", "gold-in-prompt", 1)
    assert "100 points more often" in finding.message


def test_answer_often_in_a_forward_prompt_is_a_warning() -> None:
    task = make_task(
        fields={"text": "{{ text }}", "mood": "{{ ['no', 'yes'][label] if text[-1:] | int < 6 else 'unknown' }}"},
        templates=with_prompt("{{ text }}\nMood: {{ mood }}\nKind?"),
    )
    assert about(only(lint(task))) == ("warning", "gold-in-prompt", 1)


def test_instruction_that_names_one_answer_always_gives_nothing_away() -> None:
    assert lint(make_task(templates=with_prompt("{{ text }}\nSay yes if that is kind."))).findings == []


def test_answer_within_a_longer_answer_is_not_shown() -> None:
    task = make_task(
        fields={"text": "{{ text }}", "mood": "{{ ['not kind', 'kind'][label] }}"},
        options=["not kind", "kind"],
        templates=with_prompt("{{ text }}\nMood: {{ mood }}\nSo?"),
    )
    assert "100 points more often" in only(lint(task)).message


def per_row_task(prompt: str, options: str = "{{ choices }}", answer: str = "{{ choices[label] }}") -> Task:
    return make_task(
        source={"files": {"train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"}},
        fields={
            "text": "{{ text }}",
            "choices": "{{ ['night ' ~ text.split() | last, 'day ' ~ text.split() | last] }}",
            "label": "{{ label }}",
        },
        options=options,
        answer=answer,
        templates=with_prompt(prompt),
    )


def test_answer_of_the_row_in_a_forward_prompt() -> None:
    assert lint(per_row_task("{{ text }}\nWhen: {{ choices | join(' or ') }}?")).findings == []
    finding = only(lint(per_row_task("{{ text }}\nWas it {{ choices[label] }}?")))
    assert about(finding) == ("error", "gold-in-prompt", 1)


def test_right_option_always_at_one_place() -> None:
    result = lint(per_row_task(PROMPTS[0], options="{{ [choices[label], choices[1 - label]] }}"))
    assert [about(finding) for finding in result.findings] == [
        ("error", "gold-position-dev", None),
        ("error", "gold-position-test", None),
        ("error", "gold-position-train", None),
    ]
    assert result.label_histogram["train"] == {"1": 60}


def test_right_option_mostly_at_one_place() -> None:
    options = "{{ choices if text[-1:] == '9' else [choices[label], choices[1 - label]] }}"
    # Only train has rows enough to say.
    assert about(only(lint(per_row_task(PROMPTS[0], options=options)))) == ("warning", "gold-position-train", None)


def writing_task(templates: Sequence[dict[str, Any]]) -> Task:
    return make_task(options=None, answer="{{ 'They said: ' ~ text }}", metrics=["rouge"], templates=list(templates))


def test_target_in_a_short_prompt_but_not_in_a_long_one() -> None:
    ten = [*({"prompt": prompt} for prompt in PROMPTS), {"prompt": "Report this: {{ text }}"}]
    assert lint(writing_task([*ten, {"prompt": "Who said what? {{ text }}"}])).findings == []
    finding = only(lint(writing_task([*ten, {"prompt": "Copy. They said: {{ text }}"}])))
    assert about(finding) == ("warning", "target-in-prompt", 10)
    passage = "{{ text }} They said: {{ text }} " + "And much more was said about it that day. " * 5
    assert lint(writing_task([*ten, {"prompt": passage}])).findings == []


def test_target_that_never_varies() -> None:
    templates = [*make_task().model_dump()["templates"][:9], {**INVERTED[1], "target": "A remark"}]
    assert about(only(lint(make_task(templates=templates)))) == ("error", "constant-target", 10)


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ("{{ text }}\\nIs that kind?", "literal-newline"),
        ("{{ text }}\n\n\n\nIs that kind?", "blank-lines"),
    ],
)
def test_layout(prompt: str, rule: str) -> None:
    finding = only(lint(make_task(templates=with_prompt(prompt))))
    assert about(finding) == ("warning", rule, 1)
    assert "120 of 120 rows" in finding.message


def test_tex_commands_are_no_line_breaks() -> None:
    assert lint(make_task(templates=with_prompt("{{ text }}\nIs $a \\neq b$ kind? And $\\nu$?"))).findings == []


def test_layout_fault_of_the_text_is_told_once() -> None:
    splits = change(sound_splits(), 2, text="Well\\nI like you")
    findings = [finding for finding in lint(make_task(), splits).findings if finding.rule == "literal-newline"]
    # Each forward template prints it in the prompt, each inverted one in the target.
    assert [about(finding) for finding in findings] == [("warning", "literal-newline", None)]


def test_doubled_punctuation() -> None:
    splits = {name: [{**row, "text": row["text"] + "."} for row in rows] for name, rows in sound_splits().items()}
    finding = only(lint(make_task(templates=with_prompt("Is it kind to say {{ text }}?")), splits))
    assert about(finding) == ("warning", "doubled-punctuation", 1)
    assert ".?" in finding.message
    assert lint(make_task(templates=with_prompt('Is it kind to say "{{ text }}"?')), splits).findings == []


def test_label_that_is_missing_and_label_that_prevails() -> None:
    test = [{"text": f"So be it {number}", "label": 0} for number in range(20)]
    result = lint(make_task(), {**sound_splits(), "test": test})
    assert [about(finding) for finding in result.findings] == [
        ("warning", "missing-label-test", None),
        ("warning", "one-label-test", None),
    ]
    assert "'yes'" in result.findings[0].message
    assert "'no' in 20 of 20 rows" in result.findings[1].message


def test_rows_of_the_test_split_in_train() -> None:
    splits = sound_splits()
    splits["test"] += splits["train"][:3]
    finding = only(lint(make_task(), splits))
    assert about(finding) == ("warning", "train-row-in-test", None)
    assert "3 of 43 test rows" in finding.message


def test_same_words_with_other_options_are_another_row() -> None:
    task = make_task(
        fields={"text": "{{ text }}"}, options="{{ choices }}", answer="{{ choices[label] }}", templates=with_prompt(PROMPTS[0])
    )
    splits = {
        name: [{**row, "text": row["text"][:12], "choices": [f"{name} {n}", f"not {name} {n}"]} for n, row in enumerate(rows)]
        for name, rows in sound_splits().items()
    }
    assert "train-row-in-test" not in {finding.rule for finding in lint(task, splits).findings}
    splits["test"] = splits["train"][:20]
    assert "20 of 20" in next(f.message for f in lint(task, splits).findings if f.rule == "train-row-in-test")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    """A tokenizer of whole words, made here."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[END]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return TextEncoder(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[END]"))


def test_lengths(encoder: TextEncoder) -> None:
    result = lint(make_task(templates=[{"prompt": "Kind? {{ text }}"}]), encoder=encoder)
    assert result.prompt_tokens is not None
    # "Kind?", the six words of a remark, "OPTIONS:", "-", "no", "-" and "yes".
    assert (result.prompt_tokens.median, result.prompt_tokens.maximum) == (1 + 6 + 5, 1 + 6 + 5)


def test_long_prompts_and_targets(encoder: TextEncoder) -> None:
    splits = change(sound_splits(), 3, text="so kind " * 600)
    rules = [(about(finding), finding.message) for finding in lint(make_task(), splits, encoder).findings]
    by_rule = {rule: message for (_, rule, _), message in rules}
    assert "more than 1024 tokens" in by_rule["long-prompts"]
    assert "templates 9, 10" in by_rule["long-targets"]
    assert not {"long-prompts", "long-targets"} & {f.rule for f in lint(make_task(), encoder=encoder).findings}


# ---- the tasks that come with the package


@pytest.mark.parametrize("task", load_collection("sampler"), ids=lambda task: task.name)
def test_sampler_is_sound(task: Task) -> None:
    rows = {split: load_rows(task, split) for split in ("train", "dev", "test")}
    assert lint_task(task, rows, None).findings == []


@pytest.mark.skipif("FLANLAB_MIRROR" not in os.environ, reason="needs a mirror of the real rows in FLANLAB_MIRROR")
@pytest.mark.parametrize("task", load_collection("library"), ids=lambda task: task.name)
def test_library_has_no_errors(task: Task) -> None:
    rows, _ = rows_within_reach(task, None)
    if not rows:
        pytest.skip("the mirror has no rows of it")
    assert errors(lint_task(task, rows, None, rows_per_split=40)) == []


# ---- baseline prompts, separators, labels, and the join of prompt and answer


def test_task_without_a_baseline_prompt() -> None:
    assert about(only(lint(make_task(baseline=None)))) == ("warning", "no-baseline", None)


def test_baseline_prompt_is_held_against_rows_too() -> None:
    finding = only(lint(make_task(baseline={"prompt": "{{ text }}", "options": "{{ [text, text] }}"})))
    assert about(finding) == ("error", "not-renderable", 0)
    finding = only(lint(make_task(baseline={"prompt": "{{ text }} {{ options[label] }} Friendly?"}, fields=LABELLED)))
    assert about(finding) == ("error", "gold-in-prompt", 0)


LABELLED = {"text": "{{ text }}", "label": "{{ label }}"}


def test_one_shard_of_several() -> None:
    files = {"train": "data/train-00000-of-00002.parquet", "dev": "dev-00000-of-00001.parquet", "test": "test.jsonl"}
    finding = only(lint(make_task(source={"files": files})))
    assert about(finding) == ("warning", "one-shard", None)
    assert "one of 2 files of the split train" in finding.message


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ("{{ text }}nIs this friendly, yes or no?", "lost-newline"),
        ("{{ text }}n\nIs this friendly, yes or no?", "lost-newline"),
        ("{{ text }}Is this friendly, yes or no?", "missing-separator"),
        ("Is this friendly, yes or no?Remark{{ text }}", "missing-separator"),
    ],
)
def test_fields_that_run_into_words(prompt: str, rule: str) -> None:
    finding = only(lint(make_task(templates=with_prompt(prompt))))
    assert (finding.rule, finding.template) == (rule, 1)


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ text }}s, they said. Friendly?",
        "{{ text }}'s author: a friend?",
        "{{ text }}{{ '' if text else 'n' }} Friendly, yes or no?",
        "re-{{ text }} Friendly, yes or no?",
        "«{{ text }}»: friendly, yes or no?",
    ],
)
def test_endings_and_marks_beside_a_field_are_fine(prompt: str) -> None:
    assert lint(make_task(templates=with_prompt(prompt))).findings == []


def features(*names: str) -> dict[str, str]:
    label = {"names": list(names), "_type": "ClassLabel"}
    return {"huggingface": json.dumps({"info": {"features": {"text": {"_type": "Value"}, "label": label}}})}


def test_options_in_another_order_than_the_labels_of_the_data() -> None:
    """As in the original's prompts for CB: the words of the labels, one place off."""
    finding = only(lint(make_task(), metadata=features("yes", "no")))
    assert about(finding) == ("error", "wrong-label", None)
    assert "is 'yes'" in finding.message
    assert lint(make_task(), metadata=features("No", "YES")).findings == []
    assert lint(make_task(), metadata=features("hostile", "friendly")).findings == []


def test_one_template_with_its_own_words_in_the_wrong_order() -> None:
    templates = with_prompt(PROMPTS[0], options=["friendly", "hostile"])
    finding = only(lint(make_task(templates=templates), metadata=features("hostile", "friendly")))
    assert about(finding) == ("error", "wrong-label", 1)


def test_labels_reached_through_a_field() -> None:
    task = make_task(fields={"text": "{{ text }}", "tone": "{{ 1 - label }}"}, answer="{{ options[tone] }}")
    assert about(only(lint(task, metadata=features("no", "yes")))) == ("error", "wrong-label", None)


@pytest.mark.parametrize("marks", [["[1]", "[2]"], ["(a)", "(b)"], ["1)", "2)"]])
def test_answers_that_are_marks_of_a_list(marks: list[str]) -> None:
    finding = only(lint(make_task(templates=with_prompt(PROMPTS[0], options=marks))))
    assert about(finding) == ("warning", "mark-for-answer", 1)


def test_numbers_and_letters_may_be_answers() -> None:
    assert lint(make_task(templates=with_prompt(PROMPTS[0], options=["0", "1"]))).findings == []


def merging_encoder(separator_and: str) -> TextEncoder:
    """A tokenizer that makes one token of the separator and what follows it."""
    tokenizer = Tokenizer(models.BPE(vocab={"<end>": 0}, merges=[], byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"\n{separator_and}"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>"], min_frequency=1)
    tokenizer.train_from_iterator([f"\n{separator_and}", *PROMPTS, *(row["text"] for row in remarks(0, 300))] * 20, trainer)
    return TextEncoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>"))


def test_answer_whose_beginning_merges_with_the_separator() -> None:
    finding = only(lint(make_task(), encoder=merging_encoder("yes")))
    assert about(finding) == ("warning", "merged-boundary", None)
    assert "the tiny tokenizer" in finding.message


def test_byte_level_and_sentencepiece_tokenizers_keep_answers_apart(encoder: TextEncoder) -> None:
    assert lint(make_task(), encoder=encoder).findings == []
    assert lint(make_task(), encoder=sentencepiece_like_encoder()).findings == []


def sentencepiece_like_encoder() -> TextEncoder:
    """Unigram over words that carry their space, as SentencePiece makes them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<end>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator([*PROMPTS, *(row["text"] for row in remarks(0, 300)), "yes\nno\n"] * 5, trainer)
    return TextEncoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>"))


def test_two_labels_of_the_data_with_one_answer() -> None:
    splits = change(sound_splits(), 6, label=2)
    finding = only(lint(make_task(answer="{{ 'yes' if label == 1 else 'no' }}"), splits))
    assert about(finding) == ("warning", "merged-labels", None)
    assert "'no' for each of the labels 0, 2" in finding.message


def test_prompt_that_offers_two_of_three_answers() -> None:
    splits = {name: [{**row, "label": n % 3} for n, row in enumerate(rows)] for name, rows in sound_splits().items()}
    templates = [{"prompt": prompt.replace(", yes or no?", "?")} for prompt in PROMPTS]
    templates[3] = {"prompt": "{{ text }}\n\nAnswer friendly or rude: how was that?"}
    finding = only(lint(make_task(options=["rude", "friendly", "neither"], templates=[*templates, *INVERTED]), splits))
    assert about(finding) == ("warning", "options-partly-named", 4)
    assert "'neither'" in finding.message
