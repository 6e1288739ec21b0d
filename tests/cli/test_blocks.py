"""Every block of code of every page runs as it stands there, or says that it is output (```text)."""

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from peft import get_peft_model
from torch.distributed.run import get_args_parser
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import page_home
from command import subspace
from subspace_tuning import Method, SubspaceConfig
from subspace_tuning.algebra import Diag
from subspace_tuning.files import assets
from subspace_tuning.method import zeros
from subspace_tuning.run.recipe import make
from subspace_tuning.sweep.recipe import read_sweep
from subspace_tuning.theory import pictures

ROOT = Path(__file__).parents[2]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.glob("docs/**/*.md")}
PAGES |= {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("*.md")}
ELSEWHERE = {  # blocks that a test of their own runs
    ("docs/clients.md", "python"): "tuner/test_client_page.py",
    ("docs/migrating.md", "python"): "tuner/test_migrating_page.py",
    ("docs/judging.md", "python"): "judge/test_page.py",
    ("docs/tour.md", "bash"): "cli/test_tour.py",
    ("docs/tasks.md", "yaml"): "tasks/test_tasks_page.py",
    ("docs/tasks.md", "json"): "tasks/test_tasks_page.py",
    ("docs/tasks.md", "bash"): "tasks/test_tasks_page.py",
    ("CONTRIBUTING.md", "python"): "methods/test_contributing.py",
    ("CONTRIBUTING.md", "toml"): "tasks/test_new_kind.py",
    ("CONTRIBUTING.md", "markdown"): "tasks/test_new_kind.py",
    ("docs/zh/five_minutes.md", "python"): "cli/test_chinese.py",
    ("docs/zh/five_minutes.md", "bash"): "cli/test_chinese.py",
    ("README.zh.md", "python"): "cli/test_chinese.py",
    ("README.zh.md", "bash"): "cli/test_chinese.py",
}
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
COMMAND = re.compile(r"^ {4}((?:subspace|make|python|pip) .*)$", re.M)  # a command in an indented block
OUTPUT = {"export": 1, "merge": 1, "surgery": 1}  # which argument is a folder that must be new
LAUNCHERS = {"torchrun": get_args_parser, "accelerate": launch_command_parser}
SHORT = {  # what is enough of a command that takes long
    "train": ["max_steps=2", "eval_samples=16"],
    "fit": ["--methods", "ssb,lora"],
    "analyze": ["--layers", r"layer\.0\."],
    "sweep": ["--dry-run"],
    "reproduce": ["--dry-run"],
    "leaderboard": ["--dry-run"],
}
ADAPTERS = {  # on the model that a page has
    "docs/strength.md": ("default", "formal"),
    "docs/serving.md": ("support", "legal"),
    "docs/optimisers.md": ("default",),
}
LONG = {"demo", "bench"}  # minutes whatever the model: only their help is asked for


def blocks(text):
    """(language, code) of each block, commands that are only indented among them."""
    found = [(language, code) for _, language, code in FENCED.findall(text)]
    return found + [("bash", line) for line in COMMAND.findall(FENCED.sub("", text))]


HERE = {
    path: [(lang, code) for lang, code in blocks(text) if lang != "text" and (path, lang) not in ELSEWHERE]
    for path, text in PAGES.items()
}
HERE = {path: found for path, found in sorted(HERE.items()) if found}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    fetch = page_home.carried(folder / "carried")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "fetch", fetch)
        (folder / "home").mkdir()
        return page_home.build(folder / "home"), fetch


@pytest.fixture
def home(filled, tmp_path, monkeypatch):
    """A copy of the folder that the pages are about, to be in."""
    built, fetch = filled
    monkeypatch.setattr(assets, "fetch", fetch)
    shutil.copytree(built, tmp_path / "home", symlinks=True)
    monkeypatch.setattr(pictures, "draw", lambda *args: [])  # half a minute of drawing, tested with theory
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("SUBSPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SUBSPACE_SVD_GB", "1")
    return tmp_path / "home"


