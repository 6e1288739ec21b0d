"""The licences of all that pyproject.toml names, as the installed packages say them, into docs/versions.md."""

import re
from importlib import metadata
from pathlib import Path

from subspace_tuning.files.markdown import table, with_table

PAGE, MARKER = Path("docs/versions.md"), "<!-- licences -->"
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def required() -> dict[str, list[str]]:
    """Each package that pyproject.toml names, with the extras that ask for it."""
    text = PROJECT.read_text(encoding="utf-8")
    lines = text[text.index("\ndependencies = [") : text.index("[project.scripts]")].splitlines()
    found: dict[str, set[str]] = {}
    section = ""
    for line in lines:
        section = begun[1] if (begun := re.match(r"([\w-]+) = \[", line)) else section
        for name in re.findall(r'"([A-Za-z][\w.-]*)(?:\[[^\]]*\])?(?=[<>="])', line):
            found.setdefault(name.lower(), set()).add("library" if section == "dependencies" else section)
    found = {name: extras for name, extras in found.items() if not name.startswith(("subspace", "py.typed", "src"))}
    return {name: sorted(extras) for name, extras in sorted(found.items())}


def licence(name: str) -> str:
    said = metadata.metadata(name)
    listed = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier") or () if c.startswith("License ::")]
    file = next((f for f in metadata.files(name) or () if f.name.upper().startswith("LICENSE")), None)
    text = file.locate().read_text(encoding="utf-8") if file else ""
    bsd = "Redistribution and use in source and binary forms" in text
    family = "BSD License" if bsd else text.strip().partition("\n")[0]
    return said.get("License-Expression") or ", ".join(listed) or said.get("License") or family


if __name__ == "__main__":
    rows = [(f"`{name}`", licence(name), ", ".join(extras)) for name, extras in required().items()]
    made = table(("package", "licence", "asked for by"), rows)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), made, MARKER, str(PAGE)), encoding="utf-8")
