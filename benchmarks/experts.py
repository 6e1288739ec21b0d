"""A training step with LoRA on the experts of a mixture: ours beside PEFT's ``target_parameters``.

python benchmarks/experts.py [hidden inner experts tokens [precision]]; without, on the shapes of docs/experts.md. Time
of the processor and peak memory, one process and one thread each; times are medians.
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
SHAPES = ([32, 32, 4, 16], [64, 64, 8, 32], [128, 128, 16, 64], [512, 512, 16, 256], [2048, 4096, 10, 64])
LEAST, SECONDS = 5, 3  # steps that are measured, and for how long


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


def measure(kind: str, hidden: int, inner: int, count: int, tokens: int, precision: str, say) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dtype = getattr(torch, precision)
    net, x = Mixture(hidden, inner, count, dtype), torch.randn(tokens, hidden, dtype=dtype)
    net.routes = torch.rand(tokens, count).topk(2).indices  # each token's two experts, at random
    if kind == "ours":
        net = get_peft_model(net, SubspaceConfig(method="lora", r=8, target_parameters=NAMES))
    elif kind == "peft":
        net = get_peft_model(net, LoraConfig(r=8, target_modules=[], target_parameters=NAMES))
    before, times, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [], time.monotonic()
    while len(times) < LEAST or time.monotonic() < began + SECONDS:
        start = time.process_time()
        net(x).square().mean().backward()
        times.append(time.process_time() - start)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    say.put((sorted(times)[len(times) // 2], len(times), more))


if __name__ == "__main__":
    start = multiprocessing.get_context("fork")
    precision = sys.argv[5] if len(sys.argv) > 5 else "float32"
    for sizes in [[int(a) for a in sys.argv[1:5]]] if sys.argv[1:] else SHAPES:
        print(f"hidden, inner, experts, tokens: {sizes}, {precision}", flush=True)
        for kind in ("ours", "peft"):
            say = start.Queue()
            process = start.Process(target=measure, args=(kind, *sizes, precision, say))
            process.start()
            seconds, steps, more = say.get()
            process.join()
            print(
                f"{kind:5s} {1000 * seconds:8.2f} ms a step (of {steps}), {more:8.1f} MiB more at the peak", flush=True
            )
