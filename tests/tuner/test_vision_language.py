"""Models that see and write: methods sit on the part that writes, unless other modules are named."""

import pytest
import transformers as hf
from peft import get_peft_model

from subspace_tuning import SubspaceConfig


@pytest.mark.parametrize("method", ["ssb", "lora"])
def test_by_default_a_method_sits_on_the_language_tower(method):
    positions = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    writes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    writes |= {"intermediate_size": 24, "vocab_size": 40, "rope_parameters": positions}
    sees = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 16}
    config = hf.Qwen2_5_VLConfig(text_config=writes, vision_config=sees | {"patch_size": 4})
    model = get_peft_model(hf.Qwen2_5_VLForConditionalGeneration(config), SubspaceConfig(method=method))
    names = model.base_model.targeted_module_names
    assert names
    assert all(name.startswith("model.language_model.layers.") for name in names)
