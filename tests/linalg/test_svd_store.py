"""Laws of the store: the same bits with it and without, whoever else writes, reads, breaks or evicts its files."""

import json
import multiprocessing
import os
import time

import pytest
import torch
from typer.testing import CliRunner

import subspace_tuning.linalg.store as svd_store
from cases import each
from subspace_tuning.cli import app
from subspace_tuning.linalg.store import Store, bottom_svd, keeping, top_svd, whole_svd
from subspace_tuning.linalg.svd import SVD, svd
from subspace_tuning.methods import LoRAXS, MiLoRA, PiSSA, SVDiff
from subspace_tuning.tuner.layer import SubspaceLayer

N, M = 260, 270
QUESTIONS = {
    "whole": whole_svd,
    "top": lambda W: top_svd(W, 3),
    "bottom": lambda W: bottom_svd(W, 3),
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBSPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SUBSPACE_SVD_GB", "1")
    return Store(tmp_path / "cache" / "svd", 2**30)


@pytest.fixture
def never(monkeypatch):
    """Nothing may be decomposed any more."""

    def refuse(*args, **kwargs):
        raise AssertionError("decomposed again")

    return lambda: [monkeypatch.setattr(svd_store, name, refuse) for name in ("svd", "truncated_svd")]


def weight(seed=0, dtype=torch.float32):
    return torch.randn(N, M, generator=torch.Generator().manual_seed(seed)).to(dtype)


def same(a, b):
    return all(torch.equal(x, y) and x.stride() == y.stride() for x, y in zip(a, b, strict=True))


def files(store):
    return sorted(store.folder.glob("*.safetensors"))


@each(question=list(QUESTIONS), dtype=[torch.float32, torch.bfloat16], transposed=[False, True])
def test_the_same_bits_without_the_store_cold_and_warm(store, never, question, dtype, transposed):
    ask, W = QUESTIONS[question], weight(dtype=dtype)
    W = W.T if transposed else W
    without = ask(W)
    assert not store.folder.exists()
    with keeping():
        cold = ask(W)
        never()
        warm = ask(W.clone(memory_format=torch.preserve_format))
    assert same(without, cold)
    assert same(without, warm)
    assert len(files(store)) == 1


def test_the_file_of_another_weight_counts_as_missing(store):
    """Whoever put it under this one's name."""
    W, other = weight(0), weight(1)
    with keeping():
        top_svd(W, 3)
        (mine,) = files(store)
        want = top_svd(other, 3)
        (theirs,) = set(files(store)) - {mine}
        theirs.write_bytes(mine.read_bytes())
        assert same(top_svd(other, 3), want)


def test_another_weight_terms_dtype_or_layout_is_another_question(store):
    W = weight()
    nudged = W.clone()
    nudged[7, 9] = torch.nextafter(nudged[7, 9], torch.tensor(9.0))
    with keeping():
        for ask, asked in [(top_svd, W), (top_svd, nudged), (top_svd, W.T), (top_svd, W.double()), (bottom_svd, W)]:
            ask(asked, 3)
        top_svd(W, 4)
        top_svd(W.reshape(M, N), 3)  # the same bytes in another shape
    assert len(files(store)) == 7


@each(method=[PiSSA(r=2), MiLoRA(r=2), LoRAXS(r=2), SVDiff()])
def test_a_layer_starts_from_the_store_with_the_same_bits(store, never, method):
    linear = torch.nn.Linear(N, M)
    starts = []
    for _ in range(2):
        layer = SubspaceLayer(linear)
        layer.add("default", method)
        starts.append([t for group in layer.held("default") for t in group.values()])
        never()
    assert all(torch.equal(a, b) for a, b in zip(*starts, strict=True))


def test_small_weights_and_questions_outside_keeping_leave_no_trace(store):
    with keeping():
        whole_svd(torch.randn(40, 50))
        assert top_svd(torch.empty(N, M, device="meta"), 3).S.is_meta
    whole_svd(weight())
    assert not store.folder.exists()


@each(damage=["truncate", "empty", "flip", "text", "folder"])
def test_a_damaged_file_is_replaced(store, damage):
    W = weight()
    with keeping():
        first = top_svd(W, 3)
        (file,) = files(store)
        whole = file.read_bytes()
        if damage == "folder":
            file.unlink()
            file.mkdir()
        else:
            flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
            broken = {"truncate": whole[:-64], "empty": b"", "flip": flipped, "text": b"no weights"}
            file.unlink()  # open maps of it stay as they are
            file.write_bytes(broken[damage])
        assert same(top_svd(W, 3), first)
    if damage != "folder":
        assert same(store.read(file.stem), first)


@each(place=["a file", "read-only", "full"])
def test_without_a_disk_to_write_to_all_goes_on(store, place, monkeypatch):
    if place == "a file":
        store.folder.parent.mkdir()
        store.folder.write_text("not a folder")
    elif place == "read-only":
        monkeypatch.setattr(svd_store.Path, "mkdir", _refuse(PermissionError(13, "Permission denied")))
    else:
        monkeypatch.setattr(svd_store, "save_file", _refuse(OSError(28, "No space left on device")))
    with keeping():
        assert same(whole_svd(weight()), svd_store._plain(svd(weight())))
    assert place == "a file" or not files(store)


def _refuse(error):
    def refuse(*args, **kwargs):
        raise error

    return refuse


def terms(seed):
    g = torch.Generator().manual_seed(seed)
    return SVD(*(torch.randn(*shape, generator=g) for shape in ((64, 8), (8,), (8, 64))))


def test_the_least_recently_used_go_when_room_is_needed(tmp_path):
    one = 4 * (64 * 8 * 2 + 8)
    store = Store(tmp_path, limit=int(3.6 * one))
    for i, key in enumerate("abc"):
        store.write(key, terms(i), {})
        os.utime(tmp_path / f"{key}.safetensors", (i, i))
    assert same(store.read("a"), terms(0))  # used: now b is the oldest
    store.write("d", terms(3), {})
    assert {p.stem for p in files_in(tmp_path)} == {"a", "c", "d"}
    Store(tmp_path, limit=one // 2).write("e", terms(4), {})  # larger than all there may be: nothing goes for it
    assert {p.stem for p in files_in(tmp_path)} == {"a", "c", "d"}


def files_in(folder):
    return list(folder.glob("*.safetensors"))


def test_what_a_killed_writer_left_goes_after_an_hour(tmp_path):
    store = Store(tmp_path, limit=2**20)
    old, new = tmp_path / ".x.safetensors.1", tmp_path / ".y.safetensors.2"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    store.write("a", terms(0), {})
    assert not old.exists()
    assert new.exists()
    store.clear()
    assert not list(tmp_path.iterdir())


def _hammer(folder, limit, seed, failed):
    """Write and read the same few keys as fast as it goes, while others do so and evict."""
    store = Store(folder, limit)
    for i in range(60):
        key = (seed + i) % 4
        store.write(str(key), terms(key), {})
        found = store.read(str((key + 1) % 4))
        if found is not None and not same(found, terms((key + 1) % 4)):
            failed.value += 1


def test_many_processes_share_a_store(tmp_path):
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    failed = context.Value("i", 0)
    limit = int(2.5 * 4 * (64 * 8 * 2 + 8))  # room for two of four: everybody evicts all the time
    workers = [context.Process(target=_hammer, args=(tmp_path, limit, seed, failed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert failed.value == 0
    held = Store(tmp_path, limit).entries()
    assert held
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert all(same(Store(tmp_path, limit).read(e.path.stem), terms(int(e.path.stem))) for e in held)


def test_the_command_lists_and_clears(store):
    run = CliRunner().invoke
    assert json.loads(run(app, ["cache", "ls", "--json"]).stdout)["entries"] == []
    with keeping():
        top_svd(weight(), 3)
        whole_svd(weight())
    files(store)[0].with_name("broken.safetensors").write_bytes(b"?")
    listed = json.loads(run(app, ["cache", "ls", "--json"]).stdout)
    assert listed["folder"] == str(store.folder)
    assert listed["bytes"] == sum(e["bytes"] for e in listed["entries"]) == sum(p.stat().st_size for p in files(store))
    assert {(e.get("weight"), e.get("terms"), e.get("dtype")) for e in listed["entries"]} == {
        (f"{N} x {M}", "top 3", "float32"),
        (f"{N} x {M}", "whole", "float32"),
        (None, None, None),
    }
    assert "damaged" in run(app, ["cache", "ls"]).stdout
    assert json.loads(run(app, ["cache", "clear", "--json"]).stdout)["removed"] == 3
    assert not files(store)


@each(given=["much", "nan"])
def test_a_limit_that_is_no_number_is_refused(store, monkeypatch, given):
    monkeypatch.setenv("SUBSPACE_SVD_GB", given)
    result = CliRunner().invoke(app, ["cache", "ls"])
    assert result.exit_code == 2
    assert "SUBSPACE_SVD_GB" in result.stderr
