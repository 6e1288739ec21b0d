"""The command ``subspace``."""

from __future__ import annotations

import sys

EXTRAS = {
    "train": {"typer", "rich", "pydantic", "yaml", "datasets", "scipy", "sklearn", "matplotlib", "pandas", "click"},
    "study": {"duckdb", "statsmodels", "optuna", "plotly", "pyarrow", "filelock", "psutil"},
    "ray": {"ray"},
}


def main() -> None:
    try:
        from subspace_tuning.cli import app

        app()
    except ModuleNotFoundError as error:
        needed = (error.name or "").partition(".")[0]
        extra = next((extra for extra, names in EXTRAS.items() if needed in names), None)
        if extra is None:
            raise
        print(
            f"error: this command needs {needed}, which is not installed: run `pip install 'subspace-tuning[{extra}]'`",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
