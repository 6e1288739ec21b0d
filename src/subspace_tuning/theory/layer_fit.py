"""Methods fitted to one layer of two checkpoints: what a process of its own can do, and no more is in its memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.files.aside import whole_file
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.linalg.svd import rank_of_energy
from subspace_tuning.method import Method
from subspace_tuning.methods.extend.lora import Factored
from subspace_tuning.theory.fitted import LayerFit
from subspace_tuning.theory.layers_shared_out import Make
from subspace_tuning.theory.places import Place, Places, shared
from subspace_tuning.theory.project import project

Tensors = dict[str, Tensor]


class Made(NamedTuple):
    """A method's fit on a layer, and the seconds it took; None for both where W* is W."""

    method: Method | None
    fit: LayerFit
    seconds: float = 0.0


class LayerFits:
    """Fits methods to the layers of two checkpoints, one at a time; the parameters of ``keep`` go into the folder."""

    def __init__(self, places: Places, folder: Path, energy: float | None, keep: Method | None = None):
        self.places, self.folder, self.energy, self.keep = places, folder, energy, keep
        self._ranks: dict[str, int] = {}  # by module, that capture the energy

    def of(self, place: Place, methods: Iterable[Method]) -> Iterator[Made]:
        """One method after the other."""
        W, W_star = place.read(self.places.base), place.read(self.places.tuned)
        if not _differ(W, W_star):
            yield Made(None, LayerFit())
            return
        for method in methods:
            begun = time.perf_counter()
            fit = self._fitted(place, method, W, W_star)
            yield Made(method, fit, time.perf_counter() - begun)

    def _fitted(self, place: Place, method: Method, W: Weight, W_star: Weight) -> LayerFit:
        at = self._ranked(method, place)
        if at.shared:
            return LayerFit(
                skipped=f"{at.name} shares {', '.join(at.shared)} between layers, and a fit is of one alone"
            )
        try:
            found = project(at, W, W_star)
        except ValueError as error:
            return LayerFit(skipped=str(error))
        if method == self.keep:
            with whole_file(kept_at(self.folder, method, place.name, self.energy)) as aside:
                save_file({k: v.contiguous() for k, v in found.values.items()}, aside)
        r = getattr(at, "r", None) if at is not method else None
        return LayerFit(found.whole, found.left, at.count(*W.shape), found.scale, r)

    def _ranked(self, method: Method, place: Place) -> Method:
        """With ``energy``, a low-rank extension at the least rank that captures it; experts at the largest of them."""
        if self.energy is None or not isinstance(method, Factored):
            return method
        if place.module not in self._ranks:
            together = [p for p in self.places.places if p.module == place.module]
            each = ((p.read(self.places.base).dense(), p.read(self.places.tuned).dense()) for p in together)
            spectra = (torch.linalg.svdvals(W_star - W).double() for W, W_star in each)
            self._ranks[place.module] = max(rank_of_energy(S, self.energy) for S in spectra)
        return method.with_fields(r=self._ranks[place.module])


@contextmanager
def apart(
    base: str, tuned: str, pattern: str | None, folder: Path, energy: float | None, keep: Method | None
) -> Iterator[Make[tuple[int, list[Method]], Iterable[Made]]]:
    """The same in another process, by the numbers of the layers."""
    places = shared(Checkpoint(base), Checkpoint(tuned), pattern)
    fits = LayerFits(places, folder, energy, keep)
    yield lambda task: list(fits.of(places.places[task[0]], task[1]))


def kept_at(folder: Path, method: Method, place: str, energy: float | None) -> Path:
    """Where the parameters of a method on a layer are kept."""
    told = hashlib.sha256(f"{place} {method.describe()} {energy}".encode()).hexdigest()[:16]
    return folder / "parameters" / f"{told}.safetensors"


def values(folder: Path, method: Method, place: str, energy: float | None) -> Tensors:
    return load_file(kept_at(folder, method, place, energy))


def _differ(W: Weight, W_star: Weight) -> bool:
    b, b_star = W.own_bias, W_star.own_bias
    return not torch.equal(W.dense(), W_star.dense()) or (b is not None and not torch.equal(b, b_star))  # type: ignore[arg-type]
