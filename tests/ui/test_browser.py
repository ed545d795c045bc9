"""Each tab in a real Chromium, on a wide page and on a phone's; with nothing fetched but from the app itself.

FLANLAB_SCREENSHOTS names a folder in which pictures of the pages are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flanlab.tasks.loading import load_task
from flanlab.ui.workplace import Workplace

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
WIDTHS = (1200, 390)


class Seen:
    """A page, and what it did that it should not."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.address = address
        self.faults: list[str] = []
        page.on("request", lambda request: self._note("request", request.url, not request.url.startswith(address)))
        page.on("pageerror", lambda error: self._note("error", str(error)))
        page.on("dialog", lambda dialog: self._note("dialog", dialog.message))
        page.on("console", lambda message: self._note("console", message.text, message.type == "error"))

    def _note(self, kind: str, text: str, is_fault: bool = True) -> None:
        if is_fault:
            self.faults.append(f"{kind}: {text}")

    def open(self, place: str) -> None:
        self.page.goto(self.address + place)

    def check(self, name: str) -> None:
        """Nothing strange happened, and the page is not wider than the window."""
        width = self.page.viewport_size["width"]
        if folder := os.environ.get("FLANLAB_SCREENSHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}-{width}.png"))
        assert self.faults == []
        assert self.page.evaluate("document.documentElement.scrollWidth") <= width
        assert self.page.locator("main img, main script").count() == 0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def seen(request: pytest.FixtureRequest, chromium: Any, address: str) -> Iterator[Seen]:
    context = chromium.new_context(viewport={"width": request.param, "height": 900})
    context.set_default_timeout(120_000)
    yield Seen(context.new_page(), address)
    context.close()


def test_tasks(seen: Seen) -> None:
    page = seen.page
    seen.open("/")
    page.fill("[name=q]", "visitor")
    page.click("button:text-is('Search')")
    page.wait_for_load_state()
    assert page.locator("tbody tr").count() == 1
    seen.check("tasks")
    page.click("text=visitor_comments")
    first = page.locator(".card pre").first.inner_text()
    page.click("text=Next row")
    assert page.locator(".card pre").first.inner_text() != first
    seen.check("task")
    seen.open("/task?task=hostile")
    assert "<script>alert" in page.locator(".card pre").first.inner_text()
    seen.check("task-hostile")


def test_editor(seen: Seen, workplace: Workplace) -> None:
    page = seen.page
    seen.open("/editor?task=visitor_comments&template=1")
    page.fill("[name=prompt]", "{{ comment }}\n<b>Good</b> or <script>alert(1)</script>?")
    page.wait_for_selector("#preview pre:has-text('<b>Good</b> or <script>')")
    assert "tokens" in page.locator("#preview h3").first.inner_text()
    page.fill("[name=prompt]", "{{ comment }} {{ label }}")
    page.wait_for_selector("#preview .fault:has-text('no field')")
    seen.faults = [fault for fault in seen.faults if "400" not in fault]  # the browser tells of refused forms
    page.fill("[name=prompt]", "{{ comment }}\nGood or bad?")
    page.wait_for_selector("#preview pre:has-text('Good or bad?')")
    # What is not saved yet outlives the page.
    seen.open("/editor?task=visitor_comments&template=1")
    assert page.input_value("[name=prompt]") == "{{ comment }}\nGood or bad?"
    assert page.is_visible("#restored")
    page.click("text=Score on 20 rows")
    page.wait_for_selector("#score .card")
    assert page.locator("#score .card").count() == 20
    assert page.locator("#score .card").first.locator("meter").count() == 4
    seen.check("editor")
    page.fill("[name=name]", "mine")
    page.click("button:text-is('Save')")
    page.wait_for_selector("[data-saved]")
    assert load_task(workplace.save_to / "mine.yaml").templates[0].prompt == "{{ comment }}\nGood or bad?"
    page.click("text=Go on with mine")
    assert page.input_value("[name=name]") == "mine"
    seen.check("editor-saved")


