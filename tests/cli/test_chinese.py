"""The Chinese pages stay in step with the English ones: the same headings, code and links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {f"docs/zh/{path.name}": f"docs/{path.name}" for path in sorted(ROOT.glob("docs/zh/*.md"))}
PAGES |= {"README.zh.md": "README.md"}
FENCED, INDENTED = r"```.*?\n```", r"(?:^ {4,}\S.*\n)+"


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def headings(text):
    """Their levels, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", re.sub(FENCED, "", text, flags=re.S), re.M)]


def code(text):
    """Blocks of code without the comments, and without an equation's words."""
    fenced = re.findall(FENCED, text, re.S)
    rest = re.sub(FENCED, "", text, flags=re.S)
    blocks = [*fenced, *re.findall(INDENTED, rest, re.M)]
    return [[re.split(r" {2,}(?=[#f] ?)", line)[0].rstrip() for line in block.splitlines()] for block in blocks]


def links(text):
    """Where links lead to, seen from docs/."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(FENCED, "", text, flags=re.S))
    return sorted(target.removeprefix("../") for target in found)


@pytest.mark.parametrize(("chinese", "english"), PAGES.items(), ids=PAGES)
def test_a_page_is_in_step(chinese, english):
    assert headings(read(chinese)) == headings(read(english))
    assert code(read(chinese)) == code(read(english))
    assert re.search(r"[\u4e00-\u9fff]{20}", re.sub(r"[\s，。；、：]", "", read(chinese)))


@pytest.mark.parametrize(("chinese", "english"), [p for p in PAGES.items() if p[0] != "README.zh.md"])
def test_a_page_leads_where_the_english_one_does(chinese, english):
    assert links(read(chinese)) == links(read(english))


def test_what_there_is_to_compare():
    assert {"docs/zh/why.md", "docs/zh/five_minutes.md", "docs/zh/choose.md"} <= set(PAGES)
    assert headings("# a\n\n## b\n\n```\n# no heading\n```\n") == [1, 2]
    assert code("    run --it  # so\n    again\n") == [["    run --it", "    again"]]
    assert code(read("README.md"))[:2] != code(read("README.md"))[1:3]
