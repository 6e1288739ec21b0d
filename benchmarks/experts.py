"""A training step with LoRA on the experts of a mixture: ours beside PEFT's ``target_parameters``.

python benchmarks/experts.py [hidden inner experts tokens [precision]]; without, the tables of docs/experts.md. Time
of the processor and peak memory, one process and one thread each, which take turns; times are medians.
"""

import multiprocessing
import resource
import sys
import time
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from subspace_tuning import SubspaceConfig

NAMES = ["experts.gate_up_proj", "experts.down_proj"]
SHAPES = ([32, 32, 4, 16], [64, 64, 8, 32], [128, 128, 16, 64], [512, 512, 16, 256], [2048, 4096, 10, 64])
KINDS = ("ours", "peft")
LEAST, TURN, SECONDS = 6, 5, 8  # steps that are measured, how many in turn, and for how long


class Mixture(nn.Module):
    def __init__(self, hidden: int, inner: int, count: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        config = MixtralConfig(hidden_size=hidden, intermediate_size=inner, num_local_experts=count)
        config._experts_implementation = "grouped_mm"
        torch.set_default_dtype(dtype)
        self.experts = MixtralExperts(config)
        torch.set_default_dtype(torch.float32)
        for p in self.parameters():
            nn.init.uniform_(p, -0.03, 0.03)

    def forward(self, x):
        return self.experts(x, self.routes, torch.full((len(x), 2), 0.5, dtype=x.dtype))


def measure(kind: str, hidden: int, inner: int, count: int, tokens: int, precision: str, end) -> None:
    """Steps when asked to, and their times; at last what the peak of memory has grown by."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dtype = getattr(torch, precision)
    net, x = Mixture(hidden, inner, count, dtype), torch.randn(tokens, hidden, dtype=dtype)
    net.routes = torch.rand(tokens, count).topk(2).indices  # each token's two experts, at random
    if kind == "ours":
        net = get_peft_model(net, SubspaceConfig(method="lora", r=8, target_parameters=NAMES))
    elif kind == "peft":
        net = get_peft_model(net, LoraConfig(r=8, target_modules=[], target_parameters=NAMES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while steps := end.recv():
        times = []
        for _ in range(steps):
            start = time.process_time()
            net(x).square().mean().backward()
            times.append(time.process_time() - start)
        end.send(times)
    end.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def compare(sizes: list[int], precision: str) -> dict[str, tuple[float, int, float]]:
    """Kind -> (milliseconds, steps, MiB). The two take turns, so that what else the machine does meets both."""
    start, ends, times = multiprocessing.get_context("fork"), {}, {}
    for kind in KINDS:
        ends[kind], theirs = start.Pipe()
        start.Process(target=measure, args=(kind, *sizes, precision, theirs), daemon=True).start()
    began = time.monotonic()
    while not times or len(times["ours"]) < LEAST or time.monotonic() < began + SECONDS:
        for kind, end in ends.items():
            end.send(TURN if times else 1)
            times.setdefault(kind, []).extend(end.recv())
    for end in ends.values():
        end.send(0)
    return {kind: (1000 * median(times[kind][1:]), len(times[kind]), ends[kind].recv()) for kind in KINDS}


if __name__ == "__main__":
    given, precisions = sys.argv[1:5], sys.argv[5:] or ["float32", "bfloat16"]
    for precision in precisions:
        print(f"\n{precision}\n\n| hidden, inner, experts, tokens | ours | PEFT's `target_parameters` |\n|---|---|---|")
        for sizes in [[int(a) for a in given]] if given else SHAPES:
            both = compare(sizes, precision)
            told = (f"{ms:.3g} ms, {more:.0f} MiB" for ms, _, more in both.values())
            print(f"| {', '.join(map(str, sizes))} | {' | '.join(told)} |", flush=True)
