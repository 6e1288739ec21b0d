"""A report's page in a browser: it opens, sorts, filters, tells of a run, and asks nothing of any network."""

import csv
import json
import re
import shlex
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import studies
from subspace_tuning.errors import BadInput
from subspace_tuning.report.build import Source
from subspace_tuning.report.serve import server
from subspace_tuning.run.recipe import make, override
from subspace_tuning.sweep.results import gather

HOSTILE = studies.HOSTILE


@contextmanager
def quietly(browser, path):
    """A page, at the end of which nothing was said on the console, asked of a network, or raised."""
    with browser.new_context(accept_downloads=True) as context:
        page = context.new_page()
        trouble = []
        page.on("console", lambda said: trouble.append(said.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: trouble.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else 0)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        yield page
        assert trouble == []


@pytest.fixture
def opened(browser, page_file):
    with quietly(browser, page_file) as page:
        yield page


def test_the_committed_study_opens(browser):
    with quietly(browser, Path(__file__).parents[2] / "docs" / "minilm_glue.html") as page:
        page.locator("#pareto .plot").scroll_into_view_if_needed()
        page.locator("#pareto .main-svg").first.wait_for()
        assert page.get_by_text("full fine-tuning comes to").count()


def texts(page, selector):
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def numbers(page, selector):
    return [float(re.match(r"[\d.]+", text)[0]) for text in texts(page, selector) if text[:1].isdigit()]


def filtered(page, name, value):
    """Choose, and wait until the page has followed."""
    field = page.locator(f"#filter [name={name}]")
    if name == "find":
        field.fill(value)
    else:
        field.select_option(value)
    page.wait_for_function(
        "([name, value]) => new URLSearchParams(location.hash.slice(1)).get(name) === value", arg=[name, value]
    )


def test_every_chart_is_drawn_and_stands_beside_its_table(opened):
    for figure in opened.locator("main figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
        assert figure.locator(".plot").get_attribute("aria-label")
        figure.locator("summary").click()
        figure.locator("tbody tr").first.wait_for()
    assert opened.locator("main figure").count() == 8


def test_headers_sort_by_click_and_by_key(opened):
    header = opened.locator("#runs th", has_text="Score")
    header.locator("button").click()
    scores = numbers(opened, "#runs tbody td:nth-child(5)")
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 25
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").focus()
    opened.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    scores = numbers(opened, "#runs tbody td:nth-child(5)")
    assert scores == sorted(scores)
    assert opened.locator("#runs [aria-sort]").count() == 1


def test_pages_of_a_table_hold_every_row_once(opened):
    seen = []
    while True:
        seen += texts(opened, "#runs tbody tr")
        following = opened.get_by_role("region", name="Runs").locator("xpath=..").get_by_role("button", name="Next")
        if following.is_disabled():
            break
        following.click()
    assert len(seen) == len(set(seen)) == 100


def test_the_filter_rules_tables_and_charts_and_the_address(opened):
    filtered(opened, "model", "roberta-large")
    filtered(opened, "task", "rte")
    filtered(opened, "find", "lora r=2")
    expected = {f"{method} r=2" for method in studies.RANKED if "lora" in method}
    assert set(texts(opened, "#runs tbody th")) == set(texts(opened, "#tasks tbody th")) == expected
    assert set(texts(opened, "#runs tbody td:nth-child(3)")) == {"rte"}
    opened.locator("#pareto").scroll_into_view_if_needed()
    opened.locator("#pareto summary").click()
    opened.wait_for_function("() => document.querySelectorAll('#pareto tbody tr').length === 7")
    opened.reload()
    opened.wait_for_selector("html[data-ready]")
    assert opened.locator("#filter [name=task]").input_value() == "rte"
    assert opened.locator("#runs tbody tr").count() == 14
    opened.get_by_role("button", name="Reset").click()
    opened.wait_for_function("() => location.hash.length < 40")
    assert opened.locator("#runs tbody tr").count() == 25


def test_a_run_opens_with_its_config_and_a_command_that_makes_it(opened, page_file):
    filtered(opened, "find", "lora+mpc_o r=4")
    button = opened.locator("#runs button.run").first
    button.focus()
    opened.keyboard.press("Enter")
    drawer = opened.get_by_role("dialog")
    config = drawer.get_by_label("config", exact=True)
    config.wait_for()
    run = drawer.locator("dt", has_text="run").first.locator("xpath=following-sibling::dd[1]").inner_text()
    text = (page_file.parent / "runs" / run / "config.yaml").read_text()
    assert config.text_content() == text
    words = shlex.split(drawer.get_by_label("command", exact=True).text_content())
    assert words[:2] == ["subspace", "train"]
    assert make(override({}, words[2:])).resolved().method_label == "lora(r=4)+mpc_o"
    opened.keyboard.press("Escape")
    assert not drawer.is_visible()
    assert button.evaluate("element => element === document.activeElement")


def test_a_point_of_the_seeds_opens_its_run(opened):
    filtered(opened, "task", "cola")
    plot = opened.locator("#seeds .plot")
    plot.scroll_into_view_if_needed()
    plot.locator(".point").first.wait_for()
    plot.evaluate("plot => plot.emit('plotly_click', { points: [{ customdata: 0 }] })")
    assert opened.get_by_role("dialog").is_visible()


@pytest.mark.parametrize("table", ["tasks", "runs", "claims"])
def test_a_table_is_taken_along_with_all_its_rows(opened, table):
    with opened.expect_download() as waiting:
        opened.locator(f"#{table}").get_by_role("button", name="Download CSV").click()
    with open(waiting.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = opened.locator(f"#{table} .below [role=status]").inner_text()
    assert len(rows) == int(re.findall(r"\d+", told)[-1])
    assert None not in rows[0]


def test_hostile_names_are_shown_as_they_are(opened):
    filtered(opened, "find", "onerror")
    assert opened.locator("img").count() == 0
    assert set(texts(opened, "#tasks tbody th")) == {HOSTILE}
    for name in ("pareto", "seeds", "cost"):
        opened.locator(f"#{name} .plot").first.scroll_into_view_if_needed()
        opened.locator(f"#{name} .main-svg").first.wait_for()
    assert HOSTILE in opened.locator("#seeds .yaxislayer-above").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_the_colours_of_the_hour(browser, page_file, scheme):
    with browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.locator("#pareto .plot").scroll_into_view_if_needed()
        page.locator("#pareto .main-svg").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
        assert (brightness[0] > brightness[1]) == (scheme == "dark")
        title = page.locator("#pareto .xtitle").evaluate("element => getComputedStyle(element).fill")
        assert title == ink


def test_tables_are_cards_on_a_phone_and_stay_tables_to_a_screen_reader(browser, page_file):
    with browser.new_context(viewport={"width": 420, "height": 844}) as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready]")
        for name in ("claims", "tasks", "runs"):
            ends = page.locator(f"#{name} .cards :is(th, td)").evaluate_all(
                "cells => cells.map((cell) => cell.getBoundingClientRect().right)"
            )
            assert max(ends) <= 420
        row = page.locator("#claims").get_by_role("row").nth(1)
        assert row.get_by_role("rowheader").count() == 1
        assert row.get_by_role("cell").count() == page.locator("#claims").get_by_role("columnheader").count() - 1
        told = row.locator("td").evaluate_all("cells => cells.map((c) => getComputedStyle(c, '::before').content)")
        assert told == ['"Verdict"', '"These runs"', '"The paper\'s"', '"Runs"']


def test_what_can_be_reached_by_key_has_a_name(opened):
    nameless = opened.evaluate(
        """() => [...document.querySelectorAll("button, select, input, a[href], [tabindex='0']")]
        .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.[0]?.textContent.trim()))
        .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert opened.locator("table:not(:has(caption))").count() == 0
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"


def test_an_open_page_follows_the_sweep(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("subspace_tuning.report.serve.LOOKED_EVERY", 0.0)
    first, second = studies.runs(2, tasks=("rte",), models=("roberta-base",))
    studies.put(tmp_path, first)
    with server(Source(tmp_path), 0) as running, browser.new_context() as context:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{running.server_address[1]}/")
        assert page.locator("#runs tbody tr").count() == 1
        studies.put(tmp_path, second)
        page.wait_for_function("() => document.querySelectorAll('#runs tbody tr').length === 2", timeout=60_000)
        running.shutdown()


def test_what_was_said_before_training_stands_beside_what_came_of_it(browser, tmp_path):
    studies.write(tmp_path / "runs", 2, tasks=("rte",), models=("roberta-base",), seeds=1)
    short = [{"method": [{"name": "ssb"}, {"name": "lora", "r": 2}], "parameters": 1234, "reasons": ["fits", HOSTILE]}]
    (tmp_path / "advice.json").write_text(json.dumps({"words": ["Take it."], "short_list": short}))
    told = {"weights": 3_000_000_000, "peak": 4_000_000_000, "logits": 0, "trained": 1234, "flops": 2e12}
    (tmp_path / "estimate.json").write_text(json.dumps({"estimate": told}))
    source = Source(tmp_path / "runs", advice=tmp_path / "advice.json", estimate=tmp_path / "estimate.json")
    (tmp_path / "report.html").write_text(source.build())
    with quietly(browser, tmp_path / "report.html") as page:
        assert texts(page, "#advice tbody tr > *") == ["ssb|lora(r=2)", "1,234", f"fits; {HOSTILE}"]
        assert texts(page, "#estimate tbody tr > *") == ["weights", "3", "peak", "4"]
    (tmp_path / "advice.json").write_text("{}")
    with pytest.raises(BadInput, match="advice lacks 'short_list'"):
        source.build()


def test_what_was_forgotten_is_drawn_and_told(browser, tmp_path):
    runs = gather(studies.write(tmp_path / "runs", 24, tasks=("cola", "rte"), models=("roberta-base",), seeds=3))
    kept = [-0.1 * (method == "full") + 0.001 * seed for method, seed in zip(runs["method"], runs["seed"], strict=True)]
    runs.assign(kept_some_texts=kept).to_csv(tmp_path / "results.csv", index=False)
    (tmp_path / "report.html").write_text(Source(tmp_path / "results.csv").build())
    with quietly(browser, tmp_path / "report.html") as page:
        page.locator("#forgetting summary").click()
        front = page.locator("#forgetting details table").inner_text()
        assert "full" in front
        assert page.locator("#forgetting .plot .scatterlayer .trace").count() >= 3
        assert "✕ forgets" in page.locator("#forgetting tr", has_text="full").last.inner_text()
        page.select_option("select[name=task]", "rte")
        page.wait_for_selector("#forgetting .plot[aria-label$=rte]")
