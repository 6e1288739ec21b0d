"""What several layers share is one parameter: counted, saved and moved once, and at work in each of them."""

import copy
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from subspace_tuning.method import Method
from subspace_tuning.testing.cases import Case, Net, adapter_parameters, sits
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, near, require, snapshot, unchanged
from subspace_tuning.tuner.shared import HOME

LAYERS = 3


class Several(nn.Module):
    """Layers of one kind side by side, their outputs added up with weights."""

    def __init__(self, layer: Callable[[], nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(Net(layer()) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Any:
        return sum((i + 1) * block(x) for i, block in enumerate(self.blocks))


def shares(case: Case, kind: Kind) -> bool:
    return sits(case, kind) and bool(case.resolved.shared)


def several(case: Case, kind: Kind, **config: Any) -> Any:
    """A PEFT model of several layers with the case's adapter on them, and weights other than at the start."""
    net = Several(kind.layer)
    made = case.config(**{"target_modules": ["layer"], "init_weights": False, **config})
    return get_peft_model(net, made).eval()


def seats(model: Any) -> list[Any]:
    return [block.layer for block in model.base_model.model.blocks]


def of_layers(method: Method, n: int, m: int, layers: int = LAYERS) -> int:
    """Numbers trained on so many layers of one shape and kind."""
    sizes = {k: torch.Size(start.shape).numel() for k, start in method.parameters(n, m).items()}
    return sum(size * (1 if name in method.shared else layers) for name, size in sizes.items())


@law(where=shares, first=2)
def what_layers_share_counts_once(case: Case, kind: Kind) -> None:
    """For PEFT, an optimiser, a state dict and a checkpoint."""
    model = several(case, kind)
    n, m = kind.matrix(seats(model)[0].base_layer).shape
    want = of_layers(case.resolved, n, m)
    require(model.get_nb_trainable_parameters()[0] == want, f"PEFT counts {model.get_nb_trainable_parameters()[0]}")
    state = get_peft_model_state_dict(model)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    require(len(trained) == len(adapter_parameters(model)), "an optimiser gets other parameters than the adapter has")
    saved = sum(v.numel() for v in state.values() if v.is_floating_point())
    require(saved == want, f"a checkpoint holds {saved} numbers, expected {want}")
    for name in case.resolved.shared:
        held = {id(layer.trained("default")[name]) for layer in seats(model)}
        require(len(held) == 1, f"{name} is {len(held)} parameters, and is shared")


@law(where=shares, first=2)
def gradients_of_what_layers_share_add_up(case: Case, kind: Kind) -> None:
    """One layer at work after the other gives the parts of the gradient."""
    model = several(case, kind)
    x = inputs(kind)
    pull = torch.randn_like(model(x))
    shared = [seats(model)[0].trained("default")[name] for name in case.resolved.shared]
    got = torch.autograd.grad((model(x) * pull).sum(), shared)
    parts = [torch.zeros_like(p) for p in shared]
    for working in seats(model):
        for layer in seats(model):
            layer._disable_adapters = layer is not working
        for part, g in zip(parts, torch.autograd.grad((model(x) * pull).sum(), shared), strict=True):
            require(g.abs().max() > 0, "no gradient reaches what is shared from one of the layers")
            part += g
    for name, g, want in zip(case.resolved.shared, got, parts, strict=True):
        near(g, want, 1e-4, f"the gradient of {name}")


@law(where=shares, first=2)
def what_layers_share_is_merged_in_all(case: Case, kind: Kind) -> None:
    model = several(case, kind)
    x = inputs(kind)
    want, before = model(x), snapshot(model)
    bases = [layer.base_layer.weight.clone() for layer in seats(model)]
    model.merge_adapter()
    near(model(x), want, 2e-6, "the output after merging")
    for layer, was in zip(seats(model), bases, strict=True):
        require(not torch.equal(layer.base_layer.weight, was), "merging leaves a layer as it was")
    model.unmerge_adapter()
    unchanged(model, before)
    plain = model.merge_and_unload()
    near(plain(x), want, 2e-6, "the output of the plain model")
    require(not any(HOME in name for name in plain.state_dict()), "the plain model still holds what layers shared")


@law(where=shares, first=2)
def shared_parameters_of_adapters_do_not_mix(case: Case, kind: Kind) -> None:
    """Nor is any left when an adapter is deleted; batches may mix them."""
    model = several(case, kind)
    x = inputs(kind, 4)
    names = ["default", "second", "third", "fourth"]
    for name in names[1:]:
        model.add_adapter(name, case.config(target_modules=["layer"], init_weights=False))
    alone = {}
    for name in names:
        model.set_adapter(name)
        alone[name] = model(x)
        trained = {k for k, p in model.named_parameters() if p.requires_grad}
        require(trained == set(adapter_parameters(model, name)), f"training {name} moves more or less than {name}")
    require(not torch.equal(alone["default"], alone["second"]), "two adapters do the same")
    rows = [names[i] for i in (2, 0, 3, 1)]
    with torch.no_grad():
        mixed = model(x, adapter_names=rows)
    near(mixed, torch.stack([alone[name][i] for i, name in enumerate(rows)]), 2e-6, "a batch by several adapters")
    model.delete_adapter("default")
    require(not adapter_parameters(model), "deleting leaves parameters behind")
    model.set_adapter("second")
    require(torch.equal(model(x), alone["second"]), "deleting one adapter changes another")


@law(where=shares, first=2)
def a_checkpoint_gives_all_layers_back(case: Case, kind: Kind) -> None:
    """Under any name, and in a copy of the model."""
    model = several(case, kind)
    x = inputs(kind)
    base = copy.deepcopy(model).unload()
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again: Any = PeftModel.from_pretrained(copy.deepcopy(base), folder, adapter_name="renamed")
    near(again(x), model(x), 1e-6, "the output after loading")
    twin = copy.deepcopy(model)
    for p in adapter_parameters(twin).values():
        p.data.add_(1.0)
    near(again(x), model(x), 1e-6, "the output, while a copy of the model is changed,")
    require(not torch.allclose(twin(x), model(x)), "a copy of the model reads the parameters of the original")


@law(where=shares, first=2)
def what_layers_share_loads_where_fewer_are_tuned(case: Case, kind: Kind) -> None:
    """The last layer alone, from a checkpoint of all: its phi(W) is what it was."""
    model = several(case, kind)
    last = LAYERS - 1
    state = get_peft_model_state_dict(model)
    own = {k: v for k, v in state.items() if ".blocks." not in k or f".blocks.{last}." in k}
    net = copy.deepcopy(model).unload()
    fewer: Any = get_peft_model(net, case.config(target_modules=[f"blocks.{last}.layer"]))
    set_peft_model_state_dict(fewer, own)
    x = inputs(kind)
    near(fewer.base_model.model.blocks[last].eval()(x), seats(model)[last](x), 1e-6, "the output of the last layer")
