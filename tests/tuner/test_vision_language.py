"""Models that see and write: methods sit on the part that writes, unless other modules are named."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
import transformers as hf
from peft import PeftModel, get_peft_model

import tiny
from subspace_tuning import SubspaceConfig

PICTURE, START = 10, 11  # tokens: a part of a picture, and that one begins
PATCHES = 16  # of a picture, four of which are one token


def model():
    positions = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    writes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    writes |= {"intermediate_size": 24, "vocab_size": 40, "rope_parameters": positions}
    sees = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 16}
    marks = {"image_token_id": PICTURE, "vision_start_token_id": START, "vision_end_token_id": 12, "video_token_id": 13}
    torch.manual_seed(0)
    config = hf.Qwen2_5_VLConfig(text_config=writes, vision_config=sees | {"patch_size": 4}, **marks)
    made = hf.Qwen2_5_VLForConditionalGeneration(config)
    made.lm_head.weight.data *= 40  # which is frozen: it must be able to say something
    return made


@pytest.mark.parametrize("method", ["ssb", "lora"])
def test_by_default_a_method_sits_on_the_language_tower(method):
    found = get_peft_model(model(), SubspaceConfig(method=method))
    names = found.base_model.targeted_module_names
    assert names
    assert all(name.startswith("model.language_model.layers.") for name in names)


def rows(size):
    """A light or a dark picture, and the token that says which."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for i in range(size):
        light = i % 2
        ids = [START, *[PICTURE] * (PATCHES // 4), 12, 20 + light]
        noise = torch.randn(PATCHES, 3 * 2 * 4 * 4, generator=draws) / 9
        found.append(
            {"input_ids": ids, "labels": [-100] * 6 + [20 + light], "pixel_values": (noise + 2 * light - 1).tolist()}
        )
    return found


def collate(batch):
    tensors = {key: torch.tensor([row[key] for row in batch]) for key in ("input_ids", "labels", "pixel_values")}
    grids = torch.tensor([[1, 4, 4]] * len(batch))
    seen = (tensors["input_ids"] == PICTURE).long()
    return {
        **tensors,
        "attention_mask": torch.ones_like(tensors["input_ids"]),
        "pixel_values": tensors["pixel_values"].flatten(0, 1),
        "image_grid_thw": grids,
        "mm_token_type_ids": seen,
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", ["ssb", "lora"])
def test_trl_trains_the_language_tower_on_pictures(method, tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    args = trl.SFTConfig(
        str(tmp_path / "run"),
        learning_rate=0.05,
        max_steps=30,
        per_device_train_batch_size=8,
        **{"bf16": False, "report_to": "none", "save_strategy": "no", "remove_unused_columns": False},
        **{"dataset_kwargs": {"skip_prepare_dataset": True}, "gradient_checkpointing": False},
    )
    trainer = trl.SFTTrainer(
        model=model(),
        args=args,
        train_dataset=Dataset.from_list(rows(32)),
        data_collator=collate,
        processing_class=hf.AutoTokenizer.from_pretrained(tiny.model(tmp_path / "tokenizer")),
        peft_config=SubspaceConfig(method=method, task_type="CAUSAL_LM"),
    )
    tower = {name: p.clone() for name, p in trainer.model.named_parameters() if "visual" in name}
    batch = collate(rows(8))
    with torch.no_grad():
        before = trainer.model.eval()(**batch).loss.item()
    trainer.train()
    with torch.no_grad():
        want = trainer.model.eval()(**batch)
    assert want.loss < before
    if method == "lora":  # scales of a random base cannot say all
        assert want.loss < 0.35, "log 2 = 0.69 is what one and the same answer to every picture comes to"
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".language_model.layers." in name for name in trained)
    assert all(torch.equal(p, tower[name]) for name, p in trainer.model.named_parameters() if name in tower)
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(model(), tmp_path / "adapter").eval()
    merged = loaded.merge_and_unload() if method == "ssb" else loaded
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, want.logits, atol=1e-4, rtol=1e-4)
