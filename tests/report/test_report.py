"""The page: complete, exact, safe to open, and made from files alone."""

from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flanlab.errors import FlanlabError
from flanlab.evaluation.classification import calibration_error, confusion
from flanlab.report.html import write_report
from flanlab.report.page import Group, Table
from flanlab.report.predictions import classification_blocks
from flanlab.report.run import Run
from flanlab.results.files import read_results
from flanlab.tasks.loading import load_collections, select_tasks
from tests.report.synthetic import HOSTILE, TEMPLATES, change, make_run, mark_seen, prediction, rows_of

RIGHT = {"untuned_instruction": 3, "untuned_chat": 5, "tuned": 9}
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, table cells, and that everything is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.values: list[float] = []
        self.ids: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if tag == "data" and name == "value":
                self.values.append(float(value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    @property
    def headings(self) -> list[str]:
        return re.findall(r"<h2[^>]*>(.*?)</h2>", self.source)


def page_of(folder: Path, **options: Any) -> Page:
    path = write_report(folder, **options)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), RIGHT)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return page_of(folder)


def test_all_parts_are_there_in_order(page: Page) -> None:
    assert page.headings == [
        "Task by task",
        "Cluster by cluster",
        "Template by template",
        "Right and wrong by class",
        "Learning curve",
        "What it was trained on",
        "Example predictions",
        "Notes",
    ]
    assert "A note to the reader." in page.text
    assert "far_away: held out" in page.text
    assert "target too long" in page.text
    assert "the first 60 examples, one whole round of the mixture" in page.text
    assert "name: synthetic" in page.text
    assert "62 min" in page.text


def test_tables_hold_the_very_numbers_of_the_results(folder: Path, page: Page) -> None:
    results = read_results(folder)
    shown = set(page.values)
    for score in results.scores:
        if score.template == "mean" and score.level in ("task", "tasks"):
            assert {score.mean, *score.interval} <= shown
        if score.level == "task" and score.metric in ("valid_answers", "exact_match", "accuracy"):
            assert {score.mean, score.std, score.min, score.max} - {None} <= shown
    for row in results.differences:
        if row.level in ("task", "tasks"):
            assert {row.difference, *row.interval} <= shown


def test_each_row_of_a_table_has_its_own_tasks_numbers(folder: Path, page: Page) -> None:
    results = read_results(folder)
    table = page.source[page.source.index('aria-label="Ranking accuracy, all tasks"') :]
    row = table[table.index("visitor_") : table.index("</tr>", table.index("visitor_"))]
    scores = results.scored("task", "visitor_comments", "accuracy")
    bold = [float(value) for value in re.findall(r'<b><data value="([^"]+)"', row)]
    difference = results.difference("task", "visitor_comments", "accuracy")
    assert difference is not None
    untuned = (scores[variant].mean for variant in RIGHT if variant != "tuned")
    assert bold[:4] == [scores["tuned"].mean, difference.difference, *untuned], "what matters first"
    assert "before: chat prompt" in row


def test_plots_are_named_and_follow_the_page_in_colour(page: Page) -> None:
    plots = [part for part in re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL) if 'role="img"' in part]
    assert len(plots) == 5
    for plot in plots:
        assert re.match(r'<svg viewBox="[^"]+" role="img" aria-label="[^"]{30,}"', plot)
        # Whatever colour matplotlib was told, the page's variables must have taken its place.
        assert not re.search(r"#[0-9a-f]{6}\b(?!\")", re.sub(r'(href="|url\()#\w+', "", plot))
    assert "average: untuned, instruction prompt 30.0, untuned, chat prompt 50.0, tuned 90.0." in plots[3]
    # Chance is drawn for accuracy alone.
    assert [plot.count("stroke-dasharray") for plot in plots] == [1, 0, 0, 3, 0]


def test_ids_are_unique(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("examples", [True, False])
def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path, examples: bool) -> None:
    folder = make_run(
        tmp_path / "run",
        RIGHT,
        prompt=HOSTILE,
        name=HOSTILE,
        description=HOSTILE,
        notes=[HOSTILE],
        left_out={HOSTILE: HOSTILE},
        hold_out=[HOSTILE],
    )
    change(folder, lambda r: [variant.update(title=HOSTILE, model=HOSTILE) for variant in r["variants"].values()])
    page = page_of(folder, examples=examples)
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert "49" not in page.text.split("Task by task")[0].replace("{{ 7 * 7 }}", "")
    assert page.text.count('<script>alert("x")</script>') > (12 if examples else 5)


