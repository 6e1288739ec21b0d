"""What is released: wheel and sdist of the package alone, versions promised, licences, a notebook that runs."""

import ast
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import page_home
import subspace_tuning
from command import subspace
from subspace_tuning.files import assets

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")


def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, built without a network in a copy of what git would give."""
    folder = tmp_path_factory.mktemp("release")
    for name in ("src", "tests"):
        kept = shutil.ignore_patterns("__pycache__", "*.egg-info", "fixtures")
        shutil.copytree(ROOT / name, folder / name, ignore=kept)
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    code = "from setuptools import build_meta as b; b.build_sdist('out'); b.build_wheel('out')"
    (folder / "out").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return folder / "out"


def test_the_version_stands_in_one_place(built):
    said = {
        "CITATION.cff": re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)[1],
        "CHANGELOG.md": re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1],
        "wheel": next(built.glob("*.whl")).name.split("-")[1],
        "sdist": next(built.glob("*.tar.gz")).name.removesuffix(".tar.gz").split("-")[1],
    }
    assert set(said.values()) == {subspace_tuning.__version__}, said


def test_a_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"subspace_tuning"}
    kinds = {name: Path(name).suffix for name in names if ".dist-info" not in name}
    assert set(kinds.values()) == {".py", ".typed", ".csv", ".yaml", ".html", ".js", ".css", ""} - {""}
    assert [name for name in names if "/test_" in name or "/tests/" in name] == []
    package = ROOT / "src" / "subspace_tuning"
    ours = {f"subspace_tuning/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    assert ours <= set(names)
    assert "subspace_tuning/data/demo.yaml" in names  # so that `subspace demo` runs without a clone
    assert sum(info.file_size for info in zipfile.ZipFile(wheel).infolist()) < 3e6


def test_a_source_archive_holds_no_tests(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as held:
        parts = {name.split("/")[1] for name in held.getnames() if "/" in name}
    assert parts == {"src", "pyproject.toml", "README.md", "LICENSE", "PKG-INFO", "setup.cfg"}


def test_the_oldest_versions_are_those_of_the_ranges():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = script(".ci/lowest.py").lowest(text)
    assert {"torch==2.6", "transformers==5.20", "peft==0.21"} <= set(found)
    assert len({line.partition("==")[0] for line in found}) == len(found) > 15


def test_class_variables_say_their_type():
    """Python 3.10 reads no bare ``ClassVar`` from an annotation: no recipe could be read there."""
    bare = [
        f"{path}:{node.lineno}"
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.annotation, ast.Name)
        and node.annotation.id == "ClassVar"
    ]
    assert bare == []


def test_every_dependency_has_its_licence_on_the_page():
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| ([^|]*) \|", PAGE, re.M))
    assert set(rows) == set(script("benchmarks/licences.py").required()), "run `python benchmarks/licences.py`"
    assert [name for name, licence in rows.items() if not licence.strip() or "GPL" in licence] == []


def test_workflows_call_what_there_is():
    """Targets of make, sessions of nox, scripts and extras; and a release is published without a password."""
    paths = [*ROOT.glob(".github/workflows/*.yml"), ROOT / ".ci/run", ROOT / ".devcontainer/devcontainer.json"]
    said = {path.name: path.read_text(encoding="utf-8") for path in (*paths, ROOT / "Dockerfile")}
    every = "\n".join(said.values())
    makefile, noxfile, project = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "noxfile.py", "pyproject.toml")
    )
    targets = set(re.findall(r"\bmake ([a-z-]+)", every))
    assert {"check", "test", "test-lowest", "site", "demo", "setup"} <= targets
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(re.findall(r"nox -s ([a-z]+)", every)) <= set(re.findall(r"^def (\w+)\(session", noxfile, re.M))
    extras = set(re.findall(r"^([a-z-]+) = \[", project, re.M))
    assert set(re.findall(r"/src\[([\w,-]+)\]", said["Dockerfile"])[0].split(",")) <= extras
    jobs = {name: yaml.safe_load(text)["jobs"] for name, text in said.items() if name.endswith(".yml")}
    assert jobs["ci.yml"]["test"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert {"lowest", "wheel", "notebook", "site", "audit"} <= set(jobs["ci.yml"])
    assert jobs["publish.yml"]["pypi"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in every


def test_the_notebooks_cells_run(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(assets, "fetch", page_home.carried(tmp_path / "carried"))
    monkeypatch.chdir(home)
    cells = json.loads((ROOT / "docs" / "first_steps.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code[0].startswith("%pip install")
    space = {"__name__": "notebook"}
    for cell in code[1:]:
        if cell.startswith("!subspace"):
            status, printed, err = subspace(*shlex.split(cell)[1:])
            assert status == 0, err
            assert "clever" in printed
        else:
            exec(compile(cell, "first_steps.ipynb", "exec"), space)
    assert set(space["results"]) == {"ssb", "lora"}
    assert space["plain"].config.num_labels == 2
