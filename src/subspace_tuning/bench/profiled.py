"""Where a step's time goes beyond the floor, operation by operation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile

from subspace_tuning.bench import measure
from subspace_tuning.bench.contenders import FLOOR, make, source_of
from subspace_tuning.bench.step import Setting, base_model

Spent = dict[str, tuple[float, int]]  # operation -> milliseconds of its own, calls


@dataclass(frozen=True)
class Row:
    """An operation's own time in one step, without that of the operations it calls: the floor's and the contender's."""

    operation: str
    floor_ms: float
    floor_calls: int
    ms: float
    calls: int

    @property
    def more_ms(self) -> float:
        return self.ms - self.floor_ms


def profiled(
    setting: Setting, name: str, peer: bool = False, tick: Callable[[int], Any] = lambda total: None
) -> list[Row]:
    """All operations of both steps, those first in which the contender spends most beyond the floor.

    Each figure is the median over the setting's rounds; floor and contender take turns.
    """
    base = base_model(setting)
    batch = measure.random_batch(base, setting.batch, setting.length, setting.device, setting.seed)
    steps = [
        measure.Step(make(n, s, base, setting.rank), batch) for n, s in ((FLOOR, FLOOR), (name, source_of(name, peer)))
    ]
    for step in steps * 2:
        step()
    rounds: tuple[list[Spent], list[Spent]] = ([], [])
    for _ in range(setting.rounds):
        for step, found in zip(steps, rounds, strict=True):
            found.append(_spent(step))
            tick(2 * setting.rounds)
    floor, own = map(_medians, rounds)
    rows = [Row(op, *floor.get(op, (0.0, 0)), *own.get(op, (0.0, 0))) for op in {**floor, **own}]
    return sorted(rows, key=lambda row: -row.more_ms)


def _spent(step: measure.Step) -> Spent:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler else tells each start and stop
    cuda = step.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        step()
    return {
        event.key: ((event.self_device_time_total if cuda else event.self_cpu_time_total) / 1000, event.count)
        for event in profiler.key_averages()
    }


def _medians(rounds: list[Spent]) -> Spent:
    operations = {op for spent in rounds for op in spent}
    return {
        op: (median(s.get(op, (0.0, 0))[0] for s in rounds), int(median(s.get(op, (0.0, 0))[1] for s in rounds)))
        for op in operations
    }