def test_results(seen: Seen) -> None:
    page = seen.page
    seen.open("/results")
    page.select_option("[name=other]", "1")
    page.select_option("[name=metric]", "accuracy")
    page.click("button:text-is('Show')")
    page.locator("td", has_text="second: tuned").first.wait_for()
    seen.check("results")
    page.locator(".heat td a").first.click()
    page.select_option("[name=flipped]", "1:tuned")
    page.select_option("[name=right]", "right")
    page.click("button:text-is('Show')")
    assert "right; in the other run wrong" in page.locator(".card h3").first.inner_text()
    seen.check("predictions")
    seen.open("/predictions?run=1&text=question+1")
    page.click("text=Next page")
    assert "<script>alert" in page.locator(".card pre").first.inner_text()
    seen.check("predictions-hostile")


def test_try(seen: Seen, workplace: Workplace, tiny_folders: dict[str, Path]) -> None:
    page = seen.page
    workplace.models = [str(tiny_folders["llama"]), str(tiny_folders["qwen2"])]
    seen.open("/try?task=visitor_comments")
    page.fill("textarea", "A <b>lovely</b> place.")
    page.select_option("[name=other]", workplace.models[1])
    page.click("button:text-is('Ask')")
    page.wait_for_selector("#answer .card >> nth=1")
    assert page.locator("#answer meter").count() == 4
    seen.check("try")
    seen.open("/try")
    page.select_option("[name=other]", workplace.models[1])
    for question in ("Which number comes after seven?", "And <b>then</b>?"):
        page.fill("[name=question]", question)
        page.click("button:text-is('Ask')")
        page.wait_for_selector(f"#answer .asked:has-text('{question}') >> nth=1")
    assert page.locator("#answer .card").first.locator(".asked").count() == 2
    assert page.input_value("[name=question]") == ""
    seen.check("try-text")
    words = page.locator("#answer").evaluate(
        "place => { place.ariaBusy = 'true'; const style = getComputedStyle(place, '::after'); return style.content }"
    )
    assert words == '"Working ..."', "also where earlier answers are shown"
    # Nothing of it is lost where the app or the browser stops.
    page.fill("[name=question]", "Not asked yet")
    page.route("**/try/answer", lambda route: route.abort())
    page.click("button:text-is('Ask')")
    page.wait_for_selector("text=The app does not answer")
    page.unroute("**/try/answer")
    seen.faults = []  # the browser tells of the answer that did not come
    assert page.locator("#answer .asked").count() == 4
    again = page.context.new_page()
    page.close()
    again.goto(seen.address + "/try")
    again.wait_for_selector("#answer .asked >> nth=3")
    assert again.input_value("[name=question]") == "Not asked yet"
    again.click("text=New conversation")
    again.wait_for_selector("#answer .asked", state="detached")


def test_a_browser_that_closes_mid_way_loses_no_draft(seen: Seen) -> None:
    page = seen.page
    seen.open("/editor?task=visitor_comments&template=1")
    page.click("text=About the task")
    page.fill("[name='about:description']", "<i>Mine</i>")
    page.select_option("[name=direction]", "inverted")
    page.select_option("[name=direction]", "forward")
    page.fill("[name=prompt]", "{{ comment }} Well?")
    with page.expect_request("**/editor/score"):
        page.click("text=Score on 20 rows")
    again = page.context.new_page()
    page.close()
    again.goto(seen.address + "/editor?task=visitor_comments&template=1&row=3")
    assert again.input_value("[name=prompt]") == "{{ comment }} Well?"
    assert again.input_value("[name='about:description']") == "<i>Mine</i>"
    assert again.is_visible("#restored")
    again.wait_for_selector("#preview pre:has-text('Well?')")
    seen.page = again
    seen.check("editor-about")
    again.click("text=Discard it")
    again.wait_for_selector("#restored", state="hidden")
    assert "Well?" not in again.input_value("[name=prompt]")
