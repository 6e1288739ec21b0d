"""What the pages tell people to type exists, and their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from subspace_tuning.cli import app
from subspace_tuning.run.recipe import known_keys

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("recipes/*.yaml"))]
COMMANDS = typer.main.get_command(app)


def typed(page: Path):
    """The command lines of a page that begin with ``subspace``, those over several lines as one."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.lstrip("# $").strip() for line in text.splitlines() if re.match(r"[#$ ]*subspace [a-z]", line)]


def parsed(line: str):
    """The command that a line calls and its arguments; the command line's own error where it has no such option."""
    words = shlex.split(line.partition(" > ")[0].partition(" | ")[0], comments=True)[1:]
    command = COMMANDS
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command, command.make_parser(command.context_class(command)).parse_args(words)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_pages_give_them(page):
    for line in typed(page):
        command, values = parsed(line)
        if command.name == "train":
            named = {word.partition("=")[0] for word in values["words"] or () if "=" in word}
            assert {name.partition(".")[0] for name in named} <= set(known_keys()), line


def test_there_are_commands_to_look_at():
    assert sum(len(typed(page)) for page in PAGES) > 50
    with pytest.raises(Exception, match="No such option"):
        parsed("subspace sweep study.yaml --nonsense")


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), target


ONE_A_FILE = ("cli", "methods", "tasks", "laws")  # folders of many files of one kind, which the map does not list


def test_the_map_is_the_folder_listing():
    told = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", told))
    rooms = ROOT / "src" / "subspace_tuning"
    there = [p for p in rooms.rglob("*") if not p.name.startswith("__") and (p.is_dir() or p.suffix == ".py")]
    there = [p for p in there if p.parent == rooms or not {*p.relative_to(rooms).parts[:-1]} & {*ONE_A_FILE}]
    assert [str(p.relative_to(rooms)) for p in there if p.stem not in words] == []
    named = re.findall(r"\b([a-z_0-9]+\.py)\b", told)
    files = {p.name for folder in ("src", "tests", "benchmarks", "docs") for p in (ROOT / folder).rglob("*.py")}
    assert [name for name in named if name not in files] == []
