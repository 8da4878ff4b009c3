"""The report as a person meets it: opened from a file in a real browser, without a network."""

from __future__ import annotations

import os
import shutil

import pytest

from evaluate.report.contents import gather
from evaluate.report.drawing.seconds import Stage
from evaluate.report.page import render
from evaluate.results.files import write_result
from evaluate.results.record import SeedValues
from tests.evaluate.many_results import write_many
from tests.evaluate.synthetic import picture, write_all, zero_shot

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here to open the report in"),
]

WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
LEAST_CONTRAST = 4.5
"""The contrast of text with its ground that WCAG 2.2, 1.4.3, asks for at level AA."""

TEXTS = """() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, ground) => [0, 1, 2].map((i) => top[i] * top[3] + ground[i] * (1 - top[3])).concat(1);
  const light = (c) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const grounds = (element) => {
    const found = [ground(element)];
    const shape = element.closest("svg")?.querySelector(".shape");
    if (shape) {
      const style = getComputedStyle(shape);
      found.push(over([...parse(style.fill).slice(0, 3), Number(style.fillOpacity)], found[0]));
    }
    return found;
  };
  const words = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((element) => words(element) && element.checkVisibility())
    .filter((element) => !element.closest("script, title, desc, .unseen, .skip"))
    .map((element) => {
      const style = getComputedStyle(element);
      const text = parse(element.closest("svg") ? style.fill : style.color);
      const ratios = grounds(element).map((behind) => {
        const [one, other] = [light(over(text, behind)), light(behind)].sort((a, b) => b - a);
        return (one + 0.05) / (other + 0.05);
      });
      const scale = element.closest("svg") ? element.closest("svg").getBoundingClientRect().width / 340 : 1;
      return {
        ratio: Math.min(...ratios),
        size: parseFloat(style.fontSize) * scale,
        where: `${element.tagName}.${element.getAttribute("class")}: ${element.textContent.trim().slice(0, 40)}`,
      };
    });
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Chromium refuses its sandbox to root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = write_all(tmp_path_factory.mktemp("results"))
    record, found = zero_shot("mmkd", "lungs")
    candidates = [{"text": "a caption " * 12, "correct": place == 1, "score": 0.5} for place in range(3)]
    examples = [
        {
            "id": "a-very-long-name-of-a-test-image-without-any-space-in-it-0001.png",
            "kind": "retrieval",
            "target": "<b>not bold</b> " * 6,
            "predicted": "a caption",
            "candidates": [{**candidate, "thumbnail_jpeg_base64": picture(5)} for candidate in candidates],
            "thumbnail_jpeg_base64": picture(4),
        }
    ]
    examples.append({"id": "a" * 60, "kind": "sample", "target": "x " * 40, "predicted": "y " * 40})
    update = {"task": "retrieval", "details": {"examples": examples}, "seeds": {"auroc": SeedValues.of([0.8, 0.9])}}
    write_result(folder, record.model_copy(update=update), found)
    path = folder / "report.html"
    stages = {"teachers": Stage(seconds=61, parts={"a teacher with a long name": 58.2, "b": 1})}
    title, note = "Evaluation of a student and its teachers", "a note"
    path.write_text(render(gather(folder), title=title, note=note, stages=stages))
    return path


class Opened:
    """A page, with what it said and asked for."""

    def __init__(self, browser, report, *, width=1400, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce", offline=True
        )
        self.page = self.context.new_page()
        self.said = []
        self.requests = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())
        self.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.context.close()


def readable_texts(page):
    """Return the texts of a page, which does not scroll sideways; each has enough contrast and is not too small."""
    wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1], "the page scrolls sideways"
    texts = page.evaluate(TEXTS)
    assert [text for text in texts if text["ratio"] < LEAST_CONTRAST] == []
    assert [text for text in texts if text["size"] < 11] == []
    return texts


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_readable(browser, report, width, scheme):
    with Opened(browser, report, width=width, scheme=scheme) as opened:
        assert len(readable_texts(opened.page)) > 300


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = write_many(tmp_path_factory.mktemp("many"))
    path = folder / "report.html"
    path.write_text(render(gather(folder), title="Eleven models on twelve test sets"))
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_many_results_are_readable(browser, many, width, scheme):
    with Opened(browser, many, width=width, scheme=scheme) as opened:
        readable_texts(opened.page)
        cut = opened.page.evaluate(
            """() => [...document.querySelectorAll("#confusion .scroll")].filter((one) =>
              one.scrollWidth > one.clientWidth + 1).map((one) => one.querySelectorAll("thead th").length - 1)"""
        )
        table = opened.page.locator("#tasks .scroll")
        hidden = table.evaluate("(one) => one.scrollWidth - one.clientWidth")
    assert [classes for classes in cut if classes <= 7 or width > 1000] == [], "a confusion is cut off"
    assert width < 1000 or hidden <= 0, "models are cut off on a wide screen"


def test_on_paper_everything_is_unfolded(browser, many):
    with Opened(browser, many) as opened:
        opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = false; })")
        opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert opened.page.locator("details:not([open])").count() == 0
        opened.page.emulate_media(media="print")
        assert opened.page.locator("nav").is_hidden()
        assert len(opened.page.pdf()) > 100_000


def test_light_and_dark_are_different(browser, report):
    grounds = set()
    for scheme in SCHEMES:
        with Opened(browser, report, scheme=scheme) as opened:
            grounds.add(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_nothing_goes_wrong_and_nothing_is_asked_of_a_network(browser, report):
    with Opened(browser, report) as opened:
        for button in opened.page.locator("th button").all():
            button.click()
        opened.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        assert opened.page.evaluate(
            """async () => {
              for (const image of document.images) image.loading = "eager";
              await Promise.all([...document.images].map((image) => image.decode()));
              return [...document.images].every((image) => image.naturalWidth > 50);
            }"""
        )
        assert opened.said == []
        assert [url for url in opened.requests if not url.startswith("data:")] == [report.as_uri()]


def test_the_browser_is_told_to_refuse_what_is_not_the_pages_own(browser, report):
    with Opened(browser, report) as opened:
        refused = opened.page.evaluate(
            """() => new Promise((done) => {
              const found = [];
              document.addEventListener("securitypolicyviolation", (event) => {
                found.push(event.effectiveDirective);
                if (found.length === 2) done(found.sort());
              });
              document.body.append(Object.assign(document.createElement("img"), { src: "https://example.org/a.png" }));
              document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = 1" }));
            })"""
        )
        assert refused == ["img-src", "script-src-elem"]
        assert opened.page.evaluate("window.ran") is None


def test_a_table_is_sorted_by_keyboard_and_says_so(browser, report):
    with Opened(browser, report) as opened:
        page = opened.page
        table = page.locator("#tasks table.sortable").last
        head = table.locator("thead th", has_text="biomedclip")
        for _ in range(60):
            page.keyboard.press("Tab")
            if head.locator("button").evaluate("(button) => button === document.activeElement"):
                break
        else:
            pytest.fail("the head of a column cannot be reached by Tab")
        assert head.locator("button").evaluate("(button) => getComputedStyle(button).outlineStyle") == "solid"
        order = {}
        for key in ("Enter", "Space"):
            page.keyboard.press(key)
            order[head.get_attribute("aria-sort")] = values(table, head)
            assert page.locator("#said").inner_text() == f"Sorted by biomedclip, {head.get_attribute('aria-sort')}."
        assert table.locator("thead th[aria-sort]").count() == 1
    for down, up in zip(order["descending"], order["ascending"], strict=True):
        assert down == sorted(down, reverse=True)
        assert up == down[::-1]
    assert max(len(values) for values in order["ascending"]) == 4


def values(table, head):
    """Return the values of a column by task, in the order of the rows; what leads a task stays first."""
    place = head.evaluate("(head) => head.cellIndex")
    bodies = table.locator("tbody").evaluate_all(
        """(bodies, place) => bodies.map((body) => [...body.rows].map((row) =>
          row.classList.contains("group") ? "group" : row.cells[place].dataset.value))""",
        place,
    )
    for body in bodies:
        assert body == sorted(body, key=lambda value: value != "group")
    return [[float(value) for value in body if value not in ("group", "")] for body in bodies]


def test_what_has_no_value_is_sorted_last_both_ways(browser, report):
    with Opened(browser, report) as opened:
        table = opened.page.locator("#results table")
        head = table.locator("thead th", has_text="overlap")
        for _ in range(2):
            head.locator("button").click()
            cells = table.locator("tbody tr").evaluate_all("(rows) => rows.map((row) => row.cells[8].textContent)")
            checked = [cell != "not checked" for cell in cells]
            assert checked == sorted(checked, reverse=True)
            assert any(checked)


def test_plots_and_tables_have_names_for_who_does_not_see_them(browser, report):
    with Opened(browser, report) as opened:
        for kind in ("img", "region", "table", "columnheader", "navigation", "main"):
            assert opened.page.get_by_role(kind).count() >= 1
        pictures = opened.page.get_by_role("img").all()
        names = [picture.evaluate("(one) => one.alt || one.querySelector('title').textContent") for picture in pictures]
        plots = opened.page.locator("svg")
        assert plots.count() >= 6
        assert plots.evaluate_all(
            "(all) => all.every((one) => one.getAttribute('aria-labelledby').split(' ')"
            ".every((id) => document.getElementById(id).textContent.trim()))"
        )
        assert all(name.strip() for name in names)
        assert opened.page.locator("h1").count() == 1
        assert opened.page.locator("figure.plot:not(:has(table))").count() == 0


def test_what_scrolls_can_be_scrolled_by_keyboard(browser, report):
    with Opened(browser, report, width=400) as opened:
        region = opened.page.locator("#results .scroll")
        assert region.evaluate("(one) => one.scrollWidth > one.clientWidth")
        region.focus()
        opened.page.keyboard.press("ArrowRight")
        # The page's policy forbids the waiting that Playwright does by eval.
        region.evaluate("(one) => new Promise((done) => { one.onscroll = done; if (one.scrollLeft > 0) done(); })")
        head = region.locator("tbody th").first
        assert head.evaluate("(one) => one.getBoundingClientRect().left") < 40, "the model's name scrolls out of sight"
