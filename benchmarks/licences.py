"""The licences of all that pyproject.toml names, as the installed packages say them, into docs/versions.md."""

import re
from importlib import metadata
from pathlib import Path

from subspace_tuning.files.markdown import table, with_table

PAGE, MARKER = Path("docs/versions.md"), "<!-- licences -->"


def required() -> dict[str, list[str]]:
    """Each package that is named, with the extras that ask for it."""
    found: dict[str, set[str]] = {}
    for line in metadata.requires("subspace-tuning") or []:
        name = re.match(r"[\w.-]+", line)[0].lower()
        extra = re.search(r"""extra == ["']([\w-]+)""", line)
        found.setdefault(name, set()).add(extra[1] if extra else "library")
    found.pop("subspace-tuning", None)
    return {name: sorted(extras) for name, extras in sorted(found.items())}


def licence(name: str) -> str:
    said = metadata.metadata(name)
    listed = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier") or () if c.startswith("License ::")]
    file = next((f for f in metadata.files(name) or () if f.name.upper().startswith("LICENSE")), None)
    text = file.locate().read_text(encoding="utf-8") if file else ""
    family = "BSD License" if "Redistribution and use in source and binary forms" in text else text[:60].strip()
    return said.get("License-Expression") or ", ".join(listed) or said.get("License") or family


if __name__ == "__main__":
    rows = [(f"`{name}`", licence(name), ", ".join(extras)) for name, extras in required().items()]
    made = table(("package", "licence", "asked for by"), rows)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), made, MARKER, str(PAGE)), encoding="utf-8")
