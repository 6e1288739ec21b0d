"""How near each family comes to a fully fine-tuned checkpoint: layer by layer, within the memory of a few weights.

Each finished (layer, method) is a line of ``layers.jsonl`` in the fit's folder, so that an interrupted fit goes on
where it stopped and a later one with more methods computes only these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from subspace_tuning.errors import writing
from subspace_tuning.files.aside import folder as make_folder
from subspace_tuning.files.aside import write
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.method import Composition, Method, registry
from subspace_tuning.methods.extend.lora import Factored
from subspace_tuning.theory.fitted import Family, LayerFit, Report
from subspace_tuning.theory.layer_fit import LayerFits, Made, Tensors, apart, values
from subspace_tuning.theory.layers_shared_out import each
from subspace_tuning.theory.places import Place, Places, shared


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
        workers: int = 1,
    ) -> Report:
        """Fit every method to every layer; the parameters of ``keep`` stay in the folder.

        foretell: is told how long each method will take, once one layer of each size is done.
        workers: processes that share the layers out among themselves; they fit the same.
        """
        places = shared(self.base, self.tuned, layers)
        fits = LayerFits(places, self.folder, self.energy, keep)
        foretell({name: left / workers for name, left in self._foretold(fits, methods).items()})
        tasks = [(n, left) for n, place in enumerate(places.places) if (left := self._left(place, methods, keep))]
        for _ in range(len(places.places) - len(tasks)):
            tick(len(places.places))
        opened = partial(apart, self.base.name, self.tuned.name, layers, self.folder, self.energy, keep)
        for (n, _), made in each(tasks, lambda task: fits.of(places.places[task[0]], task[1]), opened, workers):
            for line in made:
                self._note(places.places[n], line)
            tick(len(places.places))
        report = self._report(places, methods)
        write(self.folder / "result.json", json.dumps(report.to_data(), indent=2) + "\n")
        return report

    def values(self, method: Method, place: str) -> Tensors:
        """The kept parameters of a method on a layer."""
        return values(self.folder, method, place, self.energy)

    def _report(self, places: Places, methods: list[Method]) -> Report:
        unchanged = [place.name for place in places.places if self._key(place, None) in self._done]
        changed = [place for place in places.places if place.name not in set(unchanged)]
        found = {m: {p.name: self._done[self._key(p, m)] for p in changed if _seated(m, p)} for m in methods}
        families = [Family(method, fits, self.base.total) for method, fits in found.items()]
        families.sort(key=lambda family: -family.captured_energy)
        return Report(families, places, unchanged, {}, dict(self._seconds))

    def _foretold(self, fits: LayerFits, methods: list[Method]) -> dict[str, float]:
        """Seconds that are left for each method, as they were on one layer of each size that changed."""
        left: dict[str, float] = {}
        taken: dict[tuple[str, Any], float] = {}
        for place in fits.places.places:
            for method in self._left(place, methods):
                size = (method.describe(), place.size)
                if size in taken:
                    left[method.name] = left.get(method.name, 0.0) + taken[size]
                    continue
                (made,) = fits.of(place, [method])
                self._note(place, made)
                if made.method is None:
                    break
                taken[size] = made.seconds
        return left

    def _left(self, place: Place, methods: list[Method], keep: Method | None = None) -> list[Method]:
        """What is to be fitted to a layer, as far as is known."""
        if self._key(place, None) in self._done:
            return []
        seated = [method for method in methods if _seated(method, place)]
        return [
            m for m in seated if self._key(place, m) not in self._done or (m == keep and not self._is_kept(m, place))
        ]

    def _key(self, place: Place, method: Method | None) -> str:
        if method is None:
            return f"{place.name} unchanged"
        energy = f" energy={self.energy}" if self.energy is not None and isinstance(method, Factored) else ""
        return f"{place.name} {method.describe()}{energy}"

    def _is_kept(self, method: Method, place: Place) -> bool:
        if self._done[self._key(place, method)].skipped:
            return True
        try:
            return bool(self.values(method, place.name))
        except (OSError, SafetensorError):
            return False

    def _note(self, place: Place, made: Made) -> None:
        key = self._key(place, made.method)
        self._done[key] = made.fit
        with writing(self._lines), self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key} | dataclasses.asdict(made.fit)) + "\n")
        if made.method is not None:
            told = made.method.describe()
            self._seconds[told] = self._seconds.get(told, 0.0) + made.seconds

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
