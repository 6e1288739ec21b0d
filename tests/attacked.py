"""Every command that opens an adapter, against damaged ones: success, or one sentence, within a time."""

import contextlib
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

import corruptions
import tiny
from subspace_tuning import SubspaceConfig
from subspace_tuning.convert.combine import combine
from subspace_tuning.convert.diff import diff
from subspace_tuning.convert.export import export
from subspace_tuning.convert.from_peft import import_peft
from subspace_tuning.errors import BadInput
from subspace_tuning.methods import DiffPruning, FishMask, LoRA, VeRA
from subspace_tuning.run.merged import merge
from subspace_tuning.run.predict import Predictor
from subspace_tuning.theory.analyze import Look, analyze
from subspace_tuning.tuner.adapter import read

LIMIT = 10.0  # seconds for one command
TARGETS = ["query", "value"]
CLASSES = {"task_type": "SEQ_CLS", "target_modules": TARGETS}
ADAPTERS = {
    "lora": SubspaceConfig(method=LoRA(r=2), rank_pattern={"value": 3}, **CLASSES),
    "composition": SubspaceConfig(method=["ssb", {"name": "dora", "r": 2}], **CLASSES),
    "places": SubspaceConfig(method=FishMask(share=0.1), **CLASSES),
    "packed": SubspaceConfig(method=DiffPruning(share=0.1), **CLASSES),
    "random": SubspaceConfig(method=VeRA(r=4), **CLASSES),
    "peft_lora": peft.LoraConfig(r=2, rank_pattern={"value": 3}, **CLASSES),
    "peft_vera": peft.VeraConfig(r=4, **CLASSES),
    "peft_ia3": peft.IA3Config(feedforward_modules=[], **CLASSES),
    "prefix": SubspaceConfig(method="prefix", tokens=3, task_type="SEQ_CLS").handed_over(),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended on a damaged folder."""

    adapter: str
    damage: str
    seed: int
    command: str
    how: str  # success | sentence | slow | the name of an exception
    said: str
    seconds: float

    @property
    def is_fine(self) -> bool:
        return self.how in ("success", "sentence")


class Range:
    """A base model and one good adapter of each kind, in a folder, and the commands that are tried on them."""

    def __init__(self, home: Path):
        self.home, self.good, self.run = home, home / "good", home / "run"
        if not self.run.exists():
            self._make(tiny.recipe(home, method="lora"))

    def _make(self, recipe: dict) -> None:
        for name, config in ADAPTERS.items():
            base = AutoModelForSequenceClassification.from_pretrained(self.home / "model")
            model = get_peft_model(base, config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter), alpha=0.1)
            model.save_pretrained(self.good / name, save_embedding_layers=False)
        self.run.mkdir()
        from subspace_tuning.run.recipe import make

        (self.run / "config.yaml").write_text(make(recipe).resolved().dump())
        shutil.copyfile(Path(__file__).parent / "fixtures" / "result.json", self.run / "result.json")

    def commands(self) -> dict[str, Callable[[Path, Path], object]]:
        good = self.good / "lora"
        return {
            "read": lambda bad, out: read(bad),
            "predict": lambda bad, out: Predictor(self._run(bad))([("a film",)]),
            "merge": lambda bad, out: merge(self._run(bad), out),
            "export": lambda bad, out: export(bad, out),
            "export merged": lambda bad, out: export(bad, out, "merged"),
            "combine": lambda bad, out: combine([good, bad], out),
            "import": lambda bad, out: import_peft(bad, out),
            "analyze": lambda bad, out: analyze(bad, look=Look(scales=())),
            "diff": lambda bad, out: diff(good, bad),
        }

    def _run(self, bad: Path) -> Path:
        place = self.run / "adapter"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(bad, place)
        return self.run

    def attack(self, adapter: str, seed: int, command: str) -> Ended:
        """What a command makes of an adapter with the damage of a seed."""
        bad, out = self.home / "bad", self.home / "out"
        shutil.rmtree(out, ignore_errors=True)
        damage = corruptions.corrupted(self.good / adapter, bad, seed)
        start, how, said = time.monotonic(), "success", ""
        try:
            with _within(LIMIT), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.commands()[command](bad, out)
        except BadInput as error:
            how, said = "sentence", str(error)
        except _Slow:
            how = "slow"
        except Exception as error:
            how, said = type(error).__name__, _place(error)
        return Ended(adapter, damage, seed, command, how, said, time.monotonic() - start)


class _Slow(BaseException):
    pass


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Slow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _place(error: BaseException) -> str:
    """Where in our sources it happened, and what was said."""
    places, trace = [], error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if "subspace_tuning" in path.parts:
            places.append(f"{path.name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{places[-1] if places else '?'}: {str(error)[:100]}"
