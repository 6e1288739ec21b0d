"""Fused experts are chosen like other weights: by default, by all-linear, by name; or a sentence says why not."""

import pytest
from peft import get_peft_model

from model_types import ARCHITECTURES
from subspace_tuning import METHODS, BitFit, SubspaceConfig
from subspace_tuning.errors import BadInput
from subspace_tuning.tuner.budget import count
from subspace_tuning.tuner.experts import SubspaceExperts
from subspace_tuning.tuner.put_on import put_on

GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
BY_PLACES = {"key_value_ff": {GATE_UP}, "query_value": set(), "all": {GATE_UP, DOWN}}


def model(name="mixtral"):
    return ARCHITECTURES[name].model(name)


def taken(config, name="mixtral"):
    """The experts that a config takes, by block and name below it."""
    made = get_peft_model(model(name), config)
    inner = made.base_model.model.model.layers
    found = {
        (i, k) for i, block in enumerate(inner) for k, m in block.named_modules() if isinstance(m, SubspaceExperts)
    }
    return found, made


def both(names):
    return {(i, name) for i in range(2) for name in names}


ON_WEIGHTS = [name for name, m in sorted(METHODS.items()) if m.sits_on == "weight" and not m().shared]


@pytest.mark.parametrize("name", ON_WEIGHTS)
def test_default_modules_of_methods_on_weights_reach_experts(name):
    assert taken(SubspaceConfig(method=name))[0] == both(BY_PLACES[METHODS[name].places])


def test_biases_of_experts_are_biases():
    assert taken(SubspaceConfig(method=BitFit()), "gpt_oss")[0] == both({GATE_UP, DOWN})


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_all_linear_and_names_and_parameters_reach_experts(name):
    assert taken(SubspaceConfig(method="lora", target_modules="all-linear"), name)[0] == both({GATE_UP, DOWN})
    for said in ({"target_parameters": ["experts.down_proj"]}, {"target_modules": ["experts.down_proj"]}):
        assert taken(SubspaceConfig(method="lora", **said), name)[0] == both({DOWN})


@pytest.mark.parametrize("said", [None, ["experts.gate_up_proj"]])
def test_layers_and_exclusions_hold_for_experts(said):
    found, _ = taken(SubspaceConfig(method="ssb", target_modules=said, layers_to_transform=[1]))
    assert {i for i, _ in found} == {1}
    if said is None:
        config = SubspaceConfig(method="lora", exclude_modules=["experts.down_proj"])
        made = put_on(model(), config)
        assert {m for m in made.targeted_module_names if "expert" in m} == {
            f"model.layers.{i}.{GATE_UP}" for i in (0, 1)
        }
        with pytest.raises(BadInput, match=r"'experts\.dwn_proj' matches no"):
            put_on(model(), SubspaceConfig(method="lora", exclude_modules=["experts.dwn_proj"]))


@pytest.mark.parametrize("said", [None, "all-linear"])
def test_what_sits_on_outputs_leaves_experts_out_and_says_so(said):
    with pytest.warns(UserWarning, match=r"left out: .*experts.down_proj 2 x 24 x 16.* where houlsby finds no seat"):
        assert taken(SubspaceConfig(method="houlsby", target_modules=said))[0] == set()


def test_budgets_count_all_experts():
    made = taken(SubspaceConfig(method="lora", r=2, target_modules=["experts.gate_up_proj"]))[1]
    counts = count(made)
    assert counts.trainable == 2 * 2 * 2 * (16 + 48)  # blocks, experts, r (n + m)
    assert counts.total == sum(p.numel() for p in model().parameters())
