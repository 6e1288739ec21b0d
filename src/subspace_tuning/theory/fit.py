"""How near each family comes to a fully fine-tuned checkpoint: layer by layer, within the memory of a few weights.

Each finished (layer, method) is a line of ``layers.jsonl`` in the fit's folder, so that an interrupted fit goes on
where it stopped and a later one with more methods computes only these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from subspace_tuning.algebra import Weight
from subspace_tuning.errors import writing
from subspace_tuning.files.aside import folder as make_folder
from subspace_tuning.files.aside import whole_file, write
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.linalg.svd import rank_of_energy
from subspace_tuning.method import Composition, Method, registry
from subspace_tuning.methods.extend.lora import Factored
from subspace_tuning.theory.fitted import Family, LayerFit, Report
from subspace_tuning.theory.places import Place, Places, shared
from subspace_tuning.theory.project import project

Tensors = dict[str, Tensor]


def choose(names: Iterable[str] | None, rank: int | None) -> tuple[list[Method], dict[str, str]]:
    """The methods of these names (without them all that are maps of a weight), and why others are not.

    At a rank, or with their default fields.
    """
    wanted = list(names) if names is not None else sorted(registry.METHODS)
    methods, refused = [], {}
    for name in wanted:
        try:
            method = registry.build(name)
            method = method if rank is None else method.with_fields(r=rank)
        except registry.UnknownMethod:
            raise
        except (ValueError, TypeError) as error:
            refused[name] = str(error)
            continue
        if method.mergeable and method.sits_on != "output":
            methods.append(method)
        else:
            refused[name] = "not a map of the weight"
    if names is not None and not methods:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in refused.items()))
    return methods, refused


class Fit:
    """Fits methods to the layers of two checkpoints and keeps what is finished in a folder."""

    def __init__(self, base: Checkpoint, tuned: Checkpoint, folder: Path, energy: float | None = None):
        self.base, self.tuned, self.folder, self.energy = base, tuned, folder, energy
        self._lines = make_folder(folder) / "layers.jsonl"
        self.damaged = 0  # lines that say nothing; what they said is computed anew
        self._done = self._read()
        self._ranks: dict[str, int] = {}  # by module, that capture the energy
        self._seconds: dict[str, float] = {}  # by method, that fits took

    @classmethod
    def named(cls, base: Checkpoint, tuned: Checkpoint, energy: float | None = None) -> Fit:
        """With a folder under runs/ that is the same for the same files."""
        digest = hashlib.sha256(f"{base.digest()} {tuned.digest()}".encode()).hexdigest()[:8]
        return cls(base, tuned, Path("runs") / f"fit-{Path(tuned.name).name}-{digest}", energy)

    def run(
        self,
        methods: list[Method],
        layers: str | None = None,
        keep: Method | None = None,
        tick: Callable[[int], None] = lambda total: None,
        foretell: Callable[[dict[str, float]], None] = lambda seconds: None,
    ) -> Report:
        """Fit every method to every layer; the parameters of ``keep`` stay in the folder.

        foretell: is told how long each method will take, once one layer of each size is done.
        """
        places = shared(self.base, self.tuned, layers)
        foretell(self._foretold(places, methods, keep))
        found: dict[Method, dict[str, LayerFit]] = {method: {} for method in methods}
        unchanged = []
        for place in places.places:
            seated = [method for method in methods if _seated(method, place)]
            results = self._layer(places, place, seated, keep)
            if results is None:
                unchanged.append(place.name)
            for method, fit in (results or {}).items():
                found[method][place.name] = fit
            tick(len(places.places))
        families = [Family(method, fits, self.base.total) for method, fits in found.items()]
        families.sort(key=lambda family: -family.captured_energy)
        report = Report(families, places, unchanged, {}, dict(self._seconds))
        write(self.folder / "result.json", json.dumps(report.to_data(), indent=2) + "\n")
        return report

    def values(self, method: Method, place: str) -> Tensors:
        """The kept parameters of a method on a layer."""
        return load_file(self._kept(method, place))

    def _foretold(self, places: Places, methods: list[Method], keep: Method | None) -> dict[str, float]:
        """Seconds that are left for each method, as they were on one layer of each size that changed."""
        left: dict[str, float] = {}
        taken: dict[tuple[str, Any], float] = {}
        for place in places.places:
            for method in (m for m in methods if _seated(m, place)):
                size = (method.describe(), place.size)
                if self._key(place, method) in self._done or self._key(place, None) in self._done:
                    continue
                if size not in taken:
                    before = self._seconds.get(method.describe(), 0.0)
                    if self._layer(places, place, [method], keep) is not None:
                        taken[size] = self._seconds.get(method.describe(), 0.0) - before
                else:
                    left[method.name] = left.get(method.name, 0.0) + taken[size]
        return left

    def _layer(
        self, places: Places, place: Place, methods: list[Method], keep: Method | None
    ) -> dict[Method, LayerFit] | None:
        if not methods:
            return {}
        missing = [
            m for m in methods if self._key(place, m) not in self._done or (m == keep and not self._is_kept(m, place))
        ]
        if missing and self._key(place, None) not in self._done:
            W, W_star = place.read(places.base), place.read(places.tuned)
            for method in missing if _differ(W, W_star) else [None]:
                begun = time.perf_counter()
                at = None if method is None else self._ranked(method, places, place)
                fit = None if at is None or method is None else self._fitted(place, method, at, W, W_star, keep)
                self._write(place, method, fit)
                if method is not None:
                    told = method.describe()
                    self._seconds[told] = self._seconds.get(told, 0.0) + time.perf_counter() - begun
        if self._key(place, None) in self._done:
            return None
        return {method: self._done[self._key(place, method)] for method in methods}

    def _fitted(
        self, place: Place, method: Method, at: Method, W: Weight, W_star: Weight, keep: Method | None
    ) -> LayerFit:
        """The fit of a method, ``at`` the rank that it has there."""
        if at.shared:
            return LayerFit(
                skipped=f"{at.name} shares {', '.join(at.shared)} between layers, and a fit is of one alone"
            )
        try:
            found = project(at, W, W_star)
        except ValueError as error:
            return LayerFit(skipped=str(error))
        if method == keep:
            with whole_file(self._kept(method, place.name)) as aside:
                save_file({k: v.contiguous() for k, v in found.values.items()}, aside)
        r = getattr(at, "r", None) if at is not method else None
        return LayerFit(found.whole, found.left, at.count(*W.shape), found.scale, r)

    def _ranked(self, method: Method, places: Places, place: Place) -> Method:
        """With ``energy``, a low-rank extension at the least rank that captures it; experts at the largest of them."""
        if self.energy is None or not isinstance(method, Factored):
            return method
        if place.module not in self._ranks:
            together = [p for p in places.places if p.module == place.module]
            each = ((p.read(places.base).dense(), p.read(places.tuned).dense()) for p in together)
            spectra = (torch.linalg.svdvals(W_star - W).double() for W, W_star in each)
            self._ranks[place.module] = max(rank_of_energy(S, self.energy) for S in spectra)
        return method.with_fields(r=self._ranks[place.module])

    def _key(self, place: Place, method: Method | None) -> str:
        if method is None:
            return f"{place.name} unchanged"
        energy = f" energy={self.energy}" if self.energy is not None and isinstance(method, Factored) else ""
        return f"{place.name} {method.describe()}{energy}"

    def _kept(self, method: Method, place: str) -> Path:
        told = hashlib.sha256(f"{place} {method.describe()} {self.energy}".encode()).hexdigest()[:16]
        return self.folder / "parameters" / f"{told}.safetensors"

    def _is_kept(self, method: Method, place: Place) -> bool:
        if self._done[self._key(place, method)].skipped:
            return True
        try:
            return bool(self.values(method, place.name))
        except (OSError, SafetensorError):
            return False

    def _write(self, place: Place, method: Method | None, fit: LayerFit | None) -> None:
        key, fit = self._key(place, method), fit or LayerFit()
        self._done[key] = fit
        with writing(self._lines), self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key} | dataclasses.asdict(fit)) + "\n")

    def _read(self) -> dict[str, LayerFit]:
        """The lines that were written to their end; others are taken off."""
        lines = self._lines.read_bytes().splitlines(keepends=True) if self._lines.is_file() else []
        done, good = {}, []
        for line in lines:
            try:
                data = json.loads(line)
                key = data.pop("key")
                done[key] = LayerFit.of(data)
                good.append(line)
            except (ValueError, TypeError, KeyError, AttributeError):
                self.damaged += 1
        if self.damaged or (lines and not lines[-1].endswith(b"\n")):
            write(self._lines, b"".join(line.rstrip(b"\n") + b"\n" for line in good))
        return done


def _seated(method: Method, place: Place) -> bool:
    """Biases for methods on biases, matrices for the others."""
    members = method.members if isinstance(method, Composition) else (method,)
    n, _ = place.size
    return all("bias" in place.tensors if f.sits_on == "bias" else n > 0 for f in members)


def _differ(W: Weight, W_star: Weight) -> bool:
    b, b_star = W.own_bias, W_star.own_bias
    return not torch.equal(W.dense(), W_star.dense()) or (b is not None and not torch.equal(b, b_star))  # type: ignore[arg-type]