def commands(code):
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_command(words):
    """One line of a shell: ours run, of others it is asked whether there is what they name."""
    tool, *words = words
    if tool == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M), words
    elif tool == "pip":
        extra = re.fullmatch(r"subspace-tuning(?:\[(\w+)\])?", words[1])[1]
        assert extra is None or re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M), words
    elif tool == "python" and words[0] == "-c":
        compile(words[1], "command", "exec")
    elif tool == "nox":
        assert f"def {words[1]}(session" in (ROOT / "noxfile.py").read_text(encoding="utf-8"), words
    elif tool == "python" and words[0] == "-m":  # a tool of a release, which its workflow runs too
        assert f"python -m {words[1]}" in (ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8"), words
    elif tool == "python":
        script = (ROOT / words[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in script for word in words if word.startswith("--"))
    elif tool in LAUNCHERS:  # launched in one process: see tests/run/test_several_processes.py
        asked = LAUNCHERS[tool]().parse_args(words[words[0] == "launch" :])
        assert (asked.module, asked.training_script) == (True, "subspace_tuning")
        run_ours(asked.training_script_args)
    else:
        assert tool == "subspace", f"{tool}: mark what is not run as text"
        run_ours(words)


def run_ours(words):
    words, to = (words[: words.index(">")], words[-1]) if ">" in words else (words, None)
    verb = words[0]
    if verb in LONG or "--serve" in words:
        words = [*[word for word in words if word != "--serve"][:2], "--help"]
    elif verb in OUTPUT:
        shutil.rmtree([word for word in words[1:] if not word.startswith("-")][OUTPUT[verb]], ignore_errors=True)
    elif "--save" in words:
        shutil.rmtree(words[words.index("--save") + 2], ignore_errors=True)
    enough = SHORT.get(verb, [None]) if words[1:2] != ["check"] else [None]
    code, printed, err = subspace(*words, *([] if enough[0] in (None, *words) else enough))
    assert code == 0, f"{' '.join(words)}: {err}"
    assert printed.strip() or verb == "data", words
    if to:
        Path(to).write_text(printed, encoding="utf-8")


def names(path):
    """What the Python of a page takes as given."""
    model = AutoModelForSequenceClassification.from_pretrained("roberta-base")
    if path in ADAPTERS:
        first, *others = ADAPTERS[path]
        model = get_peft_model(model, SubspaceConfig(method="lora", r=2), first)
        for adapter in others:
            model.add_adapter(adapter, SubspaceConfig(method="ssb"))
        model.base_model.set_adapter(list(ADAPTERS[path])) if path == "docs/strength.md" else model.eval()
    ids = torch.randint(5, 18, (4, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 0, 1])}
    trainer = type("Trainer", (), {"log": print, "add_callback": lambda self, callback: None})()
    given = {"torch": torch, "model": model, "ids": ids, "batches": [batch, batch], "trainer": trainer}
    given |= {"tokenizer": AutoTokenizer.from_pretrained("a-model"), "dataclass": dataclass, "Method": Method}
    given |= {"zeros": zeros, "Diag": Diag, "register": lambda name: lambda cls: cls}
    return given | {"SubspaceConfig": SubspaceConfig, "get_peft_model": get_peft_model}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", HERE)
def test_the_blocks_run(path, home):
    space = None
    for language, code in HERE[path]:
        if language == "bash":
            for words in commands(code):
                run_command(words)
        elif language == "python":
            space = space or {"__name__": "page", **names(path)}
            exec(compile(code, path, "exec"), space)
        elif language == "yaml":
            Path("page.yaml").write_text(code, encoding="utf-8")
            values = yaml.safe_load(code)
            if "distributed_type" in values:
                assert ClusterConfig.from_yaml_file("page.yaml")
            else:
                assert make(values) if "method" in values else read_sweep(Path("page.yaml")).methods
        else:
            pytest.fail(f"{path}: a block in {language or 'no language'} is neither run nor marked as text")


def test_what_runs_elsewhere_is_run_there():
    for (path, language), test in ELSEWHERE.items():
        assert any(lang == language for lang, _ in blocks(PAGES[path])), (path, language)
        told = (ROOT / "tests" / test).read_text(encoding="utf-8")
        assert Path(path).name in told or "zh" in path, test
    assert blocks("x\n\n```\nout\n```\n") == [("", "out\n")]
    assert blocks("    subspace methods  # all\n") == [("bash", "subspace methods  # all")]