def test_nothing_is_fetched(page: Page) -> None:
    for tag, name, value in page.attributes:
        assert name not in {"src", "srcset", "poster", "action", "data", "background"}, (tag, name)
        if name.endswith("href"):
            assert value.startswith("#"), (tag, value)
        assert not name.startswith("on"), (tag, name)
    assert not re.search(r"@import|url\((?!#)", page.source)
    # A list, not `not in`: of a whole page pytest would make a comparison that takes minutes.
    assert re.findall(r"https?://\S*", page.source) == []
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_examples_show_what_was_asked_answered_and_right(page: Page) -> None:
    shown = re.findall(r"Template (\d+), row (\d+)", page.text)
    assert len(shown) == 12
    # Three right ones, then three wrong ones, of each task; template 1 has no wrong ones here.
    assert "".join(template for template, _ in shown) == "145245" * 2
    first = page.source[page.source.index('<details class="fold example right">') :]
    first = first[: first.index("</details>")]
    right = re.search(r"Right answer</dt><dd><q>(\w+)", first)
    ranked = re.search(r"Ranked</dt><dd>(\w+)", first)
    said = re.search(r"</span> <q>(\w+)</q>", first)
    assert right is not None
    assert ranked is not None
    assert said is not None
    assert right.group(1) == ranked.group(1) == said.group(1)
    # exp(-1) : exp(-3)
    assert re.findall(r">(88.1|11.9)<", first) == ["88.1", "11.9"]


def test_long_prompts_are_in_full_behind_a_click(tmp_path: Path) -> None:
    prompt = "A long story. " * 400
    page = page_of(make_run(tmp_path / "run", {"tuned": 9, "untuned_instruction": 3}, prompt=prompt))
    assert page.source.count(f'<pre class="verbatim" tabindex="0">{prompt} Question') == 12
    previews = re.findall(r'<span class="preview">(.*?)</span>', page.source, flags=re.DOTALL)
    assert {len(preview) for preview in previews} == {222}


def test_a_verdict_and_three_numbers_come_first(folder: Path, page: Page) -> None:
    assert (
        '<p class="verdict">Held-out accuracy: +40.0 points; format followed: no change detected; right answer written:'
        " +40.0 points.</p>"
    ) in page.source
    numbers = page.source[page.source.index('<dl class="numbers">') :]
    numbers = numbers[: numbers.index("</dl>")]
    results = read_results(folder)
    shown = [float(value) for value in re.findall(r'<data value="([^"]+)"', numbers)]
    differences = [results.difference("tasks", None, metric) for metric in ("accuracy", "valid_answers", "exact_match")]
    assert shown == [number for one in differences if one for number in (one.difference, *one.interval)]
    assert page.source.index('<dl class="numbers">') < page.source.index("<figure") < page.source.index('<ul class="summary">')


def test_the_verdict_of_an_evaluation_says_whether_it_beats_guessing(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", {"instruction": 8}, trained=False))
    assert "Accuracy: 80.0\u202f%, clearly above guessing (50.0\u202f%); format followed: 100.0\u202f%" in page.text
    page = page_of(make_run(tmp_path / "other", {"instruction": 5}, trained=False))
    assert "Accuracy: 50.0\u202f%, not clearly apart from guessing" in page.text


def test_templates_stand_with_their_words(page: Page) -> None:
    task = select_tasks(load_collections(["sampler"]), ["product_reviews"])[0]
    table = page.source[page.source.index('aria-label="product_reviews, template by template"') :]
    table = table[: table.index("</table>")]
    assert [html.unescape(words) for words in re.findall(r"<q>(.*?)</q>", table, flags=re.DOTALL)] == [
        task.templates[number - 1].prompt for number in TEMPLATES
    ]


def test_a_classifier_is_shown_by_class_with_its_calibration(folder: Path, page: Page) -> None:
    records = [prediction("product_reviews", 1, row, row > 0, False, "Good?") for row in range(5)]
    _, group = classification_blocks(read_results(folder), "tuned", {"product_reviews": records})
    assert isinstance(group, Group)
    matrix = group.blocks[0]
    assert isinstance(matrix, Table)
    assert {row.name: [cell.value for cell in row.cells[:2]] for row in matrix.rows} == {"negative": [2, 1], "positive": [0, 2]}
    assert matrix.columns[:2] == ["said\nnegative", "said\npositive"]
    assert "product_reviews, right answers against predictions" in page.source
    error = calibration_error(Run(folder).predictions("product_reviews", "tuned").rows())
    assert f"expected calibration error {error * 100:.1f} points" in page.text
    chat = page_of(make_run(folder.parent / "french", {"instruction": 5}, tasks=["everyday_french"], trained=False))
    assert "Right and wrong by class" not in chat.headings


def test_zero_shot_and_in_domain_stand_side_by_side(tmp_path: Path) -> None:
    tasks = ("product_reviews", "visitor_comments", "everyday_entailment")
    folder = make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9}, tasks=tasks, in_domain=["everyday_entailment"])
    page = page_of(folder)
    assert "Held-out accuracy: +60.0 points; in-domain accuracy: +60.0 points; format followed" in page.text
    picture = page.source[page.source.index("<figure") : page.source.index("</figure>")]
    assert re.findall(r'aria-label="([\w-]+), over (\d tasks?)', picture) == [("Zero-shot", "2 tasks"), ("In-domain", "1 task")]
    table = page.source[page.source.index('aria-label="Ranking accuracy, all tasks"') :]
    names = re.findall(r'<th scope="row">(.*?)</th>', table[: table.index("</table>")])
    told = [re.sub(r"<.*?>", "", name) for name in names]
    assert told == ["product_reviews", "visitor_comments", "average", "everyday_entailment in-domain"]


