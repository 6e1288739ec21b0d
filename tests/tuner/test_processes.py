"""Two processes (DDP, FSDP2) train what one does with the batches of both."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import get_peft_model
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from acting import ACTING, LR, STEPS
from cases import SINGLE
from models import batch, bert
from subspace_tuning import LoRA
from subspace_tuning.methods import TiedLoRA, TinyLoRA
from subspace_tuning.testing import Case
from subspace_tuning.testing.cases import adapter_parameters, stored_numbers
from subspace_tuning.tuner.whole import whole

RANKS = 2
SHARING = [Case(TinyLoRA(r=2, u=5)), Case(TiedLoRA(r=2), "o"), Case(TinyLoRA(r=2, u=3, tie="kind") | LoRA(r=2), "o")]
CASES = ACTING + SHARING
STARTS = [case for case in SINGLE if case.resolved.sits_on == "weight"]


def alone(model):
    return model


def ddp(model):
    return DistributedDataParallel(model)


def fsdp2(model):
    for layer in model.base_model.model.bert.encoder.layer:
        fully_shard(layer)
    return fully_shard(model)


def fsdp1(model):
    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def trained(case, wrap, data):
    """Parameters and stored numbers, whole, of a model after training."""
    torch.manual_seed(0)
    config = case.config(init_weights=False, total_steps=STEPS, mpc_weight=0.5)
    layers = 2 if case.resolved.shared else 1
    model = get_peft_model(bert(num_hidden_layers=layers, initializer_range=0.5), config).train()
    model.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)  # the same noise in each pass
    held = wrap(model)
    lr = LR / 10 if case.resolved.shared else LR  # one number moves several weights
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(STEPS):
        held(**data).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = adapter_parameters(model) | stored_numbers(model)
    return {k: (v.full_tensor() if isinstance(v, DTensor) else v).detach().clone() for k, v in found.items()}


def started(case, in_pieces):
    """All that an adapter has on a layer before training, and what the merged layer computes with."""
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(layer=nn.Linear(12, 12), last=nn.Linear(12, 3)))
    if in_pieces:
        fully_shard(net)
    torch.manual_seed(1)
    model = get_peft_model(net, case.config(target_modules=["layer"]))
    layer = model.base_model.model.layer
    before = layer.get_base_layer().weight
    found = {**layer.values("default"), "W": whole(before.detach())}
    if case.resolved.mergeable and not case.resolved.calibration:
        layer.merge()
        found["phi(W)"] = whole(layer.get_base_layer().weight.detach())
        assert isinstance(layer.get_base_layer().weight, DTensor) == in_pieces
    return {k: whole(v.detach()).clone() for k, v in found.items()}


def same(got, want):
    return got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)


def apart(got, want):
    assert set(got) == set(want)
    return max((got[k].double() - want[k].double()).abs().max().item() for k in want)


def work(rank, port, found):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=RANKS)
    torch.manual_seed(1)
    whole = batch(bert, 4)
    part = {k: v[2 * rank : 2 * rank + 2] for k, v in whole.items()}
    try:
        trained(ACTING[0], fsdp1, part)
    except RuntimeError as error:
        found[rank, "fsdp1"] = str(error)
    found[rank, "starts"] = [str(case) for case in STARTS if not same(started(case, True), started(case, False))]
    for i, case in enumerate(CASES):
        want = trained(case, alone, whole)
        found[rank, i, "alone"] = apart(trained(case, alone, part), want)
        for wrap in (ddp, fsdp2):
            found[rank, i, wrap.__name__] = apart(trained(case, wrap, part), want)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found():
    store = dist.TCPStore("localhost", 0, 1, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    with mp.Manager() as manager:
        shared = manager.dict()
        mp.spawn(work, (port, shared), nprocs=RANKS)
        return copy.deepcopy(dict(shared))


@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_two_processes_train_what_one_does(found, i, wrap):
    for rank in range(RANKS):
        assert found[rank, i, wrap] < 1e-4 < 1e-3 < found[rank, i, "alone"]


def test_methods_start_from_weights_in_pieces_as_from_whole_ones(found):
    assert found[0, "starts"] == found[1, "starts"] == []


def test_matrices_that_are_flattened_are_refused(found):
    assert "use FSDP2" in found[0, "fsdp1"]
