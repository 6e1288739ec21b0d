"""Laws of what is written: whole or not there, by one sentence where it cannot be, and nothing left behind."""

import errno
import multiprocessing
import os
import stat
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from disks import CODES, mounted, read_only, refusing
from subspace_tuning.errors import BadInput, RunFailed
from subspace_tuning.files import aside
from subspace_tuning.files.aside import free, whole_file, whole_folder, write
from subspace_tuning.files.owner import Owner, left_behind

FORK = multiprocessing.get_context("fork")


def fill(folder):
    (folder / "a").write_text("a")
    save_file({"w": torch.ones(2)}, folder / "w.safetensors")


def make_file(path):
    write(path, "text")


def make_folder(path):
    with whole_folder(path) as made:
        fill(made)


@pytest.mark.parametrize("make", [make_file, make_folder])
def test_what_is_written_follows_the_umask_and_leaves_nothing_aside(tmp_path, make):
    old = os.umask(0o027)
    try:
        make(tmp_path / "out")
        with whole_file(tmp_path / "w.safetensors") as path:
            save_file({"w": torch.ones(2)}, path)
    finally:
        os.umask(old)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o640}
    assert {p.name for p in tmp_path.iterdir()} == {"out", "w.safetensors"}
    assert load_file(tmp_path / "w.safetensors")["w"].tolist() == [1, 1]


def killed(make, path):
    """A process that dies while it writes."""

    def die():
        with make(path) as made:
            (made / "half" if made.is_dir() else made).write_text("half")
            os._exit(9)

    child = FORK.Process(target=die)
    child.start()
    child.join()


@pytest.mark.parametrize("make", [whole_file, whole_folder])
def test_what_a_dead_writer_left_goes_at_the_next_write(tmp_path, make):
    killed(make, tmp_path / "out")
    assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path / "other", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_what_a_living_writer_has_aside_stays(tmp_path):
    with whole_folder(tmp_path / "out") as made, whole_file(tmp_path / "file") as file:
        write(tmp_path / "other", "text")
        assert made.is_dir()
        assert file.exists()
        (made / "a").write_text("a")
    assert {p.name for p in tmp_path.iterdir()} == {"out", "file", "other"}


def test_a_writer_elsewhere_is_given_a_day(tmp_path):
    mark = Owner("elsewhere", 1, "then").mark
    assert left_behind(mark) is None
    theirs = tmp_path / f".out.{mark}-00000000.aside"
    theirs.write_text("half")
    write(tmp_path / "a", "text")
    assert theirs.exists()
    os.utime(theirs, (0, 0))
    write(tmp_path / "a", "text")
    assert not theirs.exists()


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    texts = [str(i) * 10_000 for i in range(8)]
    threads = [threading.Thread(target=write, args=(tmp_path / "a", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_in_the_place_of_what_is_aside_is_not_followed(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    monkeypatch.setattr(aside.secrets, "token_hex", lambda size: "00000000")
    (tmp_path / f".a.{Owner.me().mark}-00000000.aside").symlink_to(precious)
    with pytest.raises(BadInput, match="cannot write"):
        write(tmp_path / "a", "text")
    assert precious.read_text() == "mine"


def test_files_and_names_reach_the_disk_before_they_are_told_of(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd)))
    make_folder(tmp_path / "out")
    names = [os.path.basename(path) for path in synced]
    assert {"a", "w.safetensors"} < set(names)
    assert names[-1] == tmp_path.name


@pytest.mark.parametrize("make", [make_file, make_folder, free])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (lambda tmp: tmp / "file" / "out", "a file is where a folder should be"),
        (lambda tmp: tmp / ("x" * 300), "the name is too long"),
    ],
)
def test_a_place_that_cannot_be(tmp_path, make, place, words):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=words) as caught:
        make(place(tmp_path))
    assert len(str(caught.value).splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("make", [make_file, make_folder])
@pytest.mark.parametrize("kind", CODES)
def test_a_disk_that_refuses(tmp_path, monkeypatch, make, kind):
    refusing(monkeypatch, tmp_path, CODES[kind])
    with pytest.raises(RunFailed if kind == "full" else BadInput, match=r"cannot write|the disk is full"):
        make(tmp_path / "out")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_real_disk_that_is_full_or_read_only(tmp_path):
    with mounted(tmp_path / "disk", "size=64k") as disk:
        if disk is None:
            pytest.skip("this process may not mount")
        write(disk / "old", "old")
        for make in (
            lambda: write(disk / "old", "x" * 200_000),
            lambda: save_big(disk / "w.safetensors"),
            lambda: folder_with_big(disk / "out"),
        ):
            with pytest.raises(RunFailed, match="the disk is full"):
                make()
        read_only(disk)
        for make in (make_file, make_folder, free):
            with pytest.raises(BadInput, match="read-only"):
                make(disk / "new")
        assert [p.name for p in disk.iterdir()] == ["old"]
        assert (disk / "old").read_text() == "old"


def save_big(path):
    with whole_file(path) as file:
        save_file({"w": torch.ones(100_000)}, file)


def folder_with_big(path):
    with whole_folder(path) as made:
        save_file({"w": torch.ones(100_000)}, made / "w.safetensors")


def test_an_error_of_something_else_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError), whole_folder(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "not readable", "/elsewhere/input")
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "out"):
        (tmp_path / "absent").read_text()
