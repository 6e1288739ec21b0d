"""What is tried outside of the pinned environment: `nox -s wheel-3.12`, `nox -s newest`, notebook, audit."""

import shutil
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
CONSTRAINTS = str(Path("constraints.txt").resolve())
nox.options.sessions = ["wheel"]
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def wheel(session: nox.Session) -> None:
    """The wheel, installed into an empty environment, runs the demo away from the clone."""
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "dist", ".")
    (built,) = Path("dist").resolve().glob("*.whl")
    session.install("--constraint", CONSTRAINTS, f"{built}[train]")
    session.chdir(session.create_tmp())
    session.run("subspace", "methods")
    session.run("subspace", "demo", "--quick")


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The suite with the newest versions that the ranges allow."""
    session.install("--upgrade", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def notebook(session: nox.Session) -> None:
    """The notebook, cell by cell."""
    session.install("--constraint", CONSTRAINTS, ".[train]", "nbmake", "ipykernel")
    session.run("pytest", "--nbmake", "--nbmake-timeout=1800", "docs/first_steps.ipynb")


@nox.session
def audit(session: nox.Session) -> None:
    """Known weaknesses of the pinned versions; strict, so that data out of reach are no pass."""
    session.install("pip-audit")
    session.run("pip-audit", "--strict", "-r", "constraints.txt", "--no-deps", "--disable-pip")
