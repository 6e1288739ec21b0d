"""What is to be written of adapters, layer by layer, and what is finished of it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

from torch import Tensor

from subspace_tuning.convert.certificate import Certificate, Layer
from subspace_tuning.convert.change import Change, change
from subspace_tuning.convert.layers import check_finite
from subspace_tuning.convert.lora import Wanted
from subspace_tuning.convert.probe import Differences
from subspace_tuning.convert.source import Source
from subspace_tuning.errors import BadInput, as_bad_input, writing
from subspace_tuning.files.aside import write
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.run.merged import public_name
from subspace_tuning.theory.touched import Seat, touched
from subspace_tuning.tuner.keys import is_shared
from subspace_tuning.tuner.keys import seat as seat_of
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.version import VERSION
from subspace_tuning.weights.slices import Slice

DONE = "done.jsonl"
UNKNOWN = Differences(*[math.nan] * 4)


@dataclass(frozen=True)
class Work:
    """Adapters of one base: their sum, each times its weight, or one on what the ones before it made."""

    sources: list[Source]
    weights: Sequence[float]
    how: str
    wanted: Wanted
    card: str = ""  # of a merged model, if it has one of its own

    @cached_property
    def base(self) -> Checkpoint:
        return Checkpoint(self.sources[0].base)

    @cached_property
    def seats(self) -> dict[str, list[Seat | None]]:
        """By the name of a layer, what each adapter has there."""
        each = [touched(source.adapter, self.base) for source in self.sources]
        names = dict.fromkeys(name for seats in each for name in seats)
        return {name: [seats.get(name) for seats in each] for name in names}

    def change(self, name: str) -> tuple[SubspaceLayer, Change]:
        """A layer with its numbers, and what the adapters make of it."""
        seats = {f"adapter_{i}": seat for i, seat in enumerate(self.seats[name]) if seat is not None}
        first = next(iter(seats.values()))
        layer = SubspaceLayer(first.place.filled(first.base))
        layer.path = name
        for adapter, seat in seats.items():
            with as_bad_input():
                layer.add(adapter, seat.method)
            values = seat.method.unpacked(dict(seat.values), layer.constants(adapter), *layer.frozen.shape)
            layer.restart(adapter, values)
        with as_bad_input():
            if self.how == "compose":
                made = change(layer, list(seats))
            else:
                weights = {f"adapter_{i}": w for i, w in enumerate(self.weights)}
                made = reduce(lambda a, b: a + b, (weights[a] * change(layer, [a]) for a in seats))
        check_finite({name: made})
        return layer, made

    def key(self, name: str, part: str) -> str:
        """What the base's files call a layer's weight or bias. Raises BadInput where it is no tensor of its own."""
        seat = next(seat for seat in self.seats[name] if seat is not None)
        own = seat.place.tensors[part]
        if seat.place.expert is not None or isinstance(seat.place.layer, Slice) or own not in seat.base.keys_of:
            raise BadInput(f"{name} is part of a tensor that others share; leave out --streamed")
        return seat.base.keys_of[own]

    @cached_property
    def methods(self) -> list[str]:
        found = [seat.method.describe() for seats in self.seats.values() for seat in seats if seat is not None]
        return sorted(set(found))

    @cached_property
    def along(self) -> dict[str, Tensor]:
        """What the first adapter was saved with beside its method: modules that were trained whole, by their names."""
        head = "base_model.model."
        held = self.sources[0].adapter.weights
        return {key.removeprefix(head): t for key, t in held.items() if seat_of(key) is None and not is_shared(key)}

    def digest(self) -> str:
        told = [self.base.digest(), self.how, list(self.weights), asdict(self.wanted)]
        told += [Checkpoint(source.adapter.folder).digest() for source in self.sources]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def certificate(self, to: str, layers: dict[str, Layer], sizes: dict[str, float]) -> Certificate:
        return Certificate.of(
            layers,
            sizes,
            source=[source.given.name for source in self.sources],
            methods=self.methods,
            base=public_name(self.sources[0].base),
            to=to,
            asked=asdict(self.wanted),
            probe="",
            logits=UNKNOWN,
            moved=UNKNOWN,
        )

    @property
    def made(self) -> str:
        return f"{', '.join(self.methods)} by [subspace-tuning](https://pypi.org/project/subspace-tuning/) {VERSION}"


class Done:
    """What is finished of some work, a line each: shards, or layers. A line that was cut off is none."""

    def __init__(self, path: Path):
        self.path = path
        self.lines: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                told = json.loads(line)
                self.lines[told["key"]] = told
            except (ValueError, KeyError, TypeError):
                continue

    def note(self, key: str, layers: dict[str, tuple[Layer, float]]) -> None:
        self.lines[key] = {"key": key, "layers": {name: [*layer, size] for name, (layer, size) in layers.items()}}
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(self.lines[key]))

    def layers(self) -> tuple[dict[str, Layer], dict[str, float]]:
        """What became of the layers, and how large their changes are."""
        held = {name: told for line in self.lines.values() for name, told in line["layers"].items()}
        layers = {name: Layer(tuple(told[0]), *told[1:-1]) for name, told in held.items()}
        return layers, {name: told[-1] for name, told in held.items()}


def unfinished(out: Path) -> Path:
    """Where what is finished of a folder stands while it is made."""
    out = out.absolute()
    return out.with_name(f".{out.name}.unfinished")


def begun(out: Path, digest: str) -> Path:
    """The folder of unfinished work; another work's is begun anew. Raises BadInput where ``out`` is a file."""
    with writing(out):
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(out))
    folder = unfinished(out)
    mark = folder / "work"
    if folder.is_dir() and (not mark.is_file() or mark.read_bytes() != digest.encode()):
        shutil.rmtree(folder)
    write(mark, digest)
    return folder


@contextmanager
def beside(out: Path, digest: str) -> Iterator[tuple[Path, Done]]:
    """The folder of unfinished work, and what is finished of it; gone once all is."""
    folder = begun(out, digest)
    yield folder, Done(folder / DONE)
    shutil.rmtree(folder, ignore_errors=True)
