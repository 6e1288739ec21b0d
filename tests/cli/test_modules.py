"""What `subspace modules` prints: blocks as trees, what each weight is for, who goes there, what is tied."""

import json

import pytest

from command import subspace
from model_types import ARCHITECTURES

TREES = {
    "gpt2": """\
gpt2
transformer.h.0, one of 2 that are alike
        name               role             W: n x m  kinds of place
|-- attention
|   |-- attn.c_attn        query+key+value  16 x 48   all, biases; its columns: query 16, key 16, value 16
|   |-- attn.c_attn.query  query            16 x 16   query_value
|   |-- attn.c_attn.key    key              16 x 16   key_value_ff
|   |-- attn.c_attn.value  value            16 x 16   key_value_ff, query_value
|   `-- attn.c_proj        output           16 x 16   all, sublayer_outputs, biases
`-- feed-forward
    |-- mlp.c_fc           up               16 x 64   key_value_ff, all, biases
    `-- mlp.c_proj         down             64 x 16   all, sublayer_outputs, ff_output, biases
head, trained whole or not at all: lm_head
tied, the same numbers: transformer.wte.weight, lm_head.weight
""",
    "qwen2_moe": """\
qwen2_moe
model.layers.0, one of 2 that are alike
        name                         role     W: n x m     kinds of place
|-- attention
|   |-- self_attn.q_proj             query    16 x 16      query_value, all, biases
|   |-- self_attn.k_proj             key      16 x 8       key_value_ff, all, key, biases
|   |-- self_attn.v_proj             value    16 x 8       key_value_ff, query_value, all, biases
|   `-- self_attn.o_proj             output   16 x 16      all, sublayer_outputs
|-- feed-forward
|   |-- mlp.shared_expert.gate_proj  gate     16 x 12      all
|   |-- mlp.shared_expert.up_proj    up       16 x 12      key_value_ff, all
|   `-- mlp.shared_expert.down_proj  down     12 x 16      all, sublayer_outputs, ff_output
|-- other
|   `-- mlp.shared_expert_gate       -        16 x 1       none: only when named
|-- experts
|   |-- mlp.experts.gate_up_proj     gate+up  2 x 16 x 24  key_value_ff, all; its columns: gate 12, up 12; one \
parameter of all experts
|   `-- mlp.experts.down_proj        down     2 x 12 x 16  all; one parameter of all experts
`-- beside them
    `-- mlp.gate.weight              -        2 x 16       a parameter of no layer: no method sits there
head, trained whole or not at all: lm_head
""",
    "vit": """\
vit
vit.layers.0, one of 2 that are alike
        name              role    W: n x m  kinds of place
|-- attention
|   |-- attention.q_proj  query   16 x 16   query_value, all, biases
|   |-- attention.k_proj  key     16 x 16   key_value_ff, all, key, biases
|   |-- attention.v_proj  value   16 x 16   key_value_ff, query_value, all, biases
|   `-- attention.o_proj  output  16 x 16   all, sublayer_outputs, biases
`-- feed-forward
    |-- mlp.fc1           up      16 x 24   key_value_ff, all, biases
    `-- mlp.fc2           down    24 x 16   all, sublayer_outputs, ff_output, biases
head, trained whole or not at all: classifier
""",
    "t5": """\
t5
encoder.block.0, one of 2 that are alike
        name                                           role    W: n x m  kinds of place
|-- attention
|   |-- layer.0.SelfAttention.q                        query   16 x 16   query_value, all
|   |-- layer.0.SelfAttention.k                        key     16 x 16   key_value_ff, all, key
|   |-- layer.0.SelfAttention.v                        value   16 x 16   key_value_ff, query_value, all
|   `-- layer.0.SelfAttention.o                        output  16 x 16   all, sublayer_outputs
|-- feed-forward
|   |-- layer.1.DenseReluDense.wi                      up      16 x 24   key_value_ff, all
|   `-- layer.1.DenseReluDense.wo                      down    24 x 16   all, sublayer_outputs, ff_output
`-- beside them
    `-- layer.0.SelfAttention.relative_attention_bias  -       32 x 2    none: only when named, in 1 of 2
decoder.block.0, one of 2 that are alike
        name                                           role    W: n x m  kinds of place
|-- attention
|   |-- layer.0.SelfAttention.q                        query   16 x 16   query_value, all
|   |-- layer.0.SelfAttention.k                        key     16 x 16   key_value_ff, all, key
|   |-- layer.0.SelfAttention.v                        value   16 x 16   key_value_ff, query_value, all
|   `-- layer.0.SelfAttention.o                        output  16 x 16   all, sublayer_outputs
|-- cross-attention
|   |-- layer.1.EncDecAttention.q                      query   16 x 16   query_value, all
|   |-- layer.1.EncDecAttention.k                      key     16 x 16   key_value_ff, all
|   |-- layer.1.EncDecAttention.v                      value   16 x 16   key_value_ff, query_value, all
|   `-- layer.1.EncDecAttention.o                      output  16 x 16   all, sublayer_outputs
|-- feed-forward
|   |-- layer.2.DenseReluDense.wi                      up      16 x 24   key_value_ff, all
|   `-- layer.2.DenseReluDense.wo                      down    24 x 16   all, sublayer_outputs, ff_output
`-- beside them
    `-- layer.0.SelfAttention.relative_attention_bias  -       32 x 2    none: only when named, in 1 of 2
head, trained whole or not at all: lm_head
tied, the same numbers: shared.weight, encoder.embed_tokens.weight, decoder.embed_tokens.weight, lm_head.weight
""",
}


def printed(name, folder):
    model = ARCHITECTURES[name].model(name)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config))
    code, out, err = subspace("modules", folder / "config.json")
    assert code == 0, err
    return out.split("\n\n")


@pytest.mark.parametrize("name", TREES)
def test_the_tree_says_roles_shapes_who_goes_where_and_what_is_tied(name, tmp_path):
    tree, _ = printed(name, tmp_path)
    assert tree + "\n" == TREES[name]


def test_below_it_stands_what_to_name_for_each_kind_of_place(tmp_path):
    _, told = printed("bert", tmp_path)
    first, *kinds = told.splitlines()
    assert first == "What methods take when nothing is named (--json names all of them):"
    said = {line.split()[0]: line.rpartition(": ")[2] for line in kinds}
    assert said["key_value_ff"] == (
        "target_modules=['attention.self.key', 'attention.self.value', 'intermediate.dense']"
    )
    assert said["ff_output"] == r'target_modules=r"(.*\.)?(bert\.encoder\.layer\.\d+\.output\.dense)"'
    assert said["biases"] == "every layer outside the head that has a bias"


def test_layers_that_differ_by_a_number_are_told_once(tmp_path):
    tree, _ = printed("switch_transformers", tmp_path)
    assert tree.count("layer.*.mlp.experts.expert_*.wi  up") == 2  # of the encoder and of the decoder
    assert "expert_0" not in tree


def test_where_no_role_is_known_it_says_what_can_be_named(tmp_path):
    tree, told = printed("resnet", tmp_path)
    assert "|-- layers.0.layer.1.convolution  -     18 x 2    none: only when named" in tree
    assert told.startswith("no default modules of the kind key_value_ff are found in resnet: its blocks hold layers.0.")
