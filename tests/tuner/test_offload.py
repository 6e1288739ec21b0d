"""Every method on a model of which accelerate keeps a layer on the CPU and one on disk."""

import torch
from accelerate import dispatch_model
from peft import get_peft_model
from torch import nn

from cases import CASES, each

MAP = {"first": "cpu", "second": "disk", "last": "cpu"}
N = 12


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(N, N), nn.Linear(N, N), nn.Linear(N, 3)

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


def base(folder=None):
    torch.manual_seed(0)
    net = Net().eval()
    if folder is None:
        return net
    return dispatch_model(net, dict(MAP), main_device="cpu", offload_dir=folder, force_hooks=True)


def tuned(case, net):
    torch.manual_seed(1)
    model = get_peft_model(net, case.config(target_modules=["first", "second"], init_weights=False))
    return model.eval()


def close(a, b):
    """The same but for rounding: x W is (x W + b) - b where a hook hangs on the layer."""
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@each(case=CASES)
def test_an_offloaded_base_is_tuned_and_merged_as_one_in_memory(case, tmp_path):
    x = torch.randn(4, N)
    here, away = tuned(case, base()), tuned(case, base(tmp_path))
    second = away.base_model.model.second.base_layer
    assert second.weight.is_meta
    close(away(x), here(x))
    for model in (here, away):
        model.train()
        torch.manual_seed(2)
        model(x).square().sum().backward()
    grads = [[p.grad for p in model.parameters() if p.requires_grad] for model in (here, away)]
    for a, b in zip(*grads, strict=True):
        close(a, b)
    here.eval(), away.eval()
    if not case.resolved.mergeable:
        return
    y = here(x)
    here.merge_adapter(), away.merge_adapter()
    assert second.weight.is_meta
    close(away(x), here(x))
    here.unmerge_adapter(), away.unmerge_adapter()
    close(away(x), y)
    close(away.merge_and_unload()(x), here.merge_and_unload()(x))
