"""The site's page of each method: made for all of them, its picture moves, its lines run."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import tiny
from subspace_tuning import METHODS, docs
from subspace_tuning.pages.method_page import Measured, lines, method_page
from subspace_tuning.pages.small import CHANGE, W, drawable, map_of, moved, small
from subspace_tuning.testing.law import relative

ROOT = Path(__file__).parents[2]
ENTRIES = {entry.name: entry for entry in docs.entries()}
DRAWN = [name for name in ENTRIES if drawable(METHODS[name]())]
SECTIONS = ("Parameters", "Fields", "What it can do", "Measured", "Lines that run", "Paper")
NEARER = {"delora", "vblora"}  # which jump before they come so far


@pytest.fixture(scope="module")
def pages():
    return docs.site_pages(ROOT)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    tiny.model(folder / "roberta-base", hidden_size=32, num_hidden_layers=1, intermediate_size=64)
    return folder


def test_every_method_has_a_page_and_a_picture(pages):
    assert set(pages) == {f"methods/{name}.md" for name in ENTRIES} | {f"methods/{name}.svg" for name in DRAWN}
    for name, entry in ENTRIES.items():
        page = pages[f"methods/{name}.md"]
        assert page.startswith(f"# {name}\n\n    {entry.equation}\n")
        assert all(f"\n## {section}\n" in page for section in SECTIONS)
        assert f"`{entry.parameters}` numbers" in page
        assert f"```python\n{lines(name)}```" in page
        assert all(f"methods/{other}" in pages for other in re.findall(r"\]\((\w+\.(?:md|svg))\)", page))
    named = [path for part in docs.site_nav() for group in part.values() for link in group for path in link.values()]
    assert sorted(named) == sorted(path for path in pages if path.endswith(".md"))


def test_what_was_measured_stands_on_the_page(pages):
    page = pages["methods/lora.md"]
    assert "| movie reviews, 100 steps | `lora` | 77.3 ± 2.4 | 331,776 |" in page
    assert "| `lora` of PEFT's |" in page
    assert "- is in [`dora`](dora.md) (m = c)" in page
    assert "`LORA`" in page
    assert "Not yet" in method_page(ENTRIES["lora"], Measured())


@pytest.mark.parametrize("name", DRAWN)
def test_the_picture_goes_from_the_weight_to_what_the_method_makes_of_it(name, pages):
    method, x = small(name), torch.eye(2, dtype=W.dtype)
    p = moved(method)
    assert torch.equal(map_of(method, p, 0.0)(x), W)
    assert abs(relative(map_of(method, p)(x), W) - CHANGE) < 5e-3 or name in NEARER
    assert relative(map_of(method, p)(x), W) > 0.1
    ElementTree.fromstring(pages[f"methods/{name}.svg"])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ENTRIES)
def test_the_lines_run(name, home, monkeypatch):
    monkeypatch.chdir(home)
    space = {"__name__": "lines"}
    exec(compile(lines(name), f"methods/{name}.md", "exec"), space)
    trained = [p for p in space["model"].parameters() if p.requires_grad]
    assert trained or METHODS[name].mergeable
    assert (home / "adapter" / "adapter_config.json").is_file()
