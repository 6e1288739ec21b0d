"""Damaged adapters end in success or one sentence, whichever command opens them, and never in another's code."""

import shutil
import sys

import pytest

from attacked import ADAPTERS, Range

SEEDS = 28  # for each adapter, so that it meets each kind of damage; benchmarks/fuzz_adapters.py tries more


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return Range(tmp_path_factory.mktemp("attacked"))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_damage_ends_in_success_or_a_sentence(field, adapter):
    commands, before = list(field.commands()), set(sys.modules)
    seeds = range(first := SEEDS * list(ADAPTERS).index(adapter), first + SEEDS)
    ended = [field.attack(adapter, seed, commands[seed % len(commands)]) for seed in seeds]
    assert [e for e in ended if not e.is_fine] == []
    assert not {"this", "antigravity"} & (set(sys.modules) - before)
    assert sum(e.how == "sentence" for e in ended) > SEEDS / 2
    assert all(e.said and "\n" not in e.said and not e.said.endswith(": None") for e in ended if e.how == "sentence")


def test_undamaged_adapters_pass_every_command(field):
    for number, adapter in enumerate(ADAPTERS):
        for name, command in list(field.commands().items())[number % 2 :: 2]:  # half of them, in turn
            shutil.rmtree(field.home / "out", ignore_errors=True)
            refused = (name == "import" and not adapter.startswith("peft")) or adapter == "prefix"
            if refused or (name in ("predict", "merge") and adapter.startswith("peft")):
                continue
            command(field.good / adapter, field.home / "out")
