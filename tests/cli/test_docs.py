"""What the catalogue and the pages say of the methods is what the methods are and do."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from cases import SINGLE
from subspace_tuning import METHODS, docs
from subspace_tuning.errors import BadInput
from subspace_tuning.files.markdown import with_table
from subspace_tuning.method.catalogue import Entry, catalogue

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "export", "quantised"),
    [("lora", True, True), ("flora", True, True), ("ssb", False, True), ("ia3", False, True), ("bitfit", False, True)],
)
def test_abilities_are_tried_out(name, export, quantised):
    entry = Entry.of(name, METHODS[name])
    assert (entry.lora_export, entry.quantised_base) == (export, quantised)


def test_reading_the_weight_is_noticed():
    class Squared(METHODS["ssl"]):
        """phi(W) = W + D W o W."""

        def phi(self, W, p):
            return W + super().phi(W, p) + W.dense() ** 2

    entry = Entry.of("squared", Squared)
    assert not entry.quantised_base
    assert "quantised base" not in entry.abilities


def test_the_catalogue_draws_no_random_numbers():
    state = torch.random.get_rng_state()
    catalogue()
    assert torch.equal(torch.random.get_rng_state(), state)


CARRIED = [f"{docs.CARRIED}/{name}.csv" for name in ("measured", "steps", "predictors")]


@pytest.mark.parametrize(
    "path",
    [docs.PAGE, docs.README, docs.FLOOR, docs.STRENGTH, docs.RELIABLE, docs.LEADERBOARD, *docs.CHOOSE, *CARRIED],
)
def test_the_committed_pages_are_what_the_registry_generates(path):
    assert (ROOT / path).read_text(encoding="utf-8") == docs.pages(ROOT)[ROOT / path], "run `make docs`"


def test_every_method_is_in_the_pages():
    page, table = docs.methods_page(), docs.readme_table()
    for entry in docs.entries():
        assert f"### {entry.name}\n" in page
        assert f"[`{entry.name}`](docs/methods.md#{entry.name})" in table
    assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_every_method_has_a_rule_between_W_and_phi():
    table = docs.rules_table()
    for entry in docs.entries():
        assert f"[`{entry.name}`](methods.md#{entry.name})" in table
    line = next(row for row in table.splitlines() if row.startswith("| `W + t (phi(W) - W)` |"))
    assert "`lora`" in line
    assert "`ssb`" not in line
    line = next(row for row in table.splitlines() if row.startswith("| `R^t W, every rotation by t times its angles"))
    assert "[`oft`](methods.md#oft)" in line


def test_scores_stand_in_the_page():
    row = {"method": "ssb", "score": 0.8, "spread": 0.01, "permille": 1.2, "seconds_per_step": 0.5, "searched": False}
    scores = {"metric": "accuracy", "about": "Forty steps.", "probe": 0.7, "results": [{**row, "learning_rate": 1e-2}]}
    assert "| `ssb` | 80.0 ± 1.0 | +10.0 | 1.20 | 0.50 | 0.01 |" in docs.methods_page(scores)


def test_markers_that_are_not_two_say_so(tmp_path):
    with pytest.raises(BadInput, match="1 times"):
        with_table(f"# title\n{docs.MARKER}\n", "table", docs.MARKER, docs.README)
    with pytest.raises(BadInput, match="clone of the repository"):
        docs.pages(tmp_path)


def test_the_table_of_kinds_is_what_is_tried():
    """Of two methods on every kind, tried once more: scales, and adapters on outputs."""
    spec = importlib.util.spec_from_file_location("kinds_page", ROOT / "benchmarks" / "kinds.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.PAGE.read_text(encoding="utf-8")
    assert page.startswith(script.HEAD)
    rows = {name: line for line in page.splitlines() for name in re.findall(r"\[`(\w+)`\]\(methods", line)}
    assert set(rows) <= set(METHODS)
    cases = {case.method.name: case for case in SINGLE}
    for name in ("ssb", "houlsby"):
        found = [script.tried(cases[name], seat)[0] for seat in script.seats()]
        assert [cell.strip() for cell in rows[name].split("|")[2:-1]] == found, "run `python benchmarks/kinds.py`"
