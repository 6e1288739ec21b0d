"""A look at the subspaces while they train, at bounded cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from subspace_tuning.method import Params
from subspace_tuning.theory.subspaces import patterns
from subspace_tuning.tuner.layer import SubspaceLayer

Measure = Callable[[SubspaceLayer, Tensor], dict[str, float]]
POWERS = 8  # steps of the power iteration that finds ||dW||_2


def relative_change(layer: SubspaceLayer, dW: Tensor) -> dict[str, float]:
    """||dW||_F / ||W||_F."""
    return {"relative_change": (dW.norm() / layer.frozen.dense().norm()).item()}


def stable_rank(layer: SubspaceLayer, dW: Tensor) -> dict[str, float]:
    """||dW||_F^2 / ||dW||_2^2, the latter by a few steps of power iteration."""
    v = torch.ones(dW.shape[1], dtype=dW.dtype, device=dW.device)
    for _ in range(POWERS):
        v = nn.functional.normalize(dW.T @ (dW @ v), dim=0)
    top = (dW @ v).square().sum()
    return {"stable_rank": (dW.square().sum() / top).item()} if top > 0 else {}


def tilts(layer: SubspaceLayer, dW: Tensor) -> dict[str, float]:
    """The off-diagonal parts of A^T A and of B B^T: what matrix pattern constraints push to zero."""
    found = {}
    for adapter in layer.active_adapters:
        p: Params = layer.params(adapter)
        if "A" in p and "B" in p and p.A.shape[1] == p.B.shape[0]:
            residuals = patterns(p.A.dense(), p.B.dense())
            found = {"A_tilt": residuals.A_tilt, "B_tilt": residuals.B_tilt}
    return found


MEASURES: dict[str, Measure] = {"relative_change": relative_change, "stable_rank": stable_rank, "tilts": tilts}


class SubspaceCallback(TrainerCallback):
    """Logs means over some layers, as subspace/relative_change and so on, through the Trainer's trackers.

    ``log`` is the Trainer's own: ``trainer.add_callback(SubspaceCallback(trainer.log))``. The first look is at step
    ``first``; another follows whenever the time spent on looking, that look included, stays below ``share`` of the time
    spent on training so far, so that looks get rarer where they are dear. ``layers`` at most, evenly spaced, are looked
    at.
    """

    def __init__(
        self,
        log: Callable[[dict[str, float]], None],
        measures: Sequence[str] = tuple(MEASURES),
        share: float = 0.02,
        layers: int = 4,
        first: int = 10,
        clock: Callable[[], float] = time.perf_counter,
    ):
        unknown = sorted(set(measures) - set(MEASURES))
        if unknown:
            raise ValueError(f"unknown measures {unknown}; there are {', '.join(MEASURES)}")
        if not 0 < share < 1:
            raise ValueError(f"share is a part of the time of training in (0, 1), got {share!r}")
        self.log, self.measures, self.share, self.layers, self.first = log, measures, share, layers, first
        self.clock = clock
        self.trained = self.looked = 0.0  # seconds
        self.dearest = 0.0  # seconds of one look
        self.steps = 0
        self._began: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self._began is None:
            return
        self.trained += self.clock() - self._began
        self._began = None
        self.steps += 1
        if self.steps < self.first or self.looked + self.dearest > self.share * self.trained:
            return
        began = self.clock()
        values = self.look(model)
        if values:
            self.log(values)
        took = self.clock() - began
        self.looked += took
        self.dearest = max(self.dearest, took)

    @torch.no_grad()
    def look(self, model: nn.Module) -> dict[str, float]:
        """The measures of a model's tuned layers now, means over those looked at."""
        found: dict[str, list[float]] = {}
        for layer in self._chosen(model):
            adapters = [a for a in layer.active_adapters if a in layer.methods]
            E = layer.tuned(adapters).E
            for _ in layer.each():
                dW = (E.dense() - layer.frozen.dense()).float()
                for name in self.measures:
                    for key, value in MEASURES[name](layer, dW).items():
                        found.setdefault(f"subspace/{key}", []).append(value)
        return {key: sum(values) / len(values) for key, values in found.items()}

    def _chosen(self, model: nn.Module) -> list[SubspaceLayer]:
        able = [
            layer
            for layer in model.modules()
            if isinstance(layer, SubspaceLayer)
            and layer.frozen.holds_matrix
            and not layer.merged
            and all(layer.methods[a].mergeable for a in layer.active_adapters if a in layer.methods)
        ]
        count = min(self.layers, len(able))
        return [able[i * (len(able) - 1) // max(count - 1, 1)] for i in range(count)]
