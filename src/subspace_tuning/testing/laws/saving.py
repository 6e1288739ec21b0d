"""A checkpoint gives the same layer back; adapters beside each other do not mix."""

import copy
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel

from subspace_tuning.methods import LoRA
from subspace_tuning.testing.cases import Case, Net, adapter_parameters, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, near, relative, require, snapshot, unchanged


@law()
def a_checkpoint_gives_the_same_output(case: Case, kind: Kind) -> None:
    model = tuned(case, kind)
    x = inputs(kind)
    base = copy.deepcopy(tuned_layer(model).base_layer)
    plain = base(x)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again: Any = PeftModel.from_pretrained(Net(base), folder)
    found, want = again.peft_config["default"].resolved(), case.resolved
    require(found == want, f"the checkpoint says {found.describe()}, saved was {want.describe()}")
    unchanged(again, snapshot(model))
    near(again(x), model(x), 1e-6, "the output after loading")  # where tensors lie in memory may move the last bit
    require(relative(again(x), plain) > 1e-6, "the adapter changes nothing")


@law()
def adapters_beside_each_other_do_not_mix(case: Case, kind: Kind) -> None:
    model = tuned(case, kind)
    x = inputs(kind)
    alone = model(x)
    model.add_adapter("other", Case(LoRA(r=2)).config(target_modules=["layer"], init_weights=False))
    require(torch.equal(model(x), alone), "another adapter, not active, changes the output")
    model.set_adapter("other")
    other = model(x)
    require(not torch.equal(other, alone), "switching adapters changes nothing")
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    require(trained == set(adapter_parameters(model, "other")), "training moves more than the active adapter")
    model.set_adapter("default")
    require(torch.equal(model(x), alone), "switching there and back changes the output")
    model.delete_adapter("default")
    model.set_adapter("other")
    require(torch.equal(model(x), other), "deleting one adapter changes the other's output")
    require(not adapter_parameters(model), "deleting leaves parameters behind")
