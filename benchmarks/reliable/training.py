"""Training, killed, asked to end, broken down, with clocks that are set meanwhile, and twice at once on one folder."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

import tiny
from subspace_tuning.run import train as training
from subspace_tuning.run.checkpoints import Checkpoints
from subspace_tuning.run.recipe import make

from .forks import KILLED, Blow, Ended, begun, forked
from .workplace import SAME, Asked, Row, Workplace, emptied, held, subspace

LORA = {"name": "lora", "r": 2}
SETTINGS = {
    "LoRA": {},
    "LoRA, accumulating": {"gradient_accumulation": 3, "batch_size": 6},
    "LoRA, the best checkpoint, stopping early": {"checkpoint": "best", "evaluate_every": 2, "early_stopping": 4},
    "LoRA that starts from the data (EVA), rows at random": {
        "group_by_length": False,
        "method": {"name": "lora", "r": 2, "init": "eva"},
    },
    "AdaLoRA": {"method": "adalora"},
    "all weights": {"method": "full", "learning_rate": 1e-3},
}


def train(home: Workplace, asked: Asked) -> Iterator[Row]:
    """`subspace train` with `save_every: 2`, killed once and started again; the settings in turn."""
    yield _broken(home, asked, "train", signal.SIGKILL)


def stop(home: Workplace, asked: Asked) -> Iterator[Row]:
    """The same asked to end: it says so by its exit code, and leaves a checkpoint of the step that it was at."""
    yield _broken(home, asked, "stop", signal.SIGTERM)


def _broken(home: Workplace, asked: Asked, name: str, number: signal.Signals) -> Row:
    dice, row = asked.dice(name), Row(f"`subspace train`, {len(SETTINGS)} settings in turn", asked.blows)
    calm: dict[str, tuple[Ended, dict[str, str]]] = {}
    for turn in range(asked.kills):
        setting = list(SETTINGS)[turn % len(SETTINGS)]
        out = home.home / name / "run"
        recipe = home.recipe(name, out, **{"epochs": 6, "save_every": 2, "method": LORA, **SETTINGS[setting]})
        act = partial(forked, subspace("train", recipe), emptied(out.parent))
        if setting not in calm:
            calm[setting] = act(), held(out)
            emptied(out.parent)
        (first, undisturbed), by_time = calm[setting], turn // len(SETTINGS) % 2
        at = (dice.uniform(0, first.seconds), None) if by_time else (None, dice.randint(1, first.changes))
        ended = act(Blow(*at, number))
        steps = Checkpoints(out / "checkpoints").steps() if (out / "checkpoints").is_dir() else []
        if said := _unexpected(ended, number, steps):
            row.fault(f"{setting}: {said}")
            continue
        after, found = act(), held(out)
        if after.code:
            row.fault(f"{setting}: cannot go on: {after.trace or after.said[-200:]}")
        elif found != undisturbed:
            row.fault(f"{setting}: other files: {sorted(set(found.items()) ^ set(undisturbed.items()))[:2]}")
        else:
            whence = "at its end" if ended.code == 0 else f"from {'a checkpoint' if steps else 'the start'}"
            row.came[f"{whence}, {SAME}"] += 1
    row.figures = f"{sum(ended.changes for ended, _ in calm.values())} changes of the file system undisturbed"
    return row


def _unexpected(ended: Ended, number: signal.Signals, steps: list[int]) -> str:
    if number == signal.SIGKILL:
        return "" if ended.code in (KILLED, 0) else f"ended by {ended.code}: {ended.trace or ended.said[-200:]}"
    if ended.code not in (128 + number, -number, 0) or ended.trace:
        return f"ended by {ended.code}: {ended.trace or ended.said[-200:]}"
    told = "goes on from there" in ended.sentence
    return "" if not told or steps else f"promised a checkpoint, there is none: {ended.sentence}"


def breakdown(home: Workplace, asked: Asked) -> Iterator[Row]:
    """Weights that become NaN or infinite at a random step: one sentence, and the last finite checkpoint stays."""
    for value in ("nan", "inf", "-inf"):
        row = Row(f"a weight becomes {value}", f"at {asked.kills} random steps")
        dice, out = asked.dice(value), home.home / "break" / "run"
        for _ in range(asked.kills):
            emptied(out.parent)
            step, every = dice.randint(1, 12), dice.choice([1, 2, 3])
            values = tiny.recipe(home.home, method=LORA, save_every=every, log_every=1, output=str(out))
            ended = forked(lambda v=values, s=step: _spoilt(v, s, float(value)), out.parent)  # noqa: B023
            kept = Checkpoints(out / "checkpoints").steps() if (out / "checkpoints").is_dir() else []
            sound = list(range(every, step, every))[-2:]
            if ended.code != 1 or ("numbers" not in ended.said and "broke down" not in ended.said):
                row.fault(f"step {step}: ended by {ended.code}: {ended.trace or ended.said[-200:]}")
            elif (out / "result.json").exists() or not set(sound[-1:]) <= set(kept):
                row.fault(f"step {step}, saved every {every}: checkpoints {kept}")
            else:
                row.came["a sentence, " + ("the last finite checkpoint kept" if sound else "none was due yet")] += 1
        yield row


def _spoilt(values: dict[str, Any], step: int, value: float) -> None:
    from subspace_tuning.errors import RunFailed

    try:
        training.run(make(values), callbacks=[_Spoil(step, value)])
    except RunFailed as error:
        print(f"error: {error}")
        raise SystemExit(1) from None


class _Spoil(TrainerCallback):
    def __init__(self, step: int, value: float):
        self.step, self.value = step, value

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).view(-1)[0] = self.value


def clock(home: Workplace, asked: Asked) -> Iterator[Row]:
    """A clock that is set back and forth by up to a week while a run is trained, killed and started again."""
    dice, out = asked.dice("clock"), home.home / "clock" / "run"
    recipe = home.recipe("clock", out, epochs=6, save_every=2, method=LORA)
    emptied(out.parent)
    calm = forked(subspace("train", recipe), out.parent)
    undisturbed = held(out)
    row = Row("the clock jumps by up to a week, ten times a second", f"{asked.kills} runs, killed and started again")
    for _ in range(asked.kills):
        emptied(out.parent)
        seed, when = dice.randrange(2**30), dice.uniform(0, calm.seconds)
        forked(_jumping(subspace("train", recipe), seed), out.parent, Blow(when))
        after = forked(_jumping(subspace("train", recipe), seed + 1), out.parent)
        if after.code or held(out) != undisturbed:
            row.fault(f"ended by {after.code}: {after.trace or after.said[-200:]}")
        else:
            row.came[SAME] += 1
    yield row


def _jumping(action: Callable[[], Any], seed: int) -> Callable[[], Any]:
    """The action, for which `time.time` jumps."""

    def act() -> None:
        real, dice, offset = time.time, random.Random(seed), [0.0]

        def jump() -> None:
            while True:
                offset[0] = dice.uniform(-7, 7) * 86400
                time.sleep(0.1)

        time.time = lambda: real() + offset[0]
        threading.Thread(target=jump, daemon=True).start()
        action()

    return act


def together(home: Workplace, asked: Asked) -> Iterator[Row]:
    """Two processes that begin the same run within half a second: one trains, the other is refused in a sentence."""
    dice, out = asked.dice("together"), home.home / "together" / "run"
    recipe = home.recipe("together", out, epochs=2, save_every=2, method=LORA)
    emptied(out.parent)
    forked(subspace("train", recipe), out.parent)
    undisturbed = held(out)
    row = Row("two processes on one run's folder", f"{asked.kills} pairs")
    for _ in range(asked.kills):
        emptied(out.parent)
        both = _pair(subspace("train", recipe), out.parent, dice.uniform(0, 0.5))
        codes = sorted(ended.code for ended in both)
        if held(out) != undisturbed or any(ended.trace for ended in both):
            row.fault(f"ended by {codes}: {[ended.trace or ended.said[-200:] for ended in both]}")
        elif codes == [0, 2]:
            row.came["one trained, one was refused in a sentence"] += 1
        elif codes == [0, 0]:
            row.came["one trained, the other found it finished"] += 1
        else:
            row.fault(f"ended by {codes}: {[ended.sentence for ended in both]}")
    yield row


def _pair(action: Callable[[], Any], place: Path, apart: float) -> list[Ended]:
    """Two at once, the second a little later."""
    first = begun(action, place)
    time.sleep(apart)
    second = begun(action, place)
    return [first(), second()]
