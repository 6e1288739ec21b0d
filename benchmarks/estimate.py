"""What `subspace estimate` tells beside the peak of the process that takes the step.

    python benchmarks/estimate.py > docs/data/estimate.json

Three models with random weights, each with LoRA, SSB and full fine-tuning; every case in a process of its own, which
takes three steps. Figures do not depend on how busy the machine is. About five minutes, 5 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoConfig

from subspace_tuning import SubspaceConfig
from subspace_tuning.bench import memory
from subspace_tuning.bench.needs import Setting
from subspace_tuning.run.estimate import Subject, usual_heads
from subspace_tuning.run.recipe import FULL
from subspace_tuning.tuner.put_on import put_on

CLASSIFIER, LANGUAGE = "AutoModelForSequenceClassification", "AutoModelForCausalLM"
METHODS = ("lora", "ssb", FULL)


class Case(NamedTuple):
    model: str
    config: dict[str, Any]
    kind: str
    setting: Setting


MINILM = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
ROBERTA = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
SMOLLM2 = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SMOLLM2 |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}
CASES = (
    Case("MiniLM", {**MINILM, "num_attention_heads": 12}, CLASSIFIER, Setting(batch=32, length=128)),
    Case("RoBERTa-base", ROBERTA, CLASSIFIER, Setting(batch=8, length=128)),
    Case("SmolLM2-135M", SMOLLM2, LANGUAGE, Setting(batch=4, length=256)),
)
TINY = Case(
    "tiny", {**MINILM, "hidden_size": 48, "num_attention_heads": 12}, CLASSIFIER, Setting(batch=2, length=16)
)


def config_of(case: Case) -> Any:
    values = dict(case.config)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def method_of(name: str, head: list[str]) -> SubspaceConfig:
    return SubspaceConfig(method=name, modules_to_save=head or None)


def estimated(case: Case, method: str) -> Any:
    what: Any = FULL if method == FULL else partial(method_of, method)
    return Subject(config_of(case), what, case.kind).at(case.setting)


def measure(case: Case, method: str, steps: int, say: Any) -> None:
    """In a process of its own: the peak of the process over a few steps, and what it had before the model; bytes."""
    torch.manual_seed(0)
    before = memory.resident()
    model = getattr(transformers, case.kind).from_config(config_of(case))
    if method != FULL:
        model = put_on(model, method_of(method, usual_heads(model)))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    ids = torch.randint(5, 1000, (case.setting.batch, case.setting.length))
    labels = ids if case.kind == LANGUAGE else torch.zeros(len(ids), dtype=torch.long)
    for step in range(steps):
        if step == 1:
            memory.start()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    say.put((memory.peak_mb() * 2**20, before))


def figures(cases: tuple[Case, ...], methods: tuple[str, ...], steps: int) -> Iterator[dict[str, Any]]:
    context: Any = multiprocessing.get_context("spawn")
    for case in cases:
        for method in methods:
            say = context.Queue()
            process = context.Process(target=measure, args=(case, method, steps, say))
            process.start()
            peak, before = say.get()
            process.join()
            told = estimated(case, method)
            row = {"model": case.model, "method": method, "batch": case.setting.batch, "length": case.setting.length}
            yield {**row, "estimated": told.peak, "measured": int(peak), "process": before, "own": told.own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="one tiny case")
    asked = parser.parse_args()
    cases, methods = ((TINY,), ("lora",)) if asked.rehearse else (CASES, METHODS)
    rows = list(figures(cases, methods, steps=3))
    print(json.dumps({"device": memory.device_name(), "torch": torch.__version__, "cases": rows}, indent=2))


if __name__ == "__main__":
    main()
