"""Prints the oldest versions that pyproject.toml promises for the library, train and study, as constraints."""

import re
from pathlib import Path

SECTIONS = ("dependencies", "train", "study")


def lowest(text: str) -> list[str]:
    """``name==version`` for each ``name>=version``."""
    found = []
    for section in SECTIONS:
        (listed,) = re.findall(rf"^{section} = \[(.*?)^\]", text, re.M | re.S)
        found += [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)', listed)]
    return found


if __name__ == "__main__":
    print("\n".join(lowest(Path("pyproject.toml").read_text(encoding="utf-8"))))
