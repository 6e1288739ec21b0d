"""What merging into a quantised base would keep is told truly, beforehand, and nothing is changed by asking."""

import copy
import json
import warnings

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from cases import each
from quantised import QUANTISED
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.cli import app
from subspace_tuning.convert import merge_certificate
from subspace_tuning.convert.certificate import CERTIFICATE
from subspace_tuning.convert.layers import seats
from subspace_tuning.convert.probe import answers, differences, probe
from subspace_tuning.weights import weight_of

TARGETS = ["q_proj", "down_proj"]


def llama():
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**shape, vocab_size=40, max_position_embeddings=32)).eval()


def tuned(base, method, size):
    """The model with an adapter that changes each weight by about this share of its norm."""
    model = get_peft_model(base, SubspaceConfig(method=method, target_modules=TARGETS, init_weights=False)).eval()
    for layer in seats(model).values():
        W, E = layer.frozen.dense(), layer.tuned(["default"]).E.dense()
        share = (size * W.norm() / (E - W).norm()).item()
        for p in layer.subspace_params["default"].values():
            p.data.mul_(share ** (1 / len(layer.subspace_params["default"])))
    return model.requires_grad_(False)


@pytest.fixture(scope="module", params=QUANTISED)
def quantised(request):
    """Makes a language model whose tuned layers are quantised."""

    def make():
        model = llama()
        for name in [name for name, _ in model.named_modules() if name.rpartition(".")[2] in TARGETS]:
            model.set_submodule(name, request.param(model.get_submodule(name)))
        return model

    return make


def numbers(model):
    return {
        k: v.dequantize() if hasattr(v, "dequantize") and type(v) is not torch.Tensor else copy.deepcopy(v)
        for k, v in model.state_dict().items()
        if isinstance(v, torch.Tensor)
    }


@each(method=[LoRA(r=2), SSB()])
def test_a_merge_keeps_what_was_foretold(quantised, method):
    model = tuned(quantised(), method, 0.5)
    layers, inputs = seats(model), probe(model)
    before, was = answers(model, inputs), numbers(model)
    told = merge_certificate(model)
    torch.testing.assert_close(numbers(model), was, rtol=0, atol=0)
    W = {name: layer.frozen.dense().double() for name, layer in layers.items()}
    dW = {name: layer.tuned(["default"]).E.dense().double() - W[name] for name, layer in layers.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.merge_adapter()
    assert told.layers.keys() == layers.keys()
    for name, layer in layers.items():
        left = weight_of(layer.base_layer).dense().double() - W[name]
        assert told.layers[name].error == pytest.approx(((left - dW[name]).norm() / dW[name].norm()).item(), rel=0.02)
        assert 0 < told.layers[name].codes <= 1
    assert told.logits.mean == pytest.approx(differences(before, answers(model, inputs)).mean, rel=0.02)
    assert not told.exact
    assert not told.refused


def test_a_change_below_the_steps_of_the_codes_would_be_refused(quantised):
    told = merge_certificate(tuned(quantised(), LoRA(r=2), 1e-4))
    assert told.largest_error > 0.5
    assert "quantised layers would lose more than 0.5 of their change" in told.refused
    for way in ("16 or 32 bits", "keep the adapter", "--to lora --rank N", "--max-error"):
        assert way in told.refused


def test_a_bias_alone_leaves_the_codes_as_they_are(quantised):
    base = quantised()
    layer = base.model.layers[0].self_attn.q_proj
    layer.bias = torch.nn.Parameter(torch.zeros(64))
    model = get_peft_model(base, SubspaceConfig(method="bitfit", target_modules=["q_proj"], layers_to_transform=[0]))
    seats(model)["model.layers.0.self_attn.q_proj"].subspace_params["default"]["delta"].data.fill_(1.0)
    told = merge_certificate(model)
    assert [(one.error, one.codes) for one in told.layers.values()] == [(0, 0)]
    assert told.moved.mean > 1e-4


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    """A model that is stored in 8 bits, with an adapter."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    folder = tmp_path_factory.mktemp("quantised")
    llama().save_pretrained(folder / "plain")
    eight = BitsAndBytesConfig(load_in_8bit=True)
    base = AutoModelForCausalLM.from_pretrained(folder / "plain", quantization_config=eight, device_map="cpu")
    base.save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", device_map="cpu")
    for name, size in (("large", 0.5), ("small", 1e-4)):
        tuned(copy.deepcopy(base), LoRA(r=2), size).save_pretrained(folder / name)
        config = json.loads((folder / name / "adapter_config.json").read_text())
        (folder / name / "adapter_config.json").write_text(
            json.dumps(config | {"base_model_name_or_path": str(folder / "base")})
        )
    return folder


def run(*args):
    return CliRunner().invoke(app, list(map(str, args)))


def test_the_commands_tell_refuse_and_write(int8, tmp_path):
    large, small, out = int8 / "large", int8 / "small", tmp_path / "out"
    told = run("export", large, out, "--to", "merged", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "of the codes changed  model.layers.0.self_attn.q_proj" in told.output
    assert "nothing is written\n" in told.output
    told = run("export", small, out, "--to", "merged", "--dry-run", "--json")
    assert "would lose more" in json.loads(told.stdout)["refused"]
    refused = run("export", small, out, "--to", "merged")
    assert refused.exit_code == 2
    assert "would lose more than 0.5" in " ".join(refused.output.split())
    assert not out.exists()
    assert run("export", small, out, "--to", "lora", "--rank", 2, "--dry-run").exit_code == 2
    written = run("export", large, out, "--to", "merged")
    assert written.exit_code == 0, written.output
    certificate = json.loads((out / CERTIFICATE).read_text())
    again = AutoModelForCausalLM.from_pretrained(out, device_map="cpu")
    assert type(again.model.layers[0].self_attn.q_proj.weight).__name__ == "Int8Params"
    assert certificate["logits"]["mean"] < 0.5 * certificate["moved"]["mean"]
    allowed = run("combine", small, large, "--out", tmp_path / "both", "--to", "merged", "--max-error", 2)
    assert allowed.exit_code == 0, allowed.output
