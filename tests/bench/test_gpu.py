"""The benchmark for a GPU works at the first try: everything in it is rehearsed on the CPU."""

import json
import sys
from pathlib import Path

import pytest

from subspace_tuning.bench.card import on_a_card

sys.path.append(
    str(Path(__file__).parents[2] / "benchmarks")
)  # last: some scripts are called like modules of the tests


@pytest.fixture(scope="module")
def rehearsed():
    import gpu

    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(sys, "argv", ["gpu.py", "--rehearse"])
        patch.setattr("builtins.print", lambda text, **where: said.append(text) if not where else None)
        gpu.main()
    return json.loads(said[-1])


def test_no_part_fails(rehearsed):
    assert [part for part in rehearsed.values() if isinstance(part, dict) and "failed" in part] == []
    assert rehearsed["laws"] == {"methods": 3, "wrong": []}
    assert rehearsed["rate"]["bf16"] > 0
    assert rehearsed["peaks"][0]["measured"] > 0
    for how, sources in (("eager", {"floor", "full", "ours", "peft"}), ("compiled", {"floor", "full", "ours"})):
        assert [found["shape"] for found in rehearsed[how]] == ["RoBERTa-large", "Llama 1.2 B"]
        for found in rehearsed[how]:
            assert {c["source"] for c in found["contenders"]} == sources
            assert all(c["tokens_per_second"] > 0 and c["share_of_rate"] > 0 for c in found["contenders"])


def test_its_figures_make_the_page(rehearsed):
    page = on_a_card(rehearsed)
    assert "| lora (PEFT) |" in page
    assert "those that compute something else than on the CPU: none." in page
    assert "Failed" not in page
    assert "Failed: laws." in on_a_card({**rehearsed, "laws": {"failed": "RuntimeError: no kernel", "where": []}})
    assert "No figures were taken on a GPU yet" in on_a_card(None)