def test_examples_can_be_left_out(folder: Path) -> None:
    page = page_of(folder, examples=False)
    assert "Question" not in page.text.replace("Questions", "")
    assert "left out of this copy" in page.text


def test_predictions_of_a_run_are_judged_as_its_scores_are(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", RIGHT)

    def right() -> int:
        tables = [Run(folder).predictions(task, "tuned").rows() for task in ("product_reviews", "visitor_comments")]
        return sum(row["count"] for table in tables for row in confusion(table) if row["gold"] == row["prediction"])

    assert right() == 2 * 144
    change(folder, lambda r: [variant["settings"].update(end_token=False) for variant in r["variants"].values()])
    assert right() == 2 * 16


def test_scores_without_end_tokens_are_used_where_the_results_were_made_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9})
    assert "Ranked the right answer first (144 of 160)" in page_of(folder).text
    change(folder, lambda r: [variant["settings"].update(end_token=False) for variant in r["variants"].values()])
    assert "Ranked the right answer first (16 of 160)" in page_of(folder).text


def test_an_evaluation_without_training_leaves_the_rest_out(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", {"instruction": 8}, trained=False))
    assert page.headings == [
        "Task by task",
        "Cluster by cluster",
        "Template by template",
        "Right and wrong by class",
        "Example predictions",
        "Notes",
    ]
    assert "difference" not in page.text.lower()
    assert "before" not in page.text.partition("Template by template")[0].lower()
    assert len(re.findall(r"Template (\d+), row (\d+)", page.text)) == 12


def test_a_single_variant_before_needs_no_choice_of_prompt(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9}))
    assert "hollow" not in page.text
    assert "“Before”" not in page.text


def test_what_the_model_has_seen_is_marked(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"instruction": 8}, trained=False)
    mark_seen(folder, "product_reviews", "instruction")
    page = page_of(folder)
    assert "This is no zero-shot result: the model was trained on product_reviews" in page.text
    assert "product_reviews seen in training" in page.text
    assert "sentiment, 2 tasks with tasks seen in training" in page.text
    assert "average with tasks seen in training" in page.text
    assert "visitor_comments seen in training" not in page.text


def test_what_cannot_be_known_is_said_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"instruction": 8}, trained=False)
    said = "Whether the model has seen these tasks is unknown: it carries no stamp."
    assert page_of(folder).text.count(said) == 1
    run = make_run(tmp_path / "other", {"untuned_instruction": 3, "tuned": 9})
    assert page_of(run).text.count(said.replace("the model", "the untuned model")) == 1
    change(folder, lambda r: r["variants"]["instruction"].update(stamped=True))
    assert "unknown" not in page_of(folder).text


def test_best_templates_on_dev_are_told_with_their_interval(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"untuned_instruction": 3, "untuned_baseline": 4, "tuned": 9})

    def choose(content: dict[str, Any]) -> None:
        best = {"template": 4, "metric": "accuracy", "dev_score": 0.4321, "dev_rows": 150}
        content["tasks"]["product_reviews"]["best_on_dev"] = {"untuned_instruction": best, "tuned": best}
        content["tasks"]["visitor_comments"]["best_on_dev"] = {}
        for variant in ("untuned_instruction", "tuned"):
            (row,) = rows_of(content, task="product_reviews", metric="accuracy", variant=variant)
            numbers = {"mean": 0.3456, "low": 0.1111, "high": 0.6666}
            content["scores"].append({**row, "template": "best on dev", **numbers})

    change(folder, choose)
    page = page_of(folder)
    assert "The template that is best on dev" in page.headings
    assert {0.4321, 0.3456, 0.1111, 0.6666} <= set(page.values)
    assert "template 4, 43.2 on 150 dev rows" in page.text
    mean = read_results(folder).main_scores("product_reviews")["tuned"].mean
    assert f"mean over templates {100 * mean:.1f}" in page.text
    assert "no dev split" in page.text
    assert "one prompt" in page.text


