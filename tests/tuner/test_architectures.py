"""Sixty architectures and more: each method sits on the default modules, trains a step and merges into what it was."""

import warnings
from functools import cache

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from model_types import ARCHITECTURES
from subspace_tuning import SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.methods import Houlsby, VeRA
from subspace_tuning.structure.blocks import read
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.tuner.targets import all_linear
from subspace_tuning.weights.experts import Experts, with_experts

METHODS = {"ssb": SSB(), "lora": LoRA(r=2), "houlsby": Houlsby(r=2), "bitfit": BitFit(), "vera": VeRA(r=2)}
WEIGHTS = {"ssb", "lora", "houlsby", "vera"}
# architecture -> methods that find no place there
WITHOUT = {
    "resnet": WEIGHTS,  # convolutions alone
    "fnet": {"vera"},  # mixes by a Fourier transform
    "convnext": {"vera"},  # mixes by convolutions
    "xlnet": {"vera"},  # attention's weights are parameters of no layer
}
UNBIASED = {
    *("modernbert", "eurobert", "llama", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi3", "olmo"),
    *("olmo2", "cohere", "granite", "smollm3", "helium", "mpt", "mixtral", "qwen3_moe", "olmoe", "deepseek_v3"),
    *("t5", "mt5", "umt5", "longt5", "switch_transformers", "llava"),
    *("paligemma",),
}
# what no gradient reaches: global tokens that are not asked for, an encoder whose output the classifier leaves alone
IDLE = {"longformer": ("_global",), "led": ("_global",), "canine": ("final_char_encoder", "canine.projection")}


@cache
def made(name):
    """A model and what goes in, made once."""
    torch.manual_seed(0)
    return ARCHITECTURES[name].model(name), ARCHITECTURES[name].inputs()


def outputs(model, inputs) -> list[Tensor]:
    torch.manual_seed(0)  # masked autoencoders pick what they see
    return [v for v in model(**inputs).values() if isinstance(v, Tensor) and v.is_floating_point()]


def lost(found: list[Tensor]) -> Tensor:
    return torch.stack([y.square().mean() for y in found if y.requires_grad]).sum()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_methods_sit_train_and_merge(name):
    model, inputs = made(name)
    want = [y.detach() for y in outputs(model, inputs)]
    without = WITHOUT.get(name, set())
    for called, method in METHODS.items():
        config = SubspaceConfig(method=method)
        if called in without or (called == "bitfit" and name in UNBIASED):
            with pytest.raises(ValueError, match=r"no default modules|has no bias"):
                get_peft_model(model, config)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuned = get_peft_model(model, config)
            steps(tuned, inputs, want, name, method)
            model = tuned.unload()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs(model, inputs), want, strict=True))


def steps(tuned, inputs, want, name, method):
    """As it was; moved by a step; the same merged."""
    found = outputs(tuned, inputs)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, want, strict=True))
    parameters = adapter_parameters(tuned)
    lost(found).backward()
    idle = IDLE.get(name, ())
    reached = {k for k, p in parameters.items() if p.grad is not None}
    missed = [k for k in parameters if k not in reached]
    assert all(any(part in k for part in idle) for k in missed), missed
    with torch.no_grad():
        for k in reached:
            parameters[k] -= parameters[k].grad.sign() / 10
    moved = outputs(tuned, inputs)
    assert not all(torch.equal(a, b) for a, b in zip(moved, found, strict=True))
    if not method.mergeable:
        return
    tuned.merge_adapter()
    merged = outputs(tuned, inputs)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(merged, moved, strict=True))
    tuned.unmerge_adapter()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_linear_leaves_the_head_out(name):
    model, _ = made(name)
    found = all_linear(model)
    modules = dict(with_experts(model))
    plain = {k for k, module in modules.items() if isinstance(module, nn.Linear | Conv1D | Experts)}
    assert found <= plain
    assert found >= {k for k, module in modules.items() if isinstance(module, Experts)}
    base = model.base_model_prefix
    assert all(k.startswith(f"{base}.") or not hasattr(model, base) or "pooler" in k for k in found)
    assert not any(tuple(modules[k].weight.shape) == (2, 16) for k in found if "router" not in k)  # of two experts


def test_the_meta_device_reads_alike():
    for name in ("llama", "gpt2", "mixtral", "mamba"):
        with torch.device("meta"):
            assert read(ARCHITECTURES[name].model(name)) == read(made(name)[0])
