"""Damage to an adapter's folder, seeded: what a reader must meet with success or one sentence."""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SLOW = [
    r"(a+)+$",
    r"(.*a){25}",
    r"(.*.*.*)*query",
    r"(?:(?:[a-z]|[a-z.])*)*!",
    r"(\w|\w\w)+\d!",
    r"(a?){60}a{60}",
    r"((a|b|ab)*)*c",
    r"(?=(.*)*)x",
]
BROKEN = [r"(", r"[", r"*", r"a{99999999999}", r"(?P<idx>a)", r"(?i)query", "(" * 300, r"\\", r"(?P=none)"]
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 7, 10**6, 10**12, 10**30, 2.5, 1e308, -1e-300),
    *("", "x", "query", "ssb", "../../etc/passwd", "\x00", "é" * 400, "transformers:BarkModel", "antigravity:Method"),
    *([], ["query"], [None], [1, 2], [["query"]], {}, {"query": 3}, {"name": "lora"}, {"name": "lora", "r": "x"}),
    *({"query": -1}, {"query": 10**9}, {"(": 2}, {"name": "vera", "r": 10**9, "cut_n": 10**9, "cut_m": 10**9}),
    *({"name": "json:JSONDecoder"}, {"name": "elsewhere", "import": "this"}, ["ssb"] * 40, {"name": []}),
    *SLOW,
    *BROKEN,
]


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG).read_text())


def _write(folder: Path, data: Any) -> None:
    (folder / CONFIG).write_text(json.dumps(data))


def _tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    held = {k: v.clone() for k, v in load_file(folder / WEIGHTS).items()}  # whose file is written over
    change(held)
    save_file({k: v.contiguous() for k, v in held.items()}, folder / WEIGHTS)


