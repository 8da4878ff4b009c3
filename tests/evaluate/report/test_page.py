from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from evaluate.report.comparison import Evidence, compare
from evaluate.report.contents import gather
from evaluate.report.page import render
from evaluate.report.wording import in_words
from evaluate.results.files import read_results, write_result
from evaluate.results.record import SeedValues
from evaluate.tasks.survival import kaplan_meier
from store.errors import EvaluationError
from store.report.elements import table
from store.svg import shape
from tests.evaluate.synthetic import model_facts, picture, skipped, write_all, zero_shot

NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """The content of a page: elements with their attributes, and all its text."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.words = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def html(folder):
    return render(gather(folder), title="Evaluation")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def page_of(folder):
    return Page(render(gather(folder), title="Evaluation"))


def test_a_text_is_escaped_and_markup_is_not():
    assert shape("text", NASTY, class_=NASTY).count("<") == 2
    assert shape("text", "1 < 2", x=1.25, text_anchor="end") == '<text x="1.2" text-anchor="end">1 &lt; 2</text>'
    shown = table(NASTY, [NASTY], [[NASTY, shape("b", "x")]])
    assert "<b>x</b>" in shown
    assert not re.search(r"<script|<img", shown)


def test_the_page_says_every_number_with_its_interval(page, folder):
    for record in read_results(folder):
        if record.dataset.name != "brains":
            metric = record.metrics["auroc"]
            assert f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]" in page.text


def test_the_page_says_how_an_interval_was_made_and_why_one_is_not_to_be_trusted(tmp_path):
    record, found = zero_shot("mmkd", "lungs")
    metric = record.metrics["auroc"].model_copy(update={"method": "effective_agresti_coull", "caution": "rests on 3"})
    write_result(tmp_path, record.model_copy(update={"metrics": {**record.metrics, "auroc": metric}}), found)
    text = page_of(tmp_path).text
    assert f"effective agresti coull, {metric.resamples:,} {record.bootstrap.mode}" in text
    assert "(not to be trusted)" in text
    assert "; not to be trusted: rests on 3" in text


def test_the_page_says_n_split_versions_overlap_and_seeds(tmp_path):
    record, found = zero_shot("mmkd", "lungs")
    seeds = {"auroc": SeedValues.of([0.8, 0.82, 0.9])}
    write_all(tmp_path, models=("mmkd",), datasets=("lungs",))
    write_result(tmp_path, record.model_copy(update={"seeds": seeds, "task": "linear_probe"}), found)
    text = page_of(tmp_path).text
    for part in ("n = 90", "split-1-", "mmkd-dig", "3 exact, 12 near in demo", "not checked", "no training seeds"):
        assert part in text
    assert f"{np.mean([0.8, 0.82, 0.9]):.3f} ± {np.std([0.8, 0.82, 0.9], ddof=1):.3f} (3)" in text


def test_what_was_skipped_stands_there_with_its_reason(page):
    assert "its files are missing: fetch them from https://example.org" in page.text
    assert "biomedclip, mmkd, pmc_clip" in page.text


def test_differences_are_those_of_the_comparison(page, folder):
    results = read_results(folder)
    comparison = compare(results, "mmkd", "pmc_clip", evidence=Evidence(folder, resamples=1000))
    for row in comparison.rows:
        found = row.difference
        shown = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]".replace("-", "−")
        assert shown in page.text
    assert f"mmkd is better on {comparison.count('better')}, undecided on" in page.text


def test_a_student_is_compared_with_every_teacher_and_no_teacher_with_another(page):
    titles = re.findall(r"(\w+) against (\w+)\.", page.text)
    assert sorted(set(titles)) == [("mmkd", "biomedclip"), ("mmkd", "pmc_clip")]


def test_every_plot_has_a_title_a_description_and_a_table(html, page):
    figures = re.findall(r"<figure.*?</figure>", html, flags=re.DOTALL)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert len(figures) == len(page.all("svg")) == 1 + 1 + 3 + 2  # headline, ranks, three radars, two forest plots
    for figure in figures:
        (svg,) = Page(figure).all("svg")
        assert svg["role"] == "img"
        assert set(svg["aria-labelledby"].split()) <= ids
        assert re.search(r"<title[^>]*>[^<]+</title><desc[^>]*>[^<]+</desc>", figure)
        assert "<table" in figure
    assert len(ids) == html.count(' id="')


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(html, page):
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    for name in ("style", "script"):
        (inner,) = re.findall(rf"<{name}>(.*?)</{name}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    addresses = [attributes.get(key) for _, attributes in page.elements for key in ("src", "href", "action", "srcset")]
    assert all(address.startswith(("data:", "#")) for address in addresses if address is not None)
    assert not re.search(r"@import|url\(", html)
    assert not [
        name for _, attributes in page.elements for name in attributes if name == "style" or name.startswith("on")
    ]


def test_names_captions_and_reasons_are_shown_and_not_run(tmp_path):
    examples = [
        {
            "id": NASTY,
            "kind": "retrieval",
            "question": NASTY,
            "target": NASTY,
            "predicted": NASTY,
            "candidates": [{"text": NASTY, "correct": False, "score": 0.5}],
            "thumbnail_jpeg_base64": picture(1),
        }
    ]
    details = {"classes": [NASTY, "b", "c"], "confusion": [[1, 2, 3]] * 3, "examples": examples}
    record, found = zero_shot("mmkd", "lungs", details=details, excluded={NASTY: 3})
    dataset = record.dataset.model_copy(update={"title": NASTY, "modality": NASTY})
    model = model_facts("mmkd").model_copy(update={"name": NASTY})
    write_result(tmp_path, record.model_copy(update={"dataset": dataset, "model": model}), found)
    write_result(tmp_path, skipped("biomedclip", "brains", reason=NASTY))
    shown = page_of(tmp_path)
    assert len(shown.all("script")) == 1
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in shown.all("img"))
    assert shown.text.count("<script>alert(1)</script>") >= 9
    assert f"test image {NASTY}" in [image["alt"] for image in shown.all("img")]


def test_confusion_is_shown_as_shares_of_the_true_class(page, folder):
    record = next(one for one in read_results(folder) if (one.model.name, one.dataset.name) == ("mmkd", "lungs"))
    first = record.details["confusion"][0]
    cells = [cell for cell in page.all("td") if cell.get("title") == f"{first[0]} taken for class 0"]
    assert len(cells) >= 1
    assert f"1 class 0 30 items {100 * first[0] / sum(first):.0f}" in page.text


def test_of_many_classes_the_frequent_confusions_are_listed(tmp_path):
    confusion = np.eye(40, dtype=int) * 5
    confusion[7, 9] = 15
    details = {"classes": [f"kind {number}" for number in range(40)], "confusion": confusion.tolist()}
    write_result(tmp_path, *zero_shot("mmkd", "lungs", details=details))
    assert "kind 7 kind 9 75% of its items (15)" in page_of(tmp_path).text


def test_a_model_alone_needs_no_comparison(tmp_path):
    write_result(tmp_path, *zero_shot("mmkd", "lungs", details={"examples": []}))
    shown = page_of(tmp_path)
    assert "Students against teachers" not in shown.text
    assert "Zero-shot confusion" not in shown.text
    assert "By modality" not in shown.text


def test_tasks_have_names_for_people():
    names = ("zero_shot", "linear_probe_1pct", "linear_probe_1shot", "linear_probe_16shot")
    expected = ["Zero shot", "Linear probe, 1 %", "Linear probe, 1 shot", "Linear probe, 16 shots"]
    assert [in_words(name) for name in names] == expected


def test_survival_is_shown_as_curves_with_their_test(tmp_path):
    times, events = np.array([2.0, 4, 4, 6, 8, 1, 1, 3, 5, 7]), np.array([1, 1, 0, 1, 0, 1, 1, 1, 0, 1])
    details = kaplan_meier(times, events, np.arange(10) >= 5)
    write_result(tmp_path, *zero_shot("mmkd", "lungs", details=details))
    shown = page_of(tmp_path)
    assert "low risk n = 5, high risk n = 5" in shown.text
    assert f"Log-rank p = {details['log_rank']['p']:.3f}" in shown.text
    # At 4 of 8: low risk had events at 2 and 4 of 5 patients, high risk two at 1 and one at 3.
    assert "4 60% 2 40% 2" in shown.text
    assert len([line for line in shown.all("polyline") if line["class"] == "curve high"]) == 2


def test_only_skips_make_a_page_too(tmp_path):
    write_result(tmp_path, skipped("mmkd", "brains"))
    shown = page_of(tmp_path)
    assert "Not evaluated, and why" in shown.text
    assert "Every result" not in shown.text


def test_the_same_results_make_the_same_page(html, folder):
    assert render(gather(folder), title="Evaluation") == html


def test_damaged_results_are_not_reported(tmp_path):
    write_all(tmp_path, models=("mmkd",), datasets=("lungs",))
    (tmp_path / "mmkd" / "zero_shot" / "lungs.parquet").write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"lungs\.parquet"):
        gather(tmp_path)


def test_models_with_other_prompts_make_a_page_that_compares_nothing(tmp_path, caplog):
    for model, prompts in (("mmkd", "ours"), ("biomedclip", "theirs")):
        write_result(tmp_path, *zero_shot(model, "lungs", prompts_digest=prompts))
    contents = gather(tmp_path)
    assert (contents.comparisons, contents.claims) == ([], [])
    assert "mmkd and biomedclip share no test set: zero_shot lungs: evaluated differently" in caplog.text
    shown = render(contents, title="Evaluation")
    assert "mmkd" in shown
    assert "biomedclip" in shown
    # What is not there, such as a picture of differences, is left out and not printed as a word.
    assert "None" not in shown
