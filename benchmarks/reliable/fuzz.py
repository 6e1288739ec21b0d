"""Damaged inputs through the commands that read them: success, or one sentence, and nothing astray."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import yaml

import broken
import corruptions
import tiny
from attacked import ADAPTERS, Range
from corruptions import JUNK
from subspace_tuning.files.fetch import unpack

from .disks import in_a_sentence
from .forks import Ended, forked
from .workplace import Asked, Row, Section, Workplace, emptied, subspace

LIMIT = 20.0  # seconds of the processor
SLACK = 64 << 20  # bytes that the same command takes more or less from time to time
Damage = Callable[[random.Random | None], str]
Commands = dict[str, Callable[[], Any]]


def section(make: Callable[[Workplace], tuple[Damage, Commands]]) -> Section:
    """One kind of input damaged by a seed, one command at a time."""
    return lambda home, asked: iter([attacked(home, asked, make.__name__.replace("_", " "), *make(home))])


def attacked(home: Workplace, asked: Asked, what: str, damage: Damage, commands: Commands) -> Row:
    """damage: puts a damaged input in place and says how; a good one where it is given no dice."""
    row, honest, slowest, peak = Row(what, f"{asked.fuzz} damaged, {len(commands)} commands in turn"), {}, 0.0, 0
    for number in range(asked.fuzz):
        name = list(commands)[number % len(commands)]
        if name not in honest:
            damage(None)
            sound = _act(home, commands[name])
            if sound.code and name != "import":  # which takes PEFT's adapters alone
                raise RuntimeError(f"{name} fails on what is not damaged: {sound.said[-1000:]}")
            honest[name] = sound.peak
        kind = damage(random.Random(f"{asked.seed} {what} {number}"))
        ended = _act(home, commands[name])
        slowest, peak = max(slowest, ended.seconds), max(peak, ended.peak - honest[name])
        if said := _unexpected(ended, honest[name]):
            row.fault(f"{name}, {kind}, number {number}: {said}")
        else:
            row.came["success" if ended.code == 0 else "a sentence"] += 1
    row.figures = f"{slowest:.1f} s at most, {max(0, peak) / 1e6:.0f} MB over an honest input's"
    return row


def _act(home: Workplace, command: Callable[[], Any]) -> Ended:
    emptied(home.home / "out")
    return forked(in_a_sentence(command), home.home, limit=LIMIT, elsewhere=True)


def _unexpected(ended: Ended, honest: int) -> str:
    if ended.is_slow:
        return f"longer than {LIMIT:.0f} s"
    if ended.strayed:
        return f"went astray: {ended.strayed}"
    if ended.trace or ended.code not in (0, 1, 2) or (ended.code and not (ended.sentence or "Usage:" in ended.said)):
        return f"ended by {ended.code}: {ended.trace or ended.said[-200:]}"
    if ended.peak > 2 * honest + SLACK:
        return f"{ended.peak / 1e6:.0f} MB, an honest input {honest / 1e6:.0f} MB"
    return ""


def adapters(home: Workplace) -> tuple[Damage, Commands]:
    """tests/attacked.py's, one damage of tests/corruptions.py each."""
    folder = home.home / "range"
    home.in_a_fork(lambda: Range(folder))
    field = Range(folder)

    def damage(dice: random.Random | None) -> str:
        if dice is None:
            shutil.copytree(field.good / "lora", emptied(folder / "bad"), dirs_exist_ok=True)
            return "none"
        adapter = dice.choice(list(ADAPTERS))
        return f"{adapter} {corruptions.corrupted(field.good / adapter, folder / 'bad', dice.randrange(2**31))}"

    def acting(command: Callable[[Path, Path], Any]) -> Callable[[], Any]:
        return lambda: command(folder / "bad", home.home / "out" / "made")

    return damage, {name: acting(command) for name, command in field.commands().items()}


def bytes_of(content: bytes, dice: random.Random) -> tuple[bytes, str]:
    """A file's bytes with one kind of damage."""
    held, at = bytearray(content), dice.randrange(max(1, len(content)))
    kind = dice.choice(["cut", "flipped", "zeroed", "empty", "doubled", "swapped", "other letters"])
    if kind == "cut":
        held = held[:at]
    elif kind == "flipped":
        for _ in range(dice.randint(1, 8)):
            held[dice.randrange(len(held))] = dice.randrange(256)
    elif kind == "zeroed":
        held[at : at + 64] = bytes(len(held[at : at + 64]))
    elif kind == "empty":
        held = bytearray()
    elif kind == "doubled":
        held[at:at] = held[at : at + dice.randint(1, 400)]
    elif kind == "swapped":
        held = held[at:] + held[:at]
    else:
        for _ in range(dice.randint(1, 8)):
            held[dice.randrange(len(held))] = dice.choice(b"{}[]\":,'\t\n#&*!|>-%\\\r0")
    return bytes(held), kind


def _junk(data: Any, dice: random.Random) -> None:
    """Puts what does not belong there at a random place of nested data."""
    place = data
    while isinstance(place, dict) and place:
        key = dice.choice(list(place))
        if not isinstance(place[key], dict | list) or dice.random() < 0.5:
            break
        place = place[key]
    if isinstance(place, dict) and place:
        how = dice.random()
        if how < 0.15:
            del place[key]
        elif how < 0.3:
            place[dice.choice(["x", "", "seed", "method", "import", "é", "0"])] = dice.choice(JUNK)
        else:
            place[key] = dice.choice(JUNK)
    elif isinstance(place, list):
        place.insert(dice.randrange(len(place) + 1), dice.choice(JUNK))


