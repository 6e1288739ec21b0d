"""Keywords of PEFT's LoraConfig: understood where they mean something here, else answered with what to write."""

import pytest
from peft import LoraConfig

from cases import each
from subspace_tuning import LoRA, SubspaceConfig
from subspace_tuning.methods import AdaLoRA, DoRA


def test_they_are_understood():
    said = {"r": 4, "lora_alpha": 32, "lora_dropout": 0.1, "use_rslora": True, "bias": "none", "fan_in_fan_out": True}
    assert SubspaceConfig(method="lora", **said).method == LoRA(r=4, alpha=32, dropout=0.1, rank_stabilized=True)
    assert SubspaceConfig(method="lora", use_dora=True, lora_alpha=4).method == DoRA(alpha=4)
    assert SubspaceConfig(method="adalora", target_r=4, init_r=6, deltaT=5).method == AdaLoRA(r=4, init_r=6, delta_t=5)
    assert not SubspaceConfig(method="lora", init_lora_weights=False).init_weights


@each(start=["pissa", "olora", "eva", "corda", "lora_ga", "pissa_niter_16"])
def test_starts_are_understood(start):
    name = {"olora": "orthogonal", "pissa_niter_16": "pissa"}.get(start, start)
    assert SubspaceConfig(method="lora", init_lora_weights=start).method == LoRA(init=name)


def test_every_default_of_loras_config_is_understood():
    own = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
    own |= {"inference_mode", "runtime_config", "megatron_config", "megatron_core", "qalora_group_size"}
    own |= {"velora_config", "monteclora_config", "arrow_config", "kasa_config"}
    values = {k: v for k, v in vars(LoraConfig()).items() if k not in own and not k.startswith("_")}
    assert SubspaceConfig(method="lora", **values).method == LoRA(r=8, alpha=8)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"bias": "all"}, r"'lora\|bitfit' for both at once"),
        ({"bias": "lora_only"}, r"'lora\|bitfit'"),
        ({"trainable_token_indices": [1, 2]}, "modules_to_save"),
        (
            {"target_parameters": ["experts.gate_up_proj"], "target_modules": "all-linear"},
            "leave target_parameters out",
        ),
        ({"layer_replication": [(0, 2)]}, "replicate the layers"),
        ({"init_lora_weights": "gaussian"}, "here init is one of pissa, orthogonal"),
        ({"alhpa": 3}, "did you mean 'alpha'"),
    ],
)
def test_what_has_no_counterpart_names_ours(said, told):
    with pytest.raises(ValueError, match=told):
        SubspaceConfig(method="lora", **said)
    with pytest.raises(ValueError, match=told if "alhpa" not in said else "along with its name"):
        SubspaceConfig(method=LoRA(), **said)


def test_a_field_that_the_method_lacks_is_named():
    with pytest.raises(ValueError, match="has no field 'alpha'"):
        SubspaceConfig(method="ssb", lora_alpha=3)
    with pytest.raises(ValueError, match="say method='dora' instead of 'ssb'"):
        SubspaceConfig(method="ssb", use_dora=True)
