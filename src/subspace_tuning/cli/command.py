"""The app that commands join, and how a command ends in one sentence instead of a traceback."""

from __future__ import annotations

import functools
import inspect
import os
import platform
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from inspect import Parameter
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from subspace_tuning.errors import BadInput, Interrupted, RunFailed, interrupt, told
from subspace_tuning.files.plain import dump
from subspace_tuning.version import VERSION

app = typer.Typer(
    name="subspace",
    help="Fine-tuning as algebra on a frozen weight: train, use and compare every method of phi(W) = g(f(W)).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Command = TypeVar("Command", bound=Callable[..., Any])


def _tell_versions(asked: bool) -> None:
    if asked:
        print(f"subspace-tuning {VERSION}")
        print(f"python {platform.python_version()}")
        print("\n".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "safetensors")))
        raise typer.Exit


@app.callback()
def _subspace(
    versions: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_versions, is_eager=True, help="Versions, as a report of a fault has them."
        ),
    ] = False,
) -> None:
    """Quiet libraries: what they log about a model is not news to someone who trains it."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def command(
    name: str, *, examples: list[str], group: typer.Typer = app, then: str = ""
) -> Callable[[Command], Command]:
    """Add a function to the app (or a group of it) as a command whose help shows examples, and what may come next.

    A parameter that is a dataclass stands for its fields, each an option.
    """

    def add(function: Command) -> Command:
        shown = "\n\n".join(f"`{example}`" for example in examples)
        following = f"\n\n**Next** {then}" if then else ""
        group.command(name, epilog=f"**Examples**\n\n{shown}{following}")(_in_sentences(_spread(function)))
        return function

    return add


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the fields of its dataclasses as parameters of its own."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    if not groups:
        return function

    def parameters() -> Iterator[Parameter]:
        for p in inspect.signature(function).parameters.values():
            if p.name not in groups:
                yield p.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[p.name])
                continue
            inner = get_type_hints(groups[p.name], include_extras=True)
            for f in fields(groups[p.name]):
                yield Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=inner[f.name])

    @functools.wraps(function)
    def gathered(**given: Any) -> Any:
        made = {name: cls(**{f.name: given.pop(f.name) for f in fields(cls)}) for name, cls in groups.items()}
        return function(**given, **made)

    signature = inspect.Signature(list(parameters()))
    gathered.__signature__ = signature  # type: ignore[attr-defined]
    gathered.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return gathered


def _in_sentences(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with _signals():
                return function(*args, **kwargs)
        except Exception as error:
            sentence = error if isinstance(error, BadInput | RunFailed) else told(error)
            if sentence is None or os.environ.get("SUBSPACE_DEBUG"):
                raise
            typer.echo(f"error: {sentence}", err=True)
            raise typer.Exit(2 if isinstance(sentence, BadInput) else 1) from None
        except Interrupted as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on from the last checkpoint", err=True)
            raise typer.Exit(130) from None

    return wrapped


@contextmanager
def _signals() -> Iterator[None]:
    """A signal to end becomes an exception, so that nothing is left half-written; where nobody has said otherwise."""
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()
    mine = [number for number in wanted if is_main and signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in mine:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def print_json(data: Any) -> None:
    typer.echo(dump(data))