def recipes(home: Workplace) -> tuple[Damage, Commands]:
    """A run's recipe and a sweep's: as YAML with other values, and with other bytes."""
    folder = emptied(home.home / "recipes")
    run = tiny.recipe(home.home, method={"name": "lora", "r": 2, "alpha": 4.0}, rank_pattern={"query": 1})
    run |= {
        "target_modules": ["query", "value"],
        "trainer": {"lr_scheduler_type": "cosine"},
        "output": str(folder / "run"),
    }
    sweep = {"output": str(folder / "sweep"), "models": [str(home.model)], "tasks": [{"task": "rte"}], "ranks": [2]}
    sweep |= {"methods": ["ssb", {"method": "lora", "learning_rates": [0.1]}], "seeds": [0], "base": {"epochs": 1}}
    sweep |= {"tuning": {"factors": [1], "seeds": [9]}, "exclude": [{"method": "ssb"}]}

    def damage(dice: random.Random | None) -> str:
        how = "none" if dice is None else "bytes" if dice.random() < 0.3 else "values"
        for name, values in (("run", run), ("sweep", sweep)):
            held = json.loads(json.dumps(values))
            if dice is not None and how == "values":
                for _ in range(dice.choice([1, 1, 2])):
                    _junk(held, dice)
            text = yaml.safe_dump(held).encode()
            (folder / f"{name}.yaml").write_bytes(bytes_of(text, dice)[0] if dice and how == "bytes" else text)
        return how

    least = ["max_steps=1", "save_every=never", "evaluate_every=end", f"output={home.home / 'out' / 'run'}"]
    return damage, {
        "train": subspace("train", folder / "run.yaml", *least),
        "sweep --dry-run": subspace("sweep", folder / "sweep.yaml", "--dry-run"),
        "data": subspace("data", folder / "run.yaml"),
    }


def run_folders(home: Workplace) -> tuple[Damage, Commands]:
    """A finished run with one file damaged, beside a sound one."""
    good, folder = home.lora, home.home / "broken"
    shutil.copytree(home.ssb, emptied(folder) / "sound")

    def damage(dice: random.Random | None) -> str:
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(good, folder / "run")
        if dice is None:
            return "none"
        if dice.random() < 0.3:
            kind = dice.choice(list(broken.ALL))
            broken.ALL[kind](folder / "run")
            return kind
        path = dice.choice(sorted(p for p in (folder / "run").rglob("*") if p.is_file() and p.suffix != ".md"))
        if path.suffix == ".json" and dice.random() < 0.5:
            held = json.loads(path.read_text())
            _junk(held, dice)
            path.write_text(json.dumps(held))
            return f"{path.name} values"
        content, kind = bytes_of(path.read_bytes(), dice)
        path.write_bytes(content)
        return f"{path.name} {kind}"

    run, out = folder / "run", home.home / "out"
    return damage, {
        "predict": subspace("predict", run, "a good film"),
        "merge": subspace("merge", run, out / "merged"),
        "export": subspace("export", run, out / "lora"),
        "combine": subspace("combine", home.ssb, run, "--out", out / "both"),
        "results": subspace("results", folder),
        "report": subspace("report", folder, "-o", out / "page.html"),
        "train": subspace("train", run / "config.yaml", f"output={run}"),
    }


def data_files(home: Workplace) -> tuple[Damage, Commands]:
    """The same rows in each format, damaged."""
    folder = emptied(home.home / "rows")
    frame = pandas.DataFrame(tiny.rows(24))[["text", "label"]]

    def write() -> None:
        frame.to_csv(folder / "rows.csv", index=False)
        frame.to_csv(folder / "rows.tsv", index=False, sep="\t")
        frame.to_json(folder / "rows.jsonl", orient="records", lines=True)
        frame.to_json(folder / "rows.json", orient="records")
        frame.to_parquet(folder / "rows.parquet")

    home.in_a_fork(write)
    made = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    recipe = home.recipe("rows", home.home / "out" / "run", data="x", max_steps=1, save_every="never")

    def acting(*words: object) -> Callable[[], Any]:
        def act() -> None:
            (path,) = (home.home / "row").iterdir()
            subspace(*(path if word is None else str(word).replace("?", str(path)) for word in words))()

        return act

    def damage(dice: random.Random | None) -> str:
        name = dice.choice(list(made)) if dice else "rows.csv"
        content, kind = bytes_of(made[name], dice) if dice else (made[name], "none")
        (emptied(home.home / "row") / name).write_bytes(content)
        return f"{name} {kind}"

    labelled = ["--task", "classification", "labels=[bad,good]", "--model", home.model]
    return damage, {
        "data": acting("data", None),
        "data --task": acting("data", None, *labelled),
        "train": acting("train", recipe, "data=?"),
    }


def archives(home: Workplace) -> tuple[Damage, Commands]:
    """What a package's archive could be, were its hash not checked first."""
    held = {"model/config.json": b"{}" * 500, "model/run.py": b"raise SystemExit" * 50}
    inner, zipped, tarred = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as file:
        _add(file, held)
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in {**held, "inner.tar.gz": inner.getvalue()}.items():
            file.writestr(name, content)
    with tarfile.open(fileobj=tarred, mode="w") as file:
        _add(file, {**held, "inner.tar.gz": inner.getvalue()})
    every = [zipped.getvalue(), gzip.compress(tarred.getvalue()), tarred.getvalue()]
    wanted = {"model/config.json": "config.json", "inner.tar.gz!/model/run.py": "run.txt"}

    def damage(dice: random.Random | None) -> str:
        content, kind = bytes_of(dice.choice(every), dice) if dice else (every[0], "none")
        (home.home / "archive").write_bytes(content)
        return kind

    return damage, {"unpacking": lambda: unpack(home.home / "archive", wanted, home.home / "out")}


def _add(file: tarfile.TarFile, held: dict[str, bytes]) -> None:
    for name, content in held.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
