"""The page of the API has every public name, and every name says what it is, what it raises and where it is from."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from fnmatch import fnmatch
from pathlib import Path

import pytest

from subspace_tuning import Method

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
TOLD = re.findall(r"^::: (\S+)$", PAGE, re.M)
MODULES = {name: importlib.import_module(name) for name in TOLD if name.count(".") < 2}
NAMES = [(module, name) for module, found in MODULES.items() for name in found.__all__]
CALLED = [(m, n) for m, n in NAMES if inspect.isfunction(getattr(MODULES[m], n))]
DATA = [(m, n) for m, n in NAMES if not callable(getattr(MODULES[m], n))]


def test_the_public_modules_are_on_the_page():
    assert set(MODULES) == {"subspace_tuning", "subspace_tuning.optim", "subspace_tuning.testing"}
    assert len(NAMES) == len(set(NAMES)) > 40


def test_names_that_a_file_has_too_are_asked_for_by_themselves():
    """In place of the function the site's builder would take the file."""
    folders = {module: Path(found.__file__).parent for module, found in MODULES.items()}
    twins = {f"{m}.{name}.{name}" for m, name in NAMES if (folders[m] / f"{name}.py").is_file()}
    assert twins == set(TOLD) - set(MODULES) != set()


@pytest.mark.parametrize(("module", "name"), [n for n in NAMES if n not in DATA], ids=lambda x: x)
def test_a_name_says_what_it_is(module, name):
    told = inspect.getdoc(getattr(MODULES[module], name))
    assert told
    assert told.split("\n")[0].rstrip(":").strip()
    assert not told.startswith(f"{name}(")  # what a dataclass says of itself


@pytest.mark.parametrize(("module", "name"), DATA, ids=lambda x: x)
def test_data_are_told_on_the_page(module, name):
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize(("module", "name"), CALLED, ids=lambda x: x)
def test_a_function_says_what_it_raises(module, name):
    function = inspect.unwrap(getattr(MODULES[module], name))
    body = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raised = {
        node.exc.func.id for node in ast.walk(body) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    told = inspect.getdoc(function)
    assert [error for error in raised if error not in told] == []


def members(module, name):
    """(name, function) of a public function, and of what a public class defines."""
    value = getattr(MODULES[module], name)
    if inspect.isfunction(value):
        return [(name, inspect.unwrap(value))]
    own = {key: getattr(found, "__func__", found) for key, found in vars(value).items() if key[0] != "_"}
    return [(f"{name}.{key}", getattr(value, key)) for key, found in own.items() if inspect.isfunction(found)]


@pytest.mark.parametrize(("module", "name"), [n for n in NAMES if n not in DATA], ids=lambda x: x)
def test_what_takes_or_gives_tensors_says_their_shapes(module, name):
    if name == "Laws":
        return  # whose methods are tests, named as what they say
    for label, function in members(module, name):
        told = inspect.getdoc(function)
        assert told, f"{label} says nothing"
        said = str(inspect.signature(function))
        if "Tensor" in said or "Parameter" in said:
            assert re.search(r"\([^()]*\b[bnmr],?\)|R\^\{|name -> |a number \(\)", told), f"{label} says no shape"


def test_optimisers_of_papers_say_their_source():
    optim = MODULES["subspace_tuning.optim"]
    told = {name: inspect.getdoc(getattr(optim, name)) for name in optim.__all__}
    assert all(
        re.search(r"Source:\s+\S", told[name]) for name in ("LoRAPro", "LoRARite", "Muon", "lora_plus", "riemannian")
    )


def test_units_are_said_once_for_all_names():
    assert re.search(r"learning rates are\s+per step, memory is in MB of 10\^6 bytes", PAGE)


def test_a_method_says_its_shapes_and_source():
    methods = [getattr(MODULES["subspace_tuning"], name) for name in MODULES["subspace_tuning"].__all__]
    for method in (
        m for m in methods if inspect.isclass(m) and issubclass(m, Method) and m.__name__ not in ("Method",)
    ):
        told = inspect.getdoc(method)
        assert "phi(" in told.split("\n")[0]
        assert "Source: arXiv:" in told


def test_types_are_strict_where_a_public_name_is_defined():
    """All that `mypy --strict` asks is asked by the ordinary `mypy` there."""
    tomllib = pytest.importorskip("tomllib")
    helped = subprocess.run([sys.executable, "-m", "mypy", "--help"], capture_output=True, text=True, check=True).stdout
    (flags,) = re.findall(r"--strict  .*?following flags:(.*?)\n  --\w", helped, re.S)
    asked = {flag.strip("-").replace("-", "_") for flag in re.sub(r"\s", "", flags).split(",")}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    defined = {getattr(getattr(MODULES[m], n), "__module__", m) for m, n in NAMES}
    assert len(asked) > 10
    assert len(defined) > 30
    for module in filter(re.compile("subspace_tuning").match, defined):
        told = [o for o in config["overrides"] if any(fnmatch(module, n) or n == f"{module}.*" for n in o["module"])]
        on = {flag for table in (config, *told) for flag, said in table.items() if said is True}
        assert asked - on <= ({"warn_return_any"} if ".methods." in module else set()), module
