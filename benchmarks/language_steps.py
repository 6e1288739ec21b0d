"""A step of fine-tuning through our `train`, and generation with an unmerged adapter, beside TRL and PEFT.

    python benchmarks/language_steps.py [--only step] [--batch 8] [--length 128] [--steps 8] [--rounds 4] [--tokens 48]

SmolLM2-135M-Instruct, LoRA r = 8 on the same modules and the same rows of one length, in bf16 autocast where it trains:
each round trains both ways, one after the other, and generates with each adapter in turn. Shares of a time are medians
over rounds, each of two neighbours in one round. Writes docs/data/language_steps.json and two tables of
docs/language_models.md, unless --dry.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from peft import IA3Config, LoraConfig, get_peft_model
from publish import publish, setting, told
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from subspace_tuning import SubspaceConfig
from subspace_tuning.files.assets import SMALL_LM, conversations, location
from subspace_tuning.files.markdown import table
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run

DATA = Path("docs/data/language_steps.json")
WARM = 2  # steps before the clock counts
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GATED = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
PAIRS: dict[str, tuple[Any, Any]] = {  # ours, PEFT's
    "lora": (SubspaceConfig(method="lora", r=8, target_modules=MODULES), LoraConfig(r=8, target_modules=MODULES)),
    "dora": (
        SubspaceConfig(method="dora", r=8, target_modules=MODULES),
        LoraConfig(r=8, target_modules=MODULES, use_dora=True),
    ),
    "ia3": (SubspaceConfig(method="ia3", target_modules=GATED["target_modules"]), IA3Config(**GATED)),
}


class Clock(TrainerCallback):
    """Seconds from the end of each step to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def step(self) -> float:
        return median(b - a for a, b in zip(self.ends[WARM:], self.ends[WARM + 1 :], strict=False))


def texts(count: int, length: int, tokenizer: Any) -> list[str]:
    """Rows that all have more than ``length`` tokens, which the trainers cut."""
    words = " ".join(f"{question} {answer}" for question, answer in conversations())
    ids = tokenizer(words, verbose=False)["input_ids"]
    wide = 2 * length
    return [tokenizer.decode(ids[i * wide : (i + 1) * wide]) for i in range(count)]


def ours(rows: list[str], folder: Path, chosen: argparse.Namespace) -> float:
    (folder / "data").mkdir()
    for split, part in {"train": rows, "test": rows[:2]}.items():
        lines = (json.dumps({"text": row}) for row in part)
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    clock = Clock()
    values = {
        "model": SMALL_LM,
        "task": "sft",
        "loss_on": "all",
        "data": str(folder / "data"),
        "method": {"name": "lora", "r": 8},
        "target_modules": MODULES,
        "learning_rate": 5e-4,
        "batch_size": chosen.batch,
        "max_length": chosen.length,
        "max_steps": chosen.steps,
        "bf16": True,
        "evaluate_every": "end",
        "save_every": "never",
        "output": str(folder / "run"),
    }
    run(make(values), callbacks=[clock])
    return clock.step


def theirs(rows: list[str], folder: Path, chosen: argparse.Namespace) -> float:
    clock = Clock()
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        learning_rate=5e-4,
        per_device_train_batch_size=chosen.batch,
        max_length=chosen.length,
        max_steps=chosen.steps,
        bf16=True,
        use_cpu=not torch.accelerator.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(location(SMALL_LM)),
        args=arguments,
        train_dataset=Dataset.from_dict({"text": rows}),
        processing_class=AutoTokenizer.from_pretrained(location(SMALL_LM)),
        peft_config=PAIRS["lora"][1],
        callbacks=[clock],
    )
    trainer.train()
    return clock.step


def generation(chosen: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """Seconds of greedy answers to four questions, unmerged; random adapters, so that nothing is skipped."""
    asked = tokenizer([q for q, _ in conversations()[:4]], padding=True, padding_side="left", return_tensors="pt")
    found = []
    for name, configs in PAIRS.items():
        ways: dict[str, Callable[[], Any]] = {}
        for who, config in zip(("ours", "PEFT"), configs, strict=True):
            torch.manual_seed(0)
            model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(location(SMALL_LM)), config).eval()
            many = {"max_new_tokens": chosen.tokens, "min_new_tokens": chosen.tokens, "do_sample": False}
            ways[who] = lambda model=model, many=many: model.generate(**asked, **many)
        times: dict[str, list[float]] = {who: [] for who in ways}
        for i in range(chosen.rounds + 1):
            for who in sorted(ways, reverse=bool(i % 2)):
                began = time.perf_counter()
                ways[who]()
                times[who].append(time.perf_counter() - began)
        mine, peer = times["ours"][1:], times["PEFT"][1:]
        shares = sorted(a / b for a, b in zip(mine, peer, strict=True))
        found.append({"method": name, "ours": median(mine), "peft": median(peer), "shares": shares})
    return {"methods": found}


def steps(chosen: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    rows = texts(chosen.batch * chosen.steps, chosen.length, tokenizer)
    times: dict[str, list[float]] = {"ours": [], "trl": []}
    for i in range(chosen.rounds):
        both = {"ours": ours, "trl": theirs}
        for who in sorted(both, reverse=bool(i % 2)):
            with tempfile.TemporaryDirectory() as folder:
                times[who].append(both[who](rows, Path(folder), chosen))
    shares = sorted(a / b for a, b in zip(times["ours"], times["trl"], strict=True))
    return {"ours": median(times["ours"]), "trl": median(times["trl"]), "shares": shares}


def step_table(found: dict[str, Any]) -> str:
    where = found["setting"]
    what = f"a step of {where['batch']} x {where['length']}"
    row = (what, f"{found['ours']:.2f} s", f"{found['trl']:.2f} s", _share(found["shares"]))
    return table(("LoRA r = 8", "our `train`", "TRL with PEFT", "ours / theirs"), [row]) + told(where)


def generation_table(found: dict[str, Any]) -> str:
    rows = [
        (f"`{x['method']}`", f"{x['ours']:.2f} s", f"{x['peft']:.2f} s", _share(x["shares"])) for x in found["methods"]
    ]
    return table(("generating", "ours", "PEFT's", "ours / theirs"), rows) + told(found["setting"])


PARTS = {"step": (steps, step_table), "generation": (generation, generation_table)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    for name, default in {"batch": 8, "length": 128, "steps": 8, "rounds": 4, "tokens": 48}.items():
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--dry", action="store_true", help="print the figures, write nothing")
    chosen = options.parse_args()
    data = json.loads(DATA.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(location(SMALL_LM))
    sizes = {key: value for key, value in vars(chosen).items() if key not in ("dry", "only")}
    for part in chosen.only:
        measured, _ = PARTS[part]
        where = setting() | sizes
        data[part] = {"setting": where, **measured(chosen, tokenizer)}
        print(json.dumps(data[part], indent=2))
    if not chosen.dry:
        shown = {f"language {part}": made(data[part]) for part, (_, made) in PARTS.items()}
        publish(DATA.stem, data, "docs/language_models.md", shown)


def _share(shares: list[float]) -> str:
    return f"{median(shares):.2f} ({shares[0]:.2f}-{shares[-1]:.2f})"


if __name__ == "__main__":
    main()
