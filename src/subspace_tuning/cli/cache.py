"""Commands for what is kept between starts of training."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from subspace_tuning.cli.command import app, command, print_json
from subspace_tuning.cli.methods import AsJson
from subspace_tuning.errors import BadInput

if TYPE_CHECKING:
    from subspace_tuning.linalg.store import Store

cache_app = typer.Typer(
    name="cache",
    help="The decompositions of weights that methods such as PiSSA start from, kept so that a second start is fast.",
    no_args_is_help=True,
)
app.add_typer(cache_app)


@command("ls", group=cache_app, examples=["subspace cache ls", "subspace cache ls --json"])
def ls(as_json: AsJson = False) -> None:
    """List what is kept, the least recently used first: it is the first to go when room is needed.

    SUBSPACE_SVD_GB sets how much may be kept (4 GB; 0 keeps nothing), SUBSPACE_CACHE where.
    """
    store = _store()
    entries = store.entries()
    total = sum(e.bytes for e in entries)
    if as_json:
        held = [{"file": e.path.name, **e.about(), "bytes": e.bytes, "used": e.used} for e in entries]
        print_json({"folder": str(store.folder), "bytes": total, "limit_bytes": store.limit, "entries": held})
        return
    for entry in entries:
        about, used = entry.about(), time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        what = f"{about.get('weight', 'damaged'):>14}  {about.get('terms', ''):10}  {about.get('dtype', ''):9}"
        typer.echo(f"{what}  {_mb(entry.bytes):>9}  {used}")
    typer.echo(f"{len(entries)} decompositions, {_mb(total)} of {_mb(store.limit)}, in {store.folder}")


@command("clear", group=cache_app, examples=["subspace cache clear", "subspace cache clear --json"])
def clear(as_json: AsJson = False) -> None:
    """Remove all decompositions that are kept; models and data stay."""
    store = _store()
    gone = store.clear()
    total = sum(e.bytes for e in gone)
    if as_json:
        print_json({"folder": str(store.folder), "removed": len(gone), "bytes": total})
        return
    typer.echo(f"removed {len(gone)} decompositions, {_mb(total)}, from {store.folder}")


def _store() -> Store:
    from subspace_tuning.linalg.store import Store

    store = Store.of_user()
    if store is None:
        raise BadInput("SUBSPACE_SVD_GB is 0, so nothing is kept; unset it to look at the store")
    return store


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
