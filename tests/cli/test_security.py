"""What SECURITY.md promises of the code: nothing in it unpickles, evaluates, or lets a model bring code along."""

import ast
from pathlib import Path

import pytest

import subspace_tuning

SOURCES = sorted(Path(subspace_tuning.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "yaml.load", "yaml.unsafe_load"}
CALLS |= {"torch.jit.load", "torch.hub.load", "pandas.read_pickle", "pd.read_pickle"}
IMPORTS = {  # who imports by name, and why
    "optim/registry.py": "names of a list of its own",
    "tasks/optional.py": "names of a list of its own",
    "method/registry.py": "load, which a person's own words call",
    "sweep/worker.py": "the runner that Python code gave the pool",
    "cli/use.py": "--import",
}
EVALUATED = {"testing/laws/counting.py": "formulas of methods in memory"}


def calls(path):
    """(dotted name, its keywords) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            yield ast.unparse(node.func), keywords


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def place(path):
    return path.relative_to(Path(subspace_tuning.__file__).parent).as_posix()


def wrong(path):
    found = [f"imports {name}" for name in imported(path) if name in MODULES]
    for name, keywords in calls(path):
        if name in CALLS and place(path) not in EVALUATED:
            found.append(f"calls {name}")
        if name.endswith("import_module") and place(path) not in IMPORTS:
            found.append("imports by name")
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle") is not False:
            found.append("lets numpy unpickle")
        if keywords.get("trust_remote_code") or keywords.get("shell"):
            found.append(f"lets {name} run code")
        opens = name.startswith("Auto") and name.endswith("from_pretrained")
        if opens and keywords.get("trust_remote_code") is not False:
            found.append(f"leaves it to {name} whether to run code")
    return found


def test_no_file_opens_what_could_run():
    assert {place(path): found for path in SOURCES if (found := wrong(path))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path, weights_only=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "np.load(path)",
        "AutoModel.from_pretrained(name)",
        "from_pretrained(name, trust_remote_code=True)",
        "importlib.import_module(name)",
    ],
)
def test_it_would_be_seen(tmp_path, monkeypatch, code):
    monkeypatch.setattr(subspace_tuning, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "odd.py").write_text(code)
    assert len(wrong(tmp_path / "odd.py")) == 1
