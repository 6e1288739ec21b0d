"""The command ``subspace``."""

from __future__ import annotations

import sys

EXTRA = {"typer", "rich", "pydantic", "yaml", "datasets", "scipy", "sklearn", "matplotlib", "pandas", "click"}


def main() -> None:
    try:
        from subspace_tuning.cli import app
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(
            f"error: the command line needs {error.name}, which is not installed: "
            "run `pip install 'subspace-tuning[train]'`",
            file=sys.stderr,
        )
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
