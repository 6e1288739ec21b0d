"""What `subspace estimate` tells beside the peak of the process that takes the step.

    python benchmarks/estimate.py > docs/data/estimate.json

Three models with random weights, each with LoRA, SSB and full fine-tuning; every case in a process of its own, which
takes three steps. Figures do not depend on how busy the machine is. About ten minutes, 5 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import transformers
from transformers import AutoConfig

from subspace_tuning import SubspaceConfig
from subspace_tuning.bench import memory
from subspace_tuning.bench.needs import DTYPES, Setting
from subspace_tuning.run.estimate import Subject
from subspace_tuning.run.pretrained import usual_heads
from subspace_tuning.run.recipe import FULL
from subspace_tuning.tuner.put_on import put_on

CLASSIFIER, LANGUAGE = "AutoModelForSequenceClassification", "AutoModelForCausalLM"
METHODS = ("lora", "ssb", FULL)
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}  # words of glibc's malloc


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
TINY = Case("tiny", {**MINILM, "hidden_size": 48, "num_attention_heads": 12}, CLASSIFIER, Setting(batch=2, length=16))


def config_of(case: Case) -> Any:
    values = dict(case.config)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def method_of(name: str, head: list[str]) -> SubspaceConfig:
    return SubspaceConfig(method=name, modules_to_save=head or None)


def estimated(case: Case, method: str) -> Any:
    what: Any = FULL if method == FULL else partial(method_of, method)
    return Subject(config_of(case), what, case.kind).at(case.setting)


def measure(case: Case, method: str, steps: int, **environment: str) -> tuple[int, int]:
    """The peak of this process, or of the card, over a few steps; and what the process had before the model; bytes."""
    torch.manual_seed(0)
    before, setting = memory.resident(), case.setting
    with torch.device(setting.device):
        model = getattr(transformers, case.kind).from_config(config_of(case), dtype=DTYPES[setting.dtype])
    if method != FULL:
        model = put_on(model, method_of(method, usual_heads(model)))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    ids = torch.randint(5, 1000, (setting.batch, setting.length))
    labels = ids if case.kind == LANGUAGE else torch.zeros(len(ids), dtype=torch.long)
    batch = {"input_ids": ids.to(setting.device), "labels": labels.to(setting.device)}
    for step in range(steps):
        if step == 1:
            memory.start()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return int(memory.peak_mb() * 2**20), before


def measured_apart(case: Case, method: str, steps: int, **environment: str) -> tuple[int, int]:
    """The same in a process of its own."""
    with patch.dict(os.environ, environment), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (case, method, steps))


def figures(case: Case, method: str, steps: int = 3, by: Any = measured_apart) -> dict[str, Any]:
    """What is told beside what is measured; of a card's memory without its context.

    On a CPU twice: with what tensors leave behind given back at once, and as the C library keeps it for later.
    """
    told, on_card = estimated(case, method), case.setting.device == "cuda"
    row = {"model": case.model, "method": method, "batch": case.setting.batch, "length": case.setting.length}
    row |= {"dtype": case.setting.dtype, "flops": told.flops, "own": 0 if on_card else told.own}
    row |= {"estimated": told.peak - told.own if on_card else told.peak}
    row["measured"], row["process"] = by(case, method, steps, **({} if on_card else GIVING_BACK))
    row["kept_for_later"] = None if on_card else by(case, method, steps)[0]
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    rows = [figures(case, method) for case in CASES for method in METHODS]
    print(json.dumps({"device": memory.device_name(), "torch": torch.__version__, "cases": rows}, indent=2))


if __name__ == "__main__":
    main()
