"""Embeddings that scale what they give, and those that look up something else than their inputs."""

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers.models.bart.modeling_bart import BartLearnedPositionalEmbedding, BartScaledWordEmbedding
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from cases import SINGLE, each
from subspace_tuning import LoRA, SubspaceConfig
from subspace_tuning.testing import laws  # noqa: F401  (fills LAWS)
from subspace_tuning.testing.kinds import Kind
from subspace_tuning.testing.law import LAWS
from subspace_tuning.weights import Unsupported


def scaled(name, make):
    def rows(layer, x):
        return 3.0 * nn.functional.one_hot(x, 17).to(layer.weight.dtype)

    return Kind(name, lambda: make(17, 10, 16, 3.0), lambda b: torch.randint(17, (b, 5)), lambda f: f.weight, rows)


KINDS = [scaled("gemma", Gemma3TextScaledWordEmbedding), scaled("bart", BartScaledWordEmbedding)]


@each(kind=KINDS, law=["forward_is_the_dense_truth", "merged_weight_is_the_dense_truth"])
def test_every_method_on_scaled_embeddings(kind, law):
    for instance in LAWS[law].instances(SINGLE if kind is KINDS[0] else SINGLE[::8], [kind]):
        instance.holds()


def test_an_embedding_with_a_forward_of_its_own_is_refused():
    net = nn.Sequential(BartLearnedPositionalEmbedding(9, 8))
    with pytest.raises(Unsupported, match="BartLearnedPositionalEmbedding does not look up its inputs"):
        get_peft_model(net, SubspaceConfig(method=LoRA(r=2), target_modules=["0"]))
