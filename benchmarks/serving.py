"""Serving: a merged adapter at the base's speed; unmerged, many adapters in one batch beside switching between them.

    python benchmarks/serving.py [--adapters 1,8,64] [--batch 64] [--length 32] [--layers 4] [--rounds 5] [--dry]

A random model of RoBERTa-base's width and adapters of several families. A batch of requests, each for an adapter at
random, is answered in one forward pass (``adapter_names``), or adapter by adapter (``set_adapter``), in turn. Figures
are medians over rounds. Writes docs/data/serving.json and the tables of docs/serving.md, unless --dry.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from peft import get_peft_model
from publish import publish, setting, told
from transformers import RobertaConfig, RobertaForSequenceClassification

from subspace_tuning import SubspaceConfig
from subspace_tuning.files.markdown import table
from subspace_tuning.method import Method
from subspace_tuning.methods import IA3, SSB, DoRA, LoRA

FAMILIES: dict[str, list[Method]] = {
    "lora": [LoRA(r=8)],
    "ssb": [SSB()],
    "lora, ssb, ia3, dora": [LoRA(r=8), SSB(), IA3(), DoRA(r=8)],
}


def served(methods: list[Method], count: int, layers: int) -> Any:
    """A model with ``count`` adapters a0, a1, ..., the methods in turn."""
    torch.manual_seed(0)
    model: Any = RobertaForSequenceClassification(RobertaConfig(num_hidden_layers=layers)).eval()
    for i in range(count):
        config = SubspaceConfig(methods[i % len(methods)], init_weights=False)
        if i == 0:
            model = get_peft_model(model, config, adapter_name="a0")
        else:
            model.add_adapter(f"a{i}", config)
    return model.eval()


def requests(count: int, batch: int, length: int) -> tuple[torch.Tensor, list[str]]:
    """Token ids, and an adapter for each: every one of them, if there are requests enough."""
    names = [f"a{i % count}" for i in range(batch)]
    random.Random(0).shuffle(names)
    return torch.randint(4, 50000, (batch, length), generator=torch.Generator().manual_seed(0)), names


def switching(model: Any, ids: torch.Tensor, names: list[str]) -> torch.Tensor:
    """The requests of one adapter after those of another."""
    out = torch.empty(len(ids), 2)
    for name in sorted(set(names)):
        mine = torch.tensor([n == name for n in names])
        model.set_adapter(name, inference_mode=True)
        out[mine] = model(input_ids=ids[mine]).logits
    return out


def medians(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each, one after the other in every round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return {name: median(t[1:]) for name, t in times.items()}


def measure(family: str, count: int, chosen: argparse.Namespace) -> dict[str, Any]:
    model = served(FAMILIES[family], count, chosen.layers)
    ids, names = requests(count, chosen.batch, chosen.length)

    def base() -> torch.Tensor:
        with model.disable_adapter():
            return model(input_ids=ids).logits

    def together() -> torch.Tensor:
        return model(input_ids=ids, adapter_names=names).logits

    torch.testing.assert_close(together(), switching(model, ids, names), rtol=1e-3, atol=1e-4)
    ways = {"base": base, "together": together, "switching": lambda: switching(model, ids, names)}
    seconds = medians(ways, chosen.rounds)
    speed = {f"{name}_tokens_per_second": ids.numel() / s for name, s in seconds.items()}
    return {"families": family, "adapters": count, **speed, "gain": seconds["switching"] / seconds["together"]}


def merged(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """A merged model beside the base: the same modules, hence the same speed."""
    ids, _ = requests(1, chosen.batch, chosen.length)
    found = []
    for method in FAMILIES["lora, ssb, ia3, dora"]:
        tuned = served([method], 1, chosen.layers)
        plain = copy.deepcopy(tuned).unload()
        whole = tuned.merge_and_unload()
        assert [type(m) for m in whole.modules()] == [type(m) for m in plain.modules()]
        seconds = medians({"base": lambda p=plain: p(ids), "merged": lambda w=whole: w(ids)}, chosen.rounds)
        found.append({"method": method.name, "merged_over_base": seconds["merged"] / seconds["base"]})
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--adapters", default="1,8,64")
    for name, default in {"batch": 64, "length": 32, "layers": 4, "rounds": 5}.items():
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--dry", action="store_true", help="print the figures, write nothing")
    chosen = options.parse_args()
    where = {**setting(), **{k: getattr(chosen, k) for k in ("batch", "length", "layers", "rounds")}}
    with torch.no_grad():
        alone = merged(chosen)
        counts = map(int, chosen.adapters.split(","))
        lines = [measure(family, count, chosen) for count in counts for family in FAMILIES]
    data = {"setting": where, "merged": alone, "unmerged": lines}
    print(json.dumps(data, indent=2))
    if not chosen.dry:
        shown = {"merged": merged_table(alone), "unmerged": unmerged_table(lines) + told(where)}
        publish("serving", data, "docs/serving.md", shown)


def merged_table(alone: list[dict[str, Any]]) -> str:
    rows = ((f"`{m['method']}`", f"{m['merged_over_base']:.2f}") for m in alone)
    return table(("merged", "time over the base"), rows)


def unmerged_table(lines: list[dict[str, Any]]) -> str:
    speeds = ("base_tokens_per_second", "together_tokens_per_second", "switching_tokens_per_second")
    rows = ((str(x["adapters"]), x["families"], *(f"{x[s]:,.0f}" for s in speeds), f"{x['gain']:.2f}") for x in lines)
    header = ("adapters", "families", "base, tokens/s", "one batch, tokens/s", "switching, tokens/s", "times faster")
    return table(header, rows)


if __name__ == "__main__":
    main()
