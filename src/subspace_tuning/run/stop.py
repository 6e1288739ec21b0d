"""A run that is asked to end (SIGTERM, SIGHUP) ends at its next step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from subspace_tuning.errors import Interrupted, interrupt

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """Whether this process was asked to end, and by which signal."""

    def __init__(self) -> None:
        self.asked: int | None = None

    def note(self, number: int, frame: Any) -> None:
        if self.asked is not None:  # asked twice: at once
            raise Interrupted(number)
        self.asked = number

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Within this a signal is noted, a second one obeyed; a handler of the host's own, or none wanted, stays."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        replaced = {s: signal.getsignal(s) for s in SIGNALS if signal.getsignal(s) in (signal.SIG_DFL, interrupt)}
        try:
            for number in replaced:
                signal.signal(number, self.note)
            yield
        finally:
            for number, before in replaced.items():
                signal.signal(number, before)
