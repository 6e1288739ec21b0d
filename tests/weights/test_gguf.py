"""A model that transformers reads from a GGUF file is tuned and merged as any other."""

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaForCausalLM

from cases import each
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.methods import DoRA, PiSSA
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer

WIDTH, HEADS, WORDS = 64, 2, 40
MATRICES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file with one block in codes of eight bits."""
    gguf = pytest.importorskip("gguf")
    where = tmp_path_factory.mktemp("gguf")
    file = gguf.GGUFWriter(where / "model.gguf", "llama")
    for add, value in (
        (file.add_context_length, 32),
        (file.add_embedding_length, WIDTH),
        (file.add_block_count, 1),
        (file.add_feed_forward_length, WIDTH),
        (file.add_head_count, HEADS),
        (file.add_head_count_kv, HEADS),
        (file.add_layer_norm_rms_eps, 1e-5),
        (file.add_rope_dimension_count, WIDTH // HEADS),
        (file.add_vocab_size, WORDS),
    ):
        add(value)
    shapes = {"token_embd": (WORDS, WIDTH), "output": (WORDS, WIDTH)}
    shapes |= {f"blk.0.{name}": (WIDTH, WIDTH) for name in MATRICES}
    torch.manual_seed(0)
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.Q8_0
        codes = gguf.quants.quantize((0.2 * torch.randn(shape)).numpy(), kind)
        file.add_tensor(f"{name}.weight", codes, raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        file.add_tensor(f"{name}.weight", torch.ones(WIDTH).numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return where


@each(method=[LoRA(r=2), SSB(), DoRA(r=2), PiSSA(r=2)])
def test_a_model_from_a_gguf_file_trains_and_merges(method, folder):
    base = LlamaForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.arange(12).reshape(2, 6)
    torch.manual_seed(1)
    model = get_peft_model(base, SubspaceConfig(method=method, target_modules="all-linear", init_weights=False))
    assert sum(isinstance(m, SubspaceLayer) for m in model.modules()) == len(MATRICES)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        want = model.eval()(ids).logits
        assert relative(model.merge_and_unload()(ids).logits, want) < 1e-4
