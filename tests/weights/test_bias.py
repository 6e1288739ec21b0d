"""Biases of every kind of layer are added where the layer adds its own, and nothing else called bias counts."""

import copy
import warnings

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import nn

from cases import each
from subspace_tuning import BitFit, LoRA, SubspaceConfig
from subspace_tuning.testing.cases import adapter_parameters
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.weights import Unsupported, weight_of

CARRIERS = {
    "linear": (nn.Linear(4, 6), (2, 5, 4)),
    "layer norm": (nn.LayerNorm(6), (2, 5, 6)),
    "layer norm over two dimensions": (nn.LayerNorm((5, 6)), (2, 3, 5, 6)),
    "batch norm of rows": (nn.BatchNorm1d(6), (4, 6)),
    "batch norm of sequences": (nn.BatchNorm1d(6), (4, 6, 5)),
    "batch norm of images": (nn.BatchNorm2d(6), (4, 6, 5, 3)),
    "group norm": (nn.GroupNorm(2, 6), (2, 6, 5)),
    "instance norm": (nn.InstanceNorm2d(6, affine=True), (2, 6, 5, 3)),
    "conv 1d": (nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv 1d without a batch": (nn.Conv1d(4, 6, 3), (4, 9)),
    "conv 2d": (nn.Conv2d(4, 6, 3), (2, 4, 6, 7)),
    "conv 2d in groups": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 7)),
    "conv 2d around a circle": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 7)),
    "conv 3d": (nn.Conv3d(4, 6, 2), (2, 4, 3, 4, 5)),
    "transposed conv": (nn.ConvTranspose1d(4, 6, 3), (2, 4, 9)),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), (2, 4, 9)),
}


@each(name=list(CARRIERS), training=[False, True])
def test_a_bias_is_added_where_the_layer_adds_it(name, training):
    plain, shape = CARRIERS[name]
    plain, x = copy.deepcopy(plain), torch.randn(shape)
    layer = SubspaceLayer(copy.deepcopy(plain)).train(training)
    layer.add("default", BitFit(), init_weights=False)
    delta = layer.subspace_params["default"]["delta"]
    with torch.no_grad():
        plain.bias.add_(delta.view_as(plain.bias))
    want = plain.train(training)(x)
    torch.testing.assert_close(layer(x), want)
    layer.merge()
    torch.testing.assert_close(layer.base_layer.bias, plain.bias)
    layer.unmerge()
    layer(x).square().sum().backward()
    assert delta.grad.abs().min() > 0


@each(name=list(CARRIERS))
def test_what_owners_read_of_a_carrier_is_still_there(name):
    plain, _ = CARRIERS[name]
    layer = SubspaceLayer(copy.deepcopy(plain))
    layer.add("default", BitFit())
    shown = [key for key in vars(plain) if not key.startswith("_") and key not in vars(layer)]
    assert {"eps", "kernel_size", "in_features"} & {*shown}
    assert all(getattr(layer, key) == getattr(plain, key) for key in shown)


def test_masks_and_biases_of_unknown_use_are_none():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(3, 3, bias=False)
            del self._parameters["bias"]
            self.register_buffer("bias", torch.ones(3, 3).tril())

    class Router(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.zeros(2))

    with pytest.raises(Unsupported, match="what its bias is added to is not known"):
        weight_of(Router())
    with pytest.raises(Unsupported, match="this LayerNorm holds none"):
        SubspaceLayer(nn.LayerNorm(4)).add("default", LoRA(r=2))
    net = nn.ModuleDict({"masked": Masked(), "router": Router()})
    with pytest.raises(ValueError, match="has no bias outside its head"):
        get_peft_model(net, SubspaceConfig(method="bitfit"))


TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
AUDIO = {"conv_dim": (8, 8), "conv_stride": (2, 2), "conv_kernel": (3, 3), "num_conv_pos_embeddings": 4}


def made(kind, **values):
    config = getattr(hf, f"{kind}Config")(**values)
    return getattr(hf, f"{kind}Model")(config)


ids = torch.randint(4, 40, (2, 6))
image = torch.randn(2, 3, 32, 32)
SWEEP = {
    "GPTNeo": (
        {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "vocab_size": 40,
            "intermediate_size": 24,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 16,
        },
        {"input_ids": ids},
    ),
    "GPTBigCode": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 40}, {"input_ids": ids}),
    "GPTNeoX": (TEXT, {"input_ids": ids}),
    "Albert": ({**TEXT, "embedding_size": 8}, {"input_ids": ids}),
    "Bert": (TEXT, {"input_ids": ids}),
    "Deberta": (TEXT, {"input_ids": ids}),
    "MobileBert": (
        {**TEXT, "embedding_size": 16, "intra_bottleneck_size": 8, "true_hidden_size": 8},
        {"input_ids": ids},
    ),
    "OPT": (
        {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "ffn_dim": 24,
            "vocab_size": 40,
            "word_embed_proj_dim": 16,
            "max_position_embeddings": 32,
        },
        {"input_ids": ids},
    ),
    "Bloom": ({"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40}, {"input_ids": ids}),
    "Phi": (TEXT, {"input_ids": ids}),
    "GptOss": (
        {**TEXT, "num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
        {"input_ids": ids},
    ),
    "ResNet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, {"pixel_values": image}),
    "ConvNext": ({"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, {"pixel_values": image}),
    "MobileNetV2": ({"depth_multiplier": 0.25}, {"pixel_values": image}),
    "ViT": ({**TEXT, "image_size": 32, "patch_size": 16}, {"pixel_values": image}),
    "Wav2Vec2": (
        {**TEXT, **AUDIO, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "group", "conv_bias": True},
        {"input_values": torch.randn(2, 400)},
    ),
    "Hubert": ({**TEXT, **AUDIO, "num_conv_pos_embedding_groups": 2}, {"input_values": torch.randn(2, 400)}),
    "Whisper": (
        {
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "vocab_size": 40,
            "num_mel_bins": 4,
            "max_source_positions": 8,
            "max_target_positions": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        {"input_features": torch.randn(2, 4, 16), "decoder_input_ids": ids},
    ),
}


def output(model, inputs):
    given = model(**inputs)
    return torch.cat([given[0].flatten(), getattr(given, "pooler_output", given[0][:0]).flatten()])


@each(kind=list(SWEEP))
def test_bitfit_sits_trains_and_merges_on_every_architecture(kind):
    shape, inputs = SWEEP[kind]
    base = made(kind, **shape)
    model = get_peft_model(base, SubspaceConfig(method=BitFit(), init_weights=False))
    biases = adapter_parameters(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output(model.train(), inputs).float().square().mean().backward()
    assert all(p.grad is not None for p in biases.values()), [k for k, p in biases.items() if p.grad is None]
    torch.optim.SGD(biases.values(), lr=0.1).step()
    with torch.no_grad():
        want = output(model.eval(), inputs)
        assert want.isfinite().all()
        merged = output(model.merge_and_unload(), inputs)
    assert relative(merged, want) < 1e-5
