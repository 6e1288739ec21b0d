"""Every method on a model of which accelerate keeps a layer on the CPU and one on disk."""

import copy

import pytest
import torch
from accelerate import dispatch_model
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaForCausalLM

import models
from cases import CASES, each
from model_types import ARCHITECTURES
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.methods import DoRA
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.shared import HOME

MAP = {"first": "cpu", "second": "disk", "last": "cpu"}
N = 12


class Net(nn.Module):
    _no_split_modules = ()

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


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Makes the base as transformers does: the layer on disk was never in memory, and is read from the checkpoint."""
    folder = tmp_path_factory.mktemp("hub") / "models--base"  # a name that PEFT keeps its own copy beside
    folder.mkdir()
    save_file(base().state_dict(), folder / "model.safetensors")

    def make():
        net = base()
        net.second.to("meta")
        where = {"safetensors_file": str(folder / "model.safetensors"), "dtype": "float32"}
        index = {f"second.{name}": where | {"weight_name": f"second.{name}"} for name in ("weight", "bias")}
        return dispatch_model(net, dict(MAP), main_device="cpu", offload_index=index, force_hooks=True)

    return make


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


@each(case=CASES)
def test_an_adapter_is_saved_and_loaded_where_its_base_is_on_disk(case, on_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # PEFT's copy has a relative name
    x = torch.randn(4, N)
    here, away = tuned(case, base()), tuned(case, on_disk())
    here.save_pretrained("here"), away.save_pretrained("away")
    files = [load_file(f"{name}/adapter_model.safetensors") for name in ("here", "away")]
    torch.testing.assert_close(*files, rtol=0, atol=0)
    where = {f"base_model.model.{name}": place for name, place in MAP.items()}
    where |= {f"base_model.model.{HOME}": "cpu"} if case.resolved.shared else {}
    again = PeftModel.from_pretrained(on_disk(), "away", device_map=where, offload_dir="offloaded")
    away.load_adapter("here", "other")
    away.set_adapter("other")
    for model in (again.eval(), away.eval()):
        close(model(x), here(x))
        assert model.base_model.model.second.base_layer.weight.is_meta
        if case.resolved.mergeable:
            close(model.merge_and_unload()(x), here(x))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Makes a language model with its second block in memory or, with a folder, on disk."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    net = models.llama()
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    net.save_pretrained(folder)

    def make(away=None):
        if away is None:
            return LlamaForCausalLM.from_pretrained(folder)
        places = dict.fromkeys(["lm_head", *(f"model.{name}" for name in HERE)], "cpu") | {"model.layers.1": "disk"}
        return LlamaForCausalLM.from_pretrained(folder, device_map=places, offload_folder=away)

    return make


HERE = ("embed_tokens", "layers.0", "norm", "rotary_emb")
WAYS = ["lora", "ssb", "dora", "pissa", "vera", "svdiff", "hira", "svft", "pafi"]


@pytest.mark.parametrize("method", WAYS)
def test_transformers_itself_loads_an_adapter_onto_layers_on_disk(method, llama, tmp_path):
    here = llama()
    where = {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}
    here.add_adapter(SubspaceConfig(method=method, init_weights=False, **where))
    for layer in (m for m in here.modules() if isinstance(m, SubspaceLayer)):
        layer._uncalibrated.clear()
    here.save_pretrained(tmp_path / "adapter")
    away, ids = llama(tmp_path / "disk"), torch.arange(8).reshape(2, 4)
    away.load_adapter(str(tmp_path / "adapter"))
    assert away.model.layers[1].self_attn.q_proj.base_layer.weight.is_meta
    with torch.no_grad():
        want, plain = here.eval()(ids).logits, llama()(ids).logits
        assert (want - plain).abs().max() > 1e-3
        for _ in range(2):
            close(away.eval()(ids).logits, want)


ON_DISK = {
    "qwen2_moe": ("model.layers", ["experts.gate_up_proj", "q_proj"]),
    "gpt2": ("transformer.h", ["c_attn.key", "mlp.c_fc"]),  # a slice of a fused weight
    "mamba": ("backbone.layers", ["in_proj", "x_proj", "out_proj"]),  # some of which kernels read
}


def second_block_on_disk(model, blocks, folder):
    """The model with its second block on disk and all else in memory."""
    named = [name for name, _ in model.named_parameters(remove_duplicate=False)]  # tied ones by both names
    places = {name: "cpu" for name in named if not name.startswith(f"{blocks}.1.")}
    places |= {name: "cpu" for name, _ in model.named_buffers()} | {f"{blocks}.1": "disk"}
    return dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


@each(method=[LoRA(r=2), SSB(), DoRA(r=2)])
@pytest.mark.parametrize("name", ON_DISK)
def test_experts_slices_and_mixers_on_disk_are_tuned_and_merged(name, method, tmp_path):
    blocks, seats = ON_DISK[name]
    base, inputs = ARCHITECTURES[name].model(name), ARCHITECTURES[name].inputs()
    config = SubspaceConfig(method=method, target_modules=seats, init_weights=False)
    here = get_peft_model(copy.deepcopy(base), config).eval()
    here.save_pretrained(tmp_path / "adapter")
    away = second_block_on_disk(base, blocks, tmp_path / "disk")
    assert any(p.is_meta for p in away.parameters())
    away = PeftModel.from_pretrained(away, tmp_path / "adapter", is_trainable=True).eval()
    want = here(**inputs).logits
    close(away(**inputs).logits, want)
    away.train()(**inputs).loss.backward()
    assert all(p.grad is not None for p in away.parameters() if p.requires_grad)
    away.eval().merge_adapter()
    close(away(**inputs).logits, want)
    away.unmerge_adapter()
    close(away.merge_and_unload()(**inputs).logits, want)
