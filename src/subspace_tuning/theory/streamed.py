"""Adapters written as a merged model or a LoRA, layer by layer, with the base on disk: a few weights are in memory.

A merged model has the shards of its base, with the same names, and tensors in the same precision. Work that is
interrupted goes on: what is finished stands in a folder beside the one that is made. No model computes anything, so
that the certificate tells of weights alone and not of logits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.convert import merge
from subspace_tuning.convert.certificate import CERTIFICATE, MERGED_CARD, Certificate, Layer
from subspace_tuning.convert.change import exact
from subspace_tuning.convert.export import checked
from subspace_tuning.convert.layers import Written
from subspace_tuning.convert.lora import Wanted
from subspace_tuning.convert.source import opened
from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import bring_to_disk, whole_file, whole_folder
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.merged import card_of, finished, public_name
from subspace_tuning.run.named import Named
from subspace_tuning.run.skeleton import skeleton
from subspace_tuning.theory.places import tied_to
from subspace_tuning.theory.streamed_lora import write_lora
from subspace_tuning.theory.streamed_work import Done, Work, beside

Tick = Callable[[int], None]
NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")


def written(
    adapters: Sequence[Path | str],
    out: Path | str,
    to: str = "lora",
    wanted: Wanted | None = None,
    base: str | None = None,
    weights: Sequence[float] | None = None,
    how: str = "sum",
    tick: Tick = lambda total: None,
    card: str = "",
) -> Certificate:
    """Write one adapter or several as a LoRA or a merged model, layer by layer.

    Raises BadInput where that takes more than weights one by one (a new head, weights that layers share), or where more
    would be lost than is wanted.
    """
    out = checked(out, to, ("lora", "merged"))
    sources = [opened(adapter, base) for adapter in adapters]
    if len(bases := {source.base for source in sources}) > 1:
        raise BadInput(f"the adapters belong to different models: {', '.join(sorted(bases))}; name one with --base")
    work = Work(sources, weights or [1.0] * len(sources), how, wanted or Wanted(), card)
    with torch.no_grad(), beside(out, work.digest() + to) as (folder, done):
        return (_merged if to == "merged" else write_lora)(work, out, folder, done, tick)


def merge_run(run: Path | str, out: Path | str, tick: Tick = lambda total: None) -> Path:
    """Write a finished run as a plain transformers model, layer by layer.

    Raises BadInput where that takes more than weights one by one, or where the run trained every weight.
    """
    folder = RunFolder(run)
    recipe, result = finished(folder)
    if recipe.is_plain:
        raise BadInput(f"{folder.path} trained every weight: there is nothing to stream; leave out --streamed")
    written([run], out, "merged", Wanted(), card=card_of(recipe, result), tick=tick)
    return Path(out)


def _merged(work: Work, out: Path, folder: Path, done: Done, tick: Tick) -> Certificate:
    replaced = _replaced(work)
    where = {work.key(name, part): name for name in work.seats for part in _parts(work, name)}
    shards = sorted(set(work.base.files.values()))
    for shard in shards:
        names = list(
            dict.fromkeys(where[key] for key, path in work.base.files.items() if path == shard and key in where)
        )
        if shard.name not in done.lines or not (folder / shard.name).is_file():
            with whole_file(folder / shard.name) as aside:
                shutil.copyfile(shard, aside)
                into = dict(_into(work, names, aside, shard, replaced, lambda: tick(len(work.seats))))
            done.note(shard.name, into)
    layers, sizes = done.layers()
    if why := merge.refusal(layers, work.wanted.max_error):
        raise BadInput(why)
    certificate = work.certificate("merged", layers, sizes)
    with whole_folder(out) as aside:
        for path in work.base.folder.iterdir():
            if path.is_file() and path.suffix not in NOT_COPIED and path.name != "README.md":
                shutil.copyfile(path, aside / path.name)
        card = work.card or MERGED_CARD.format(base=public_name(work.sources[0].base), made=work.made)
        (aside / "README.md").write_text(card, encoding="utf-8")
        (aside / CERTIFICATE).write_text(certificate.to_json() + "\n", encoding="utf-8")
        for shard in shards:
            (folder / shard.name).rename(aside / shard.name)
        bring_to_disk(aside)
    return certificate


def _parts(work: Work, name: str) -> list[str]:
    seat = next(seat for seat in work.seats[name] if seat is not None)
    return list(seat.place.tensors)


def _replaced(work: Work) -> dict[str, Tensor]:
    """What the adapter was saved with, by the keys of the base's files. Raises BadInput for what has no place there."""
    model = skeleton(work.base, work.sources[0].adapter.config.task_type)
    held, tied = Named(work.base, model), tied_to(model)
    for name in work.seats:
        if (own := f"{name}.weight") in tied or own in tied.values():
            raise BadInput(f"{name} shares its weight with another layer, which would change too; leave out --streamed")
    for name, t in work.along.items():
        if name not in held.keys_of or held.shape(name) != tuple(t.shape):
            raise BadInput(f"{name} was trained along, and the base has no such tensor; leave out --streamed")
    return {held.keys_of[name]: t for name, t in work.along.items()}


def _into(
    work: Work, names: list[str], file: Path, shard: Path, replaced: dict[str, Tensor], tick: Callable[[], None]
) -> Iterator[tuple[str, tuple[Layer, float]]]:
    """Write what becomes of these layers into a copy of a shard."""
    places = _places(file)
    with file.open("r+b") as held:
        for key, t in replaced.items():
            if work.base.files[key] == shard:
                _put(held, places[key], t.to(work.base.stored(key).dtype))
        for name in names:
            layer, made = work.change(name)
            W, missed = layer.frozen, 0.0
            if made.dW is not None:
                missed += _store(work, name, "weight", W.as_stored(exact(W.dense()) + made.dense()), held, places)
            if made.db is not None and W.own_bias is not None:
                missed += _store(work, name, "bias", exact(W.own_bias) + made.db, held, places)
            yield name, (merge.layer(made, Written(missed**0.5)), made.size())
            tick()


def _store(work: Work, name: str, part: str, value: Tensor, held: Any, places: dict[str, int]) -> float:
    """Write a weight or bias where its file has it; the square of what rounding took."""
    key = work.key(name, part)
    if key not in places:
        raise BadInput(f"{name} is spread over files; leave out --streamed")
    rounded = value.to(work.base.stored(key).dtype)
    _put(held, places[key], rounded)
    return (rounded.to(value.dtype) - value).square().sum().item()


def _places(file: Path) -> dict[str, int]:
    """Where a safetensors file has each tensor."""
    with file.open("rb") as held:
        size = int.from_bytes(held.read(8), "little")
        header = json.loads(held.read(size))
    return {key: 8 + size + told["data_offsets"][0] for key, told in header.items() if key != "__metadata__"}


def _put(held: Any, place: int, t: Tensor) -> None:
    held.seek(place)
    held.write(t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