def cut(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice([CONFIG, WEIGHTS])
    path.write_bytes(path.read_bytes()[: rng.choice([0, 1, 7, 8, 9, 100, rng.randrange(2000)])])


def zeroed(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice([CONFIG, WEIGHTS])
    held = bytearray(path.read_bytes())
    start = rng.randrange(min(len(held), 3000))
    held[start : start + rng.randint(1, 64)] = bytes(rng.choice([0, 0xFF]) for _ in range(min(64, len(held) - start)))
    path.write_bytes(bytes(held))


def flipped(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice([CONFIG, WEIGHTS])
    held = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        held[rng.randrange(min(len(held), 3000))] = rng.randrange(256)
    path.write_bytes(bytes(held))


def removed(folder: Path, rng: random.Random) -> None:
    (folder / rng.choice([CONFIG, WEIGHTS])).unlink()


def other_json(folder: Path, rng: random.Random) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    text = rng.choice(["[]", "3", "null", '"x"', "{}", "{", "NaN", deep, '{"a": ' * 50_000, "\ufeff{}", '{"r": 1e999}'])
    (folder / CONFIG).write_text(text)


def field(folder: Path, rng: random.Random) -> None:
    data = _config(folder)
    for _ in range(rng.choice([1, 1, 2])):
        data[rng.choice([*data, "layers_pattern", "exclude_modules"])] = rng.choice(JUNK)
    _write(folder, data)


def field_of_method(folder: Path, rng: random.Random) -> None:
    data = _config(folder)
    held = data.get("method", data)
    parts = [part for part in (held if isinstance(held, list) else [held]) if isinstance(part, dict)]
    part = rng.choice(parts)
    part[rng.choice(list(part))] = rng.choice(JUNK)
    _write(folder, data)


def field_lost(folder: Path, rng: random.Random) -> None:
    data = _config(folder)
    for key in rng.sample(sorted(data), rng.choice([1, 1, 3])):
        del data[key]
    _write(folder, data)


def pattern(folder: Path, rng: random.Random) -> None:
    data, given = _config(folder), rng.choice([*SLOW, *BROKEN, r".*", r".*\.query", r".*.*.*.*.*.*.*.*.*.*x"])
    name = rng.choice(["target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"])
    data[name] = {given: 2} if name in ("rank_pattern", "alpha_pattern") else given
    if name == "layers_pattern":
        data["layers_to_transform"] = [0]
    _write(folder, data)


def kept(folder: Path, rng: random.Random) -> None:
    data = _config(folder)
    data["modules_to_save"] = rng.choice(
        [["classifier", "score"], ["pooler"], [rng.choice(SLOW)], ["("], [""], ["bert"]]
    )
    _write(folder, data)


def tensor_lost(folder: Path, rng: random.Random) -> None:
    _tensors(
        folder, lambda held: [held.pop(k) for k in rng.sample(sorted(held), min(len(held), rng.choice([1, 2, 5])))]
    )


def renamed(folder: Path, rng: random.Random) -> None:
    def change(held: dict[str, torch.Tensor]) -> None:
        for key in rng.sample(sorted(held), min(len(held), rng.choice([1, 3]))):
            other = [key.replace("base_model.", ""), f"{key}.weight", key.replace("0", "9"), key.upper()]
            other += ["x", "", "a.b", "." * 9, f"{key}{'.a' * 2000}", key.replace("_params", "_stored")]
            held[rng.choice(other)] = held.pop(key)

    _tensors(folder, change)


def reshaped(folder: Path, rng: random.Random) -> None:
    def change(held: dict[str, torch.Tensor]) -> None:
        for key in rng.sample(sorted(held), min(len(held), rng.choice([1, 2, len(held)]))):
            t = held[key]
            turned = t.reshape(t.shape[::-1]) if t.dim() > 1 else t.unsqueeze(0)
            held[key] = rng.choice([turned, t[:0], t.flatten(), t.new_zeros(()), t[:1].clone(), torch.cat([t, t])])

    _tensors(folder, change)


def retyped(folder: Path, rng: random.Random) -> None:
    kinds = [torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.uint8, torch.complex64, torch.float8_e4m3fn]

    def change(held: dict[str, torch.Tensor]) -> None:
        for key in rng.sample(sorted(held), min(len(held), rng.choice([1, len(held)]))):
            held[key] = held[key].to(rng.choice(kinds))

    _tensors(folder, change)


def not_finite(folder: Path, rng: random.Random) -> None:
    def change(held: dict[str, torch.Tensor]) -> None:
        for key in rng.sample(sorted(held), rng.choice([1, len(held)])):
            if held[key].is_floating_point():
                held[key].view(-1)[0] = rng.choice([float("nan"), float("inf"), -float("inf"), 3e38, 1e30])
            else:
                held[key].view(-1)[0] = rng.choice([-1, 1])

    _tensors(folder, change)


def misplaced(folder: Path, rng: random.Random) -> None:
    def change(held: dict[str, torch.Tensor]) -> None:
        for value in held.values():
            if value.dtype == torch.int64:
                value[0] = rng.choice([-1, 2**40, 2**62, int(value[-1])])

    _tensors(folder, change)


def pickled(folder: Path, rng: random.Random) -> None:
    held = {k: v.clone() for k, v in load_file(folder / WEIGHTS).items()}  # whose file is written over
    if rng.random() < 0.5:
        (folder / WEIGHTS).unlink()
    torch.save(held, folder / rng.choice(["adapter_model.bin", WEIGHTS]))


def header(folder: Path, rng: random.Random) -> None:
    """A header that promises what is not there."""
    size = rng.choice([0, 1, 10**6, 10**12])
    told = {"base_model.model.x.subspace_params.A": {"dtype": "F32", "shape": [size, size], "data_offsets": [0, 4]}}
    text = json.dumps(rng.choice([told, {}, {"x": 3}, {"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}]))
    text = rng.choice([text, text[:-3], "{" * 5000])
    length = rng.choice([len(text), 2**63, 10**9, 0])
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + text.encode() + bytes(4))


def folder_for_file(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice([CONFIG, WEIGHTS])
    path.unlink()
    path.mkdir()


KINDS: list[Callable[[Path, random.Random], None]] = [
    *(cut, zeroed, flipped, removed, other_json, field, field_of_method, field_lost, pattern, kept),
    *(tensor_lost, renamed, reshaped, retyped, not_finite, misplaced, pickled, header, folder_for_file),
]


def corrupted(good: Path, out: Path, seed: int) -> str:
    """A copy of an adapter's folder with one kind of damage, and which."""
    rng = random.Random(seed)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(good, out)
    kind = KINDS[seed % len(KINDS)]
    kind(out, rng)
    return kind.__name__
