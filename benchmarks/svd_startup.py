"""Methods that need singular vectors start fast: the truncated SVD beside the full one, and a second start.

    python benchmarks/svd_startup.py [--rounds 5] [--methods pissa,milora,...] [--dry]

First: 2048 x 2048, r = 16, the full SVD and the truncated one in turn, on the spectrum of a trained weight (MiniLM's
first feed-forward weight, stretched to 2048 values) and on a random matrix, whose spectrum is as flat as it gets.
Then: every method is put on a random model of RoBERTa-base's shape in fresh processes: with an empty store, then again
(the median of the rounds), and once without one. Writes docs/data/svd_startup.json and the tables of docs/start.md,
unless --dry.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

import torch
from peft import get_peft_model
from publish import publish, setting, told
from safetensors.torch import load_file
from transformers import RobertaConfig, RobertaForSequenceClassification

from subspace_tuning import SubspaceConfig
from subspace_tuning.files import assets
from subspace_tuning.files.markdown import table
from subspace_tuning.linalg.store import TOLERANCE
from subspace_tuning.linalg.svd import SVD, svd, truncated_svd

N, R = 2048, 16
METHODS = "pissa,milora,lora_xs,spectral,svdiff,sam_parser"


def trained() -> torch.Tensor:
    """Random singular vectors, singular values of a trained weight."""
    name = "encoder.layer.0.intermediate.dense.weight"
    values = torch.linalg.svdvals(load_file(assets.default_model() / "model.safetensors")[name])
    stretched = torch.nn.functional.interpolate(values[None, None], N, mode="linear", align_corners=True)[0, 0]
    U, V = (torch.linalg.qr(torch.randn(N, N))[0] for _ in range(2))
    return U * stretched @ V.T


def random() -> torch.Tensor:
    return torch.randn(N, N)


def timed(decompose: Any) -> tuple[float, SVD]:
    began = time.perf_counter()
    found = decompose()
    return time.perf_counter() - began, found


def truncation(make: Any, rounds: int) -> dict[str, Any]:
    """Median seconds of both, in turn, and what they capture of the energy of W."""
    torch.manual_seed(0)
    W = make()
    truncated_svd(W, R, TOLERANCE)
    times = [
        (timed(lambda: svd(W.clone()))[0], timed(lambda: truncated_svd(W, R, TOLERANCE))[0]) for _ in range(rounds)
    ]
    energy, values = W.double().square().sum(), torch.linalg.svdvals(W.double())
    found = truncated_svd(W, R, TOLERANCE)
    left = (W.double() - (found.U.double() * found.S.double()) @ found.Vt.double()).square().sum()
    exact, captured = (values[:R].square().sum() / energy).item(), (1 - left / energy).item()
    return {
        "spectrum": make.__name__,
        "full_seconds": median(full for full, _ in times),
        "truncated_seconds": median(short for _, short in times),
        "ratio": median(full / short for full, short in times),
        "exact_energy": exact,
        "shortfall": exact - captured,
    }


def start(method: str) -> float:
    """Seconds to put a method on a model of RoBERTa-base's shape."""
    torch.manual_seed(0)
    model = RobertaForSequenceClassification(RobertaConfig())
    get_peft_model(RobertaForSequenceClassification(RobertaConfig(num_hidden_layers=1)), SubspaceConfig("ssb"))  # warm
    gc.collect()
    gc.freeze()  # else a pass over all that torch and transformers made may fall into the time, or not
    began = time.perf_counter()
    get_peft_model(model, SubspaceConfig(method, task_type="SEQ_CLS"))
    return time.perf_counter() - began


def starts(method: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        first = in_fresh_process(method, SUBSPACE_CACHE=cache)
        second = median(in_fresh_process(method, SUBSPACE_CACHE=cache) for _ in range(rounds))
        kept = sum(f.stat().st_size for f in os.scandir(os.path.join(cache, "svd"))) / 2**20
    without = in_fresh_process(method, SUBSPACE_SVD_GB="0")
    return {"method": method, "without": without, "first": first, "second": second, "kept_mb": kept}


def in_fresh_process(method: str, **environment: str) -> float:
    command = [sys.executable, __file__, "--start", method]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return float(json.loads(done.stdout))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--methods", default=METHODS)
    options.add_argument("--dry", action="store_true", help="print the figures, write nothing")
    options.add_argument("--start", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.start:
        print(start(chosen.start))
        return
    where = setting()
    ratios = [truncation(make, chosen.rounds) for make in (trained, random)]
    begun = [starts(method, chosen.rounds) for method in chosen.methods.split(",")]
    data = {"setting": where, "truncated": ratios, "starts": begun}
    print(json.dumps(data, indent=2))
    if not chosen.dry:
        publish("svd_startup", data, "docs/start.md", {"truncated": truncated(ratios), "starts": second(begun, where)})


def truncated(ratios: list[dict[str, Any]]) -> str:
    rows = (
        (
            r["spectrum"],
            f"{r['full_seconds']:.2f} s",
            f"{r['truncated_seconds']:.2f} s",
            f"{r['ratio']:.1f}",
            f"{r['exact_energy']:.4f}",
            f"{r['shortfall']:.1e}",
        )
        for r in ratios
    )
    return table(("spectrum", "full SVD", "top 16", "times faster", "energy of the exact top 16", "shortfall"), rows)


def second(begun: list[dict[str, Any]], where: dict[str, Any]) -> str:
    rows = (
        (
            f"`{s['method']}`",
            f"{s['without']:.2f} s",
            f"{s['first']:.2f} s",
            f"{s['second']:.2f} s",
            f"{100 * s['second'] / s['first']:.1f} %",
            f"{s['kept_mb']:.0f} MB",
        )
        for s in begun
    )
    return table(("method", "no store", "first start", "second start", "second / first", "kept"), rows) + told(where)


if __name__ == "__main__":
    main()