def test_generation_tasks_are_told_by_their_main_metric(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", RIGHT, tasks=["product_reviews", "everyday_french"]))
    plots = re.findall(r'aria-label="(\S+ ?\S*), times 100', page.source)
    assert plots == ["Valid answers", "Exact match", "Ranking accuracy", "BLEU"]
    assert "Generated a reference, word for word (144 of 160)" in page.text
    # There is no metric that both have, so nothing is averaged.
    assert "on average" not in page.text


def test_missing_predictions_are_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"tuned": 9, "untuned_instruction": 2})
    for part in folder.glob("predictions/tuned/*/*.parquet"):
        part.unlink()
    assert "holds no predictions to show" in page_of(folder).text


def test_the_same_files_give_the_same_page(folder: Path) -> None:
    assert page_of(folder).source == page_of(folder).source


def damage(folder: Path, path: str, content: str | None) -> None:
    target = next(folder.glob(path))
    if content is None:
        target.unlink()
    else:
        target.write_text(content)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("results.json", None),
        ("results.json", "{"),
        ("results.json", "[]"),
        ("results.json", "{}"),
        ("mixture.json", '{"planned_examples": 1}'),
        ("run.json", "3"),
        ("training/log.jsonl", '{"step": 1, "loss": '),
        ("training/log.jsonl", '{"step": 1}\n'),
        ("predictions/tuned/product_reviews/shard-00000.parquet", "no parquet"),
    ],
)
def test_damaged_files_are_named_and_nothing_is_written(tmp_path: Path, path: str, content: str | None) -> None:
    folder = make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9})
    damage(folder, path, content)
    with pytest.raises(FlanlabError, match=re.escape(path)) as caught:
        write_report(folder)
    assert caught.value.hint
    assert not list(folder.glob("*report*"))


@pytest.mark.parametrize(
    ("how", "place"),
    [
        (lambda r: r.update(format=1), "format 1"),
        (lambda r: r["scores"].remove(rows_of(r, task="product_reviews", metric="accuracy")[0]), "product_reviews"),
        (lambda r: r["tasks"]["product_reviews"].update(main_metric="f1"), "main_metric"),
        (lambda r: rows_of(r, "differences", level="tasks")[0].update(before="nobody"), "tasks, accuracy"),
        (lambda r: rows_of(r, level="tasks")[0].update(mean=float("nan")), "mean"),
        (lambda r: r["tasks"].update({"../../elsewhere": r["tasks"].pop("product_reviews")}), "elsewhere"),
    ],
)
def test_results_that_do_not_hang_together_are_refused(tmp_path: Path, how: Any, place: str) -> None:
    folder = make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 9})
    change(folder, how)
    with pytest.raises(FlanlabError, match=place):
        write_report(folder)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out(page: Page, scheme: str) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", page.source, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light if scheme == "light" else dark))

    def contrast(name: str, ground: str) -> float:
        darker, lighter = sorted((luminance(colours[name]), luminance(colours[ground])))
        return (lighter + 0.05) / (darker + 0.05)

    for ground in ("paper", "raised"):
        assert min(contrast(name, ground) for name in ("ink", "soft", "link")) >= 4.5
    assert min(contrast(f"series-{place}", "paper") for place in range(3)) >= 3


def test_dev_losses_are_drawn_where_they_were_measured(folder: Path, page: Page, tmp_path: Path) -> None:
    assert "Loss on dev rows" not in page.text
    run = Path(shutil.copytree(folder, tmp_path / "run"))
    log = run / "training" / "log.jsonl"
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    for step in steps:
        if step["step"] in (1, 20, 40):
            step["dev_loss"] = {"closed_book_qa": 5 / step["step"] + 0.25, "commonsense": 2.125}
    log.write_text("".join(json.dumps(step) + "\n" for step in steps))
    text = write_report(run).read_text()
    (drawing,) = re.findall(r'<figure class="wide">.*?</figure>', text, flags=re.DOTALL)
    assert "closed-book QA 5.25, then 0.38, commonsense 2.12, then 2.12" in drawing
    assert drawing.count(">0.38<") == drawing.count(">2.12<") == 1


def test_cautions_about_intervals_stand_in_the_notes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"tuned": 7}, trained=False)

    def add(content: dict[str, Any]) -> None:
        for one in content["scores"]:
            one["note"] = ""
        means = [one for one in content["scores"] if one["template"] == "mean"]
        means[0]["note"], means[1]["note"] = "odd rows; few seeds", "few seeds"

    change(folder, add)
    text = write_report(folder).read_text(encoding="utf-8")
    assert "2 intervals: few seeds." in text
    assert "1 interval: odd rows." in text
