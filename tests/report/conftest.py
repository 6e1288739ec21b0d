"""A browser, and a report of many runs."""

import json
import shutil

import pytest

import studies
from subspace_tuning.report.build import Source


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: the dev extra has it")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on PATH: `apt-get install chromium` has one")
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def page_file(tmp_path_factory):
    """Two tasks, two models, two seeds; one method of a hostile name."""
    folder = tmp_path_factory.mktemp("study")
    for model in ("roberta-base", "roberta-large"):
        studies.write(folder / "runs", 100, tasks=("cola", "rte"), models=(model,), seeds=2)
    for path in (folder / "runs").rglob("result.json"):
        told = json.loads(path.read_text())
        if told["method"] == "bitfit":
            path.write_text(json.dumps(told | {"method": studies.HOSTILE}))
    (folder / "report.html").write_text(Source(folder / "runs").build())
    return folder / "report.html"
