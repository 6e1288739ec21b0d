"""What the site's builder does to pages: the repository's own pages join it, each method gets a page of its own, to
which links lead, and formulas become MathML."""

import re
from html import unescape
from pathlib import Path
from posixpath import dirname, relpath

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from subspace_tuning import METHODS
from subspace_tuning.docs import site_nav, site_pages

ROOT = Path(__file__).parents[1]
OWN = {
    name: name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
}  # pages beside docs/
OWN |= {"README.md": "index.md", "README.zh.md": "zh/index.md"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
NO_PAGE = re.compile(r"\[([^\]]+)\]\((?!https?:|#|[\w/.-]+\.(?:md|html|svg|png))[^)]*\)")  # links to other files
ALL, SECTIONS = "methods.md", "\n## Reconstruction"  # its sections are the methods' own pages here


def on_config(config):
    methods = next(part["Methods"] for part in config.nav if "Methods" in part)
    methods.insert(1, {"One by one": site_nav()})


def on_files(files, config):
    for name, page in OWN.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for name, content in site_pages(ROOT).items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    here = page.file.src_uri
    if here == ALL:
        markdown = markdown.partition(SECTIONS)[0]
        markdown = re.sub(r"\]\(#(\w+)\)", lambda found: f"]({ALL}#{found[1]})", markdown)
    if not here.startswith("methods/"):
        markdown = LINK.sub(lambda found: _moved(found[1], found[2] or "", here), markdown)
    return NO_PAGE.sub(r"\1", markdown)


def _moved(target, anchor, here):
    """Where a link of the repository leads on the site."""
    written = {page: name for name, page in OWN.items()}.get(here, f"docs/{here}")
    path = relpath(f"/{dirname(written)}/{target}", "/")
    path = OWN.get(path) or path.removeprefix("docs/")
    if path == ALL and anchor[1:] in METHODS:
        path, anchor = f"methods/{anchor[1:]}.md", ""
    return relpath(path, dirname(here) or ".") + anchor


def on_page_content(html, page, config, files):
    return FORMULA.sub(lambda found: _mathml(unescape(found[2]), found[1] == "div"), html)


def _mathml(formula, displayed):
    return convert(formula, display="block" if displayed else "inline")
