"""A training step with LoRA on the experts of a mixture: ours beside PEFT's ``target_parameters``.

python benchmarks/experts.py [hidden] [inner] [experts] [tokens]: seconds and peak memory, one process each.
"""

import multiprocessing
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from subspace_tuning import SubspaceConfig

NAMES = ["experts.gate_up_proj", "experts.down_proj"]
STEPS = 5


class Mixture(nn.Module):
    def __init__(self, hidden: int, inner: int, count: int):
        super().__init__()
        config = MixtralConfig(hidden_size=hidden, intermediate_size=inner, num_local_experts=count)
        config._experts_implementation = "grouped_mm"
        self.count, self.experts = count, MixtralExperts(config)
        for p in self.parameters():
            nn.init.normal_(p, std=0.02)

    def forward(self, x):
        to = (torch.arange(2 * len(x)) * 7 % self.count).view(-1, 2)
        return self.experts(x, to, torch.full(to.shape, 0.5))


def measure(kind: str, hidden: int, inner: int, count: int, tokens: int, say) -> None:
    torch.manual_seed(0)
    net, x = Mixture(hidden, inner, count), torch.randn(tokens, hidden)
    if kind == "ours":
        net = get_peft_model(net, SubspaceConfig(method="lora", r=8, target_parameters=NAMES))
    elif kind == "peft":
        net = get_peft_model(net, LoraConfig(r=8, target_modules=[], target_parameters=NAMES))
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(STEPS):
        began = time.perf_counter()
        net(x).square().mean().backward()
        times.append(time.perf_counter() - began)
    say.put((sorted(times)[STEPS // 2], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


if __name__ == "__main__":
    sizes = [int(a) for a in sys.argv[1:]] or [512, 512, 16, 256]
    print(f"hidden, inner, experts, tokens: {sizes}")
    for kind in ("ours", "peft"):
        say = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(kind, *sizes, say))
        process.start()
        seconds, more = say.get()
        process.join()
        print(f"{kind:5s} {1000 * seconds:8.1f} ms a step, {more:8.1f} MiB more at the peak")
