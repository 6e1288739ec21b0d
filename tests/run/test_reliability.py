"""A slice of benchmarks/reliability.py: kills, disks and damaged inputs; and that it sees what is wrong."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from reliable import forks, fuzz, kills
from reliable.workplace import Asked, Workplace

ASKED = Asked(kills=2, fuzz=4, steps=0, rows=0, seed=11)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("reliable"))


@pytest.mark.parametrize("kind", [fuzz.recipes, fuzz.run_folders, fuzz.data_files, fuzz.archives])
def test_damaged_inputs_end_in_success_or_a_sentence(home, kind):
    row = fuzz.attacked(home, ASKED, kind.__name__, *kind(home))
    assert row.faults == []
    assert row.came["a sentence"] > 0


@pytest.mark.parametrize(
    ("name", "number"), [("combine", signal.SIGTERM), ("a package, fetched and unpacked", signal.SIGKILL)]
)
def test_a_blow_leaves_the_old_state_or_the_new(home, name, number):
    row = kills.struck(home, name, kills.writers(home)[name], ASKED, number)
    assert row.faults == []
    assert row.came.total() == ASKED.kills


def half_written(place):
    def act():
        for i in range(200):
            with (place / "out").open("a") as file:
                file.write(f"{i}\n")

    return act


def test_half_written_files_are_seen(home):
    row = kills.struck(home, "half", kills.Writer(half_written), Asked(8, 0, 0, 0, 0), signal.SIGKILL)
    assert any("half-written" in fault for fault in row.faults)


def strays(out):
    (out.parent / "elsewhere").write_text("x")


def fails(out):
    raise ZeroDivisionError("once")


def hangs(out):
    while True:
        pass


def fills(out):
    return bytearray(b"x" * (200 << 20))


@pytest.mark.parametrize(
    ("action", "said"),
    [(strays, "went astray"), (fails, "ZeroDivisionError"), (hangs, "longer than"), (fills, "MB, an honest input")],
)
def test_what_an_input_must_not_do_is_seen(tmp_path, action, said):
    out = tmp_path / "out"
    out.mkdir()
    ended = forks.forked(lambda: action(out), out, limit=1.0 if action is hangs else 30.0, elsewhere=True)
    assert said in fuzz._unexpected(ended, 1 << 20)
