"""A run's progress on the terminal; nothing where standard error is a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console
from transformers import TrainerCallback


def _bar() -> progress.Progress:
    console = Console(stderr=True)
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def counted(told: str) -> Iterator[Callable[[int], None]]:
    """A bar for work of known length: call what it yields once a piece, with the number of pieces."""
    with _bar() as bar:
        task = bar.add_task(told, total=None)
        yield lambda total: bar.update(task, total=total, advance=1)


class Progress(TrainerCallback):
    """A bar over the steps with the latest loss and score."""

    def __init__(self) -> None:
        self._bar = _bar()
        self._latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step)
        self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        own = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
        shown = {k: v for k, v in (logs or {}).items() if k == "loss" or (k.startswith("eval_") and k not in own)}
        self._latest |= shown
        told = "  ".join(f"{name.removeprefix('eval_')} {float(value):.3f}" for name, value in self._latest.items())
        self._bar.update(self._task, description=told or "training")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.stop()
