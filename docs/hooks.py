"""What the site's builder does to pages: the repository's own pages join it, and formulas become MathML."""

import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OWN = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")  # pages beside docs/
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
NO_PAGE = re.compile(r"\[([^\]]+)\]\((?!https?:|#|[\w/.-]+\.(?:md|html|svg|png))[^)]*\)")  # links to other files


def on_files(files, config):
    for name in OWN:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri in (*OWN, "index.md"):
        markdown = markdown.replace("](docs/", "](")
    else:
        markdown = markdown.replace("](../", "](")
    return NO_PAGE.sub(r"\1", markdown)


def on_page_content(html, page, config, files):
    return FORMULA.sub(lambda found: _mathml(unescape(found[2]), found[1] == "div"), html)


def _mathml(formula, displayed):
    return convert(formula, display="block" if displayed else "inline")
