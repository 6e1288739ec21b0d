"""What the calibration pass finds of each expert is what autograd finds; and each expert starts from it."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from cases import CASES, each
from model_types import ARCHITECTURES
from subspace_tuning import METHODS, LoRA, SubspaceConfig, calibrate
from subspace_tuning.method import Method, members
from subspace_tuning.method.registry import register
from subspace_tuning.methods import FishMask
from subspace_tuning.testing.cases import held_by
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.calibrate import STATISTICS

SEEN = {}
GATE_UP, DOWN = "gate_up_proj", "down_proj"


@register("tests_witness_of_experts")
class Witness(Method):
    """phi(W) = W.

    Looks at everything and keeps it.
    """

    category, formula, paper = "extension", "1", "tests"
    calibration = tuple(STATISTICS)

    def parameters(self, n, m):
        return FishMask(share=1e-9).parameters(n, m)

    def calibrated(self, W, found):
        SEEN[W.layer, W.at] = dict(found)
        return {}


METHODS.pop("tests_witness_of_experts")


def net(name="mixtral", how="eager"):
    made = ARCHITECTURES[name].model(name)
    made.set_experts_implementation(how)
    torch.manual_seed(1)
    for p in made.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)
    return made.eval()


def padded():
    """Three examples, two of them filled up on either side."""
    ids = torch.randint(4, 40, (3, 6))
    mask = torch.ones_like(ids)
    mask[1, 4:] = mask[2, :3] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def examples(data):
    """As they are without padding."""
    kept = [row.bool() for row in data["attention_mask"]]
    return [{k: v[i : i + 1, own] for k, v in data.items()} for i, own in enumerate(kept)]


def keeper(model):
    return model.model.layers[0].mlp.experts


def truth(model, data):
    """By expert: X^T X / rows of what enters gate_up; and of both, dL/dW, (dL/dW)^2 over the examples that reach it."""
    rows, gradients, squares = [], [], []
    own = keeper(model)

    def saw(module, args):
        hidden, index = args[0].flatten(0, -2), args[1].view(len(args[0].flatten(0, -2)), -1)
        rows.append([hidden[(index == i).any(1)].detach() for i in range(module.num_experts)])

    handle = own.register_forward_pre_hook(saw)
    for one in examples(data):
        found = torch.autograd.grad(model(**one).loss, [own.gate_up_proj, own.down_proj])
        gradients.append(found)
        squares.append([g.square() for g in found])
    handle.remove()
    each = []
    for i in range(own.num_experts):
        X = torch.cat([r[i] for r in rows])
        reached = [k for k, r in enumerate(rows) if len(r[i])]
        means = [[sum(many[k][j][i] for k in reached) / len(reached) for many in (gradients, squares)] for j in (0, 1)]
        each.append((X.T @ X / len(X), *means))
    return each


@each(name=["mixtral", "gpt_oss"], how=["eager", "batched_mm", "grouped_mm"])
def test_statistics_are_those_of_autograd_by_expert(name, how):
    torch.manual_seed(3)
    data, model = padded(), net(name)
    want = truth(model, data)
    turned = getattr(keeper(model), "is_transposed", False)
    model.set_experts_implementation(how)
    tuned = get_peft_model(
        model, SubspaceConfig(method=Witness(), target_modules=["experts.gate_up_proj", "experts.down_proj"])
    )
    SEEN.clear()
    calibrate(tuned, [data], progress=False)
    layers = [getattr(keeper(tuned.base_model.model), own).base_layer for own in (GATE_UP, DOWN)]
    for i, (activations, *both) in enumerate(want):
        torch.testing.assert_close(SEEN[layers[0], i]["activations"], activations, rtol=1e-3, atol=1e-5)
        for layer, (gradient, square) in zip(layers, both, strict=True):
            for key, value in (("gradients", gradient), ("fisher", square)):
                torch.testing.assert_close(SEEN[layer, i][key], value if turned else value.T, rtol=1e-3, atol=1e-5)


ASKING = [case for case in CASES if any(part.calibration for part in members(case.method))]
ASKING_LORAS = [LoRA(r=2, init=init) for init in ("eva", "lora_ga", "corda")]


@pytest.mark.parametrize("method", [*(c.method for c in ASKING), *ASKING_LORAS], ids=lambda m: m.describe())
def test_a_start_that_looks_at_data_changes_nothing_unless_told_and_is_stored(method, tmp_path):
    plain, data = net(how="grouped_mm"), padded()
    want = plain(**data).logits
    model = get_peft_model(copy.deepcopy(plain), SubspaceConfig(method=method, target_modules=["experts.gate_up_proj"]))
    calibrate(model, [data], progress=False)
    assert (relative(model.eval()(**data).logits, want) < 1e-4) == (method.starts_at == "W")
    with model.disable_adapter():
        assert torch.equal(model(**data).logits, want)
    model.train()(**data).loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(plain, tmp_path).eval()
    assert torch.equal(again(**data).logits, model.eval()(**data).logits)


def directions(model):
    """A A^T of each expert."""
    own = model.base_model.model.model.layers[0].mlp.experts.gate_up_proj
    A = held_by(own)["A"]
    return A @ A.mT


def test_experts_start_apart_and_one_that_saw_nothing_from_what_all_saw():
    config, found = SubspaceConfig(method=LoRA(r=2, init="eva"), target_modules=["experts.gate_up_proj"]), []
    for scale in (1, 0):  # of the router: without it, ties send all tokens to one expert
        model = get_peft_model(net(), config)
        with torch.no_grad():
            model.base_model.model.model.layers[0].mlp.gate.weight.mul_(scale)
        calibrate(model, [padded()], progress=False)
        found.append(directions(model))
    apart, alike = found
    assert not torch.allclose(apart[0], apart[1], atol=1e-2)
    torch.testing.assert_close(alike[0], alike[1])


def test_what_does_not_say_its_examples_is_refused():
    model = get_peft_model(net(), SubspaceConfig(method=FishMask(), target_modules=["experts.down_proj"]))
    data = padded()
    with pytest.raises(ValueError, match="example by example"):
        calibrate(model, [{**data, "labels": data["labels"][:2]}], progress=False)
