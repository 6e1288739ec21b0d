"""The report without a mouse, by what a screen reader is told, and on paper."""

import json
import re
from itertools import pairwise

import pytest

import studies
from subspace_tuning.report.build import Source
from subspace_tuning.sweep.results import gather

STOPS = """() => [...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")]
    .filter((e) => !e.disabled && !e.closest("svg, .modebar") && e.checkVisibility({ visibilityProperty: true }))"""
MARKED = """() => { const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 }"""
A4 = {"width": 794, "height": 1123}  # at 96 to the inch


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Few runs, but all that a report can tell: what was forgotten, and what was said beforehand, too."""
    folder = tmp_path_factory.mktemp("whole")
    runs = gather(studies.write(folder / "runs", 24, tasks=("cola", "rte"), models=("roberta-base",), seeds=2))
    kept = [-0.1 * (method == "full") + 0.001 * seed for method, seed in zip(runs["method"], runs["seed"], strict=True)]
    runs.assign(kept_some_texts=kept).to_csv(folder / "results.csv", index=False)
    short = [{"method": [{"name": "ssb"}], "parameters": 1234, "reasons": ["fits"]}]
    (folder / "advice.json").write_text(json.dumps({"words": ["Take it."], "short_list": short}))
    told = {"weights": 3_000_000_000, "peak": 4_000_000_000, "logits": 0, "trained": 1234, "flops": 2e12}
    (folder / "estimate.json").write_text(json.dumps({"estimate": told}))
    source = Source(folder / "results.csv", advice=folder / "advice.json", estimate=folder / "estimate.json")
    (folder / "report.html").write_text(source.build())
    return folder / "report.html"


@pytest.fixture
def opened(browser, request):
    """``opened(file, **context)``: a page that is ready."""

    def opened(file, **how):
        context = browser.new_context(**how)
        request.addfinalizer(context.close)
        page = context.new_page()
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    return opened


def drawn(page):
    """The page, when each chart has been looked at: drawn, or said why not."""
    for figure in page.locator("main figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg, .missing:visible").first.wait_for()
    page.evaluate("scrollTo(0, 0)")
    return page


def violations(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the dev extra has axe-playwright-python")
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return {each["id"]: [node["html"][:120] for node in each["nodes"][:3]] for each in found}


def test_tab_walks_through_everything_in_order_and_shows_where_it_is(opened, whole):
    page = drawn(opened(whole, viewport={"width": 1280, "height": 900}))
    page.evaluate(f"() => ({STOPS})().forEach((e, i) => e.dataset.stop = i)")
    count, walked = page.locator("[data-stop]").count(), []
    for _ in range(count + 30):  # plots may hold stops of their own
        page.keyboard.press("Tab")
        stop = page.evaluate("document.activeElement.dataset.stop ?? null")
        if stop is not None:
            walked.append(int(stop))
            assert page.evaluate(MARKED), page.evaluate("document.activeElement.outerHTML.slice(0, 150)")
        if stop == str(count - 1):
            break
    assert walked == list(range(count))
    assert count > 30
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.dataset.stop") == str(count - 2)


def test_what_has_the_focus_is_not_under_the_filter(opened, whole):
    page = opened(whole, viewport={"width": 1280, "height": 500})
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.locator("#tasks button").last.focus()
    for _ in range(20):
        page.keyboard.press("Shift+Tab")
        top, under = page.evaluate(
            """() => [document.activeElement.getBoundingClientRect().top,
                document.activeElement.closest("form, header") ? 0 : document.querySelector("#filter").offsetHeight]"""
        )
        assert top >= under


def test_the_dialog_keeps_the_focus_and_axe_finds_nothing_in_it(opened, page_file):
    page = opened(page_file)
    page.locator("#runs button.run").first.press("Enter")
    page.get_by_role("dialog").get_by_label("config", exact=True).wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    assert violations(page) == {}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_axe_finds_nothing_where_all_is_drawn_and_unfolded(opened, whole, width, scheme):
    page = drawn(opened(whole, viewport={"width": width, "height": 900}, color_scheme=scheme))
    page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
    assert page.locator("#forgetting .main-svg").count()
    assert violations(page) == {}


def test_headings_and_landmarks_tell_the_page(opened, whole):
    page = opened(whole)
    levels = page.locator(":is(h1, h2, h3, h4):visible").evaluate_all("all => all.map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    told = page.locator("body").aria_snapshot()
    assert all(re.search(rf"^- {landmark}", told, re.M) for landmark in ("banner", "search", "main"))
    sections = page.locator("main > section").evaluate_all("all => all.map((s) => s.querySelector('h2')?.textContent)")
    links = page.locator("#contents a").all_inner_texts()
    assert None not in sections
    assert set(links) <= set(sections)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white_wide_enough_and_without_buttons(opened, page_file, scheme):
    page = opened(page_file, viewport=A4, color_scheme=scheme)
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.locator("form:visible, nav:visible, dialog:visible, .below button:visible").count() == 0
    paper, ink = page.evaluate("['backgroundColor', 'color'].map((k) => getComputedStyle(document.body)[k])")
    assert paper == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", ink))) < 200
    ends = page.locator("main :is(td, th, p, h2):visible").evaluate_all(
        "all => all.map((e) => e.getBoundingClientRect().right)"
    )
    assert max(ends) <= A4["width"]
    assert page.pdf(format="A4").startswith(b"%PDF")
