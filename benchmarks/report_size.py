"""What a report of 5,800 runs takes: seconds to gather, tabulate and write it, its size, and how soon it answers.

    python benchmarks/report_size.py [--runs 5800]

The runs are made up (tests/studies.py). Processor time is told beside the time on the clock, which a busy machine
stretches. The browser's figures need playwright and a chromium on PATH: the time until the page answers, and the
processor time of its main thread until then, until plotly is there too, and until the first chart is drawn.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import studies
from subspace_tuning.report import study
from subspace_tuning.report.build import Source
from subspace_tuning.report.page import page as fill


@contextmanager
def timed(told: str):
    clock, work = time.perf_counter(), time.process_time()
    yield
    print(f"{told:32}{time.perf_counter() - clock:8.2f} s{time.process_time() - work:8.2f} s of processor")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5800)
    size = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        studies.write(folder, size)
        source = Source(folder)
        with timed("all"):
            with timed("gather"):
                runs = source.runs()
            with timed("statistics, claims, words"):
                arranged = study.arranged(runs)
                shown = study.tell(arranged, "Benchmark", "now", source.standing())
            with timed("configs and curves"):
                details = study.behind_clicks(folder, arranged)
            with timed("page"):
                page = fill(shown, details)
        print(f"{'file':32}{len(page.encode()) / 1e6:8.2f} MB for {len(runs):,} runs")
        (folder / "report.html").write_text(page, encoding="utf-8")
        browse(folder / "report.html")


def browse(file: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as play:
        page = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        ticks = page.context.new_cdp_session(page)
        ticks.send("Performance.enable", {"timeDomain": "threadTicks"})

        def tell(what: str) -> None:
            metrics = {m["name"]: m["value"] for m in ticks.send("Performance.getMetrics")["metrics"]}
            clock = time.perf_counter() - began
            print(f"{what:32}{clock:8.2f} s{metrics['TaskDuration']:8.2f} s of processor, main thread")

        began = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        print(
            f"{'answers (by its own clock)':32}{page.evaluate('document.documentElement.dataset.ready / 1000'):8.2f} s"
        )
        page.wait_for_function("() => Boolean(window.Plotly)")
        tell("plotly is there")
        page.locator("#pareto").scroll_into_view_if_needed()
        page.wait_for_selector("#pareto .main-svg")
        tell("first chart")
        began = time.perf_counter()
        page.evaluate("chosen.find = 'lora'; refresh()")
        tell("filtered, since then")


if __name__ == "__main__":
    main()
