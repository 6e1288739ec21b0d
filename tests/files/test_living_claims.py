"""Laws of claims: one living owner, on whatever machine and by whatever clock."""

import multiprocessing
import os
import threading
import time

import psutil
import pytest

from subspace_tuning.files import claims, owner
from subspace_tuning.files.claims import Claims, Held, held
from subspace_tuning.files.owner import Owner

FORK = multiprocessing.get_context("fork")
ELSEWHERE = Owner("elsewhere", 1, "then")


def elsewhere(folder, seconds_off=0.0):
    """A claim of a process on another machine, whose clock is off; returns what its heart beats with."""
    (folder / "run").write_text(str(ELSEWHERE))
    heart = folder / f"{ELSEWHERE.mark}.alive"
    beats = iter(range(10**6))

    def beat():
        moment = time.time() + seconds_off + next(beats)
        heart.touch()
        os.utime(heart, (moment, moment))

    beat()
    return beat


def test_a_claim_holds_while_its_owner_lives(tmp_path):
    mine = Claims(tmp_path)
    child = FORK.Process(target=lambda: Claims(tmp_path).take("run"))
    child.start()
    child.join()
    assert mine.take("run")  # the child is dead
    (tmp_path / "run").write_text("")  # cut off by a kill
    assert mine.take("run")
    parent = Owner(mine.me.machine, os.getppid(), owner._began(os.getppid()))
    (tmp_path / "run").write_text(str(parent))
    assert not mine.take("run")


def test_a_clock_that_is_set_makes_nobody_dead(tmp_path, monkeypatch):
    me = str(Owner.me())
    monkeypatch.setattr(time, "time", lambda: 1.0)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)
    assert str(Owner.me()) == me
    assert Owner.parse(me).runs()


@pytest.mark.parametrize("seconds_off", [0.0, -1e6, 1e6])
def test_one_elsewhere_lives_while_its_heart_beats_whatever_its_clock(tmp_path, monkeypatch, seconds_off):
    monkeypatch.setattr(claims, "PATIENCE", 0.2)
    mine = Claims(tmp_path)
    beat = elsewhere(tmp_path, seconds_off)
    for _ in range(5):
        assert not mine.take("run")
        time.sleep(0.1)
        beat()
    assert mine.lives("run")
    assert not mine.take("run")
    time.sleep(0.25)
    assert mine.take("run")


def test_one_elsewhere_of_which_nothing_is_known_is_given_time(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PATIENCE", 0.2)
    mine = Claims(tmp_path)
    elsewhere(tmp_path, -1e6)
    assert not mine.take("run")
    assert mine.lives("run") is None
    time.sleep(0.25)
    assert mine.take("run")


def test_a_folder_is_held_by_one(tmp_path):
    with held(tmp_path):
        with pytest.raises(Held, match="another process is at"), held(tmp_path):
            pass
        refused = []

        def other():
            try:
                with held(tmp_path):
                    pass
            except Held:
                refused.append(True)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert refused == [True]
        child = FORK.Process(target=lambda: os._exit(3 if _refused(tmp_path) else 4))
        child.start()
        child.join()
        assert child.exitcode == 3
    assert list(tmp_path.iterdir()) == []


def _refused(folder):
    claims._held.clear()  # a process of its own has none
    claims.Owner.me()
    try:
        with held(folder):
            return False
    except Held:
        return True


def test_a_holder_that_is_killed_lets_go(tmp_path):
    def die():
        with held(tmp_path):
            os._exit(9)

    child = FORK.Process(target=die)
    child.start()
    child.join()
    with held(tmp_path):
        pass


def test_without_a_thread_to_beat_a_folder_is_held_all_the_same(tmp_path, monkeypatch):
    """Where memory is short a thread may never begin; nobody waits for it."""
    for start in (lambda work, given: 0, _no_thread):
        monkeypatch.setattr(claims._thread, "start_new_thread", start)
        with held(tmp_path), pytest.raises(Held), held(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []


def _no_thread(work, given):
    raise RuntimeError("can't start new thread")


def test_a_heart_beats_while_a_folder_is_held_and_not_after(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.01)
    with held(tmp_path):
        heart = tmp_path / ".claim" / f"{Owner.me().mark}.alive"
        heart.unlink()
        until = time.monotonic() + 10
        while not heart.exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert heart.exists()
    time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_holder_elsewhere_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PATIENCE", 0.2)
    (tmp_path / ".claim").mkdir()
    elsewhere(tmp_path / ".claim")
    (tmp_path / ".claim" / "run").rename(tmp_path / ".claim" / "owner")
    said = []
    with held(tmp_path, said.append):
        pass
    assert "another machine" in said[0]


def test_of_many_at_once_one_gets_it(tmp_path):
    def work():
        for _ in range(30):
            try:
                with held(tmp_path / "run"), (tmp_path / "log").open("a") as file:
                    file.write("<")
                    file.flush()
                    time.sleep(0.001)
                    file.write(">")
            except Held:
                time.sleep(0.001)

    many = [FORK.Process(target=work) for _ in range(4)]
    for one in many:
        one.start()
    for one in many:
        one.join()
    text = (tmp_path / "log").read_text()
    assert text
    assert text == "<>" * (len(text) // 2)
