"""How long a row of texts may be, architecture by architecture."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

import tiny
from subspace_tuning.tasks import task_of
from subspace_tuning.tasks.texts import positions

SMALL = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
WITH_A_TABLE = {
    "bert": {},
    "electra": {"embedding_size": 8},
    "roberta": {"pad_token_id": 1},
    "mpnet": {"pad_token_id": 1},
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8},
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 18},
    "opt": {"ffn_dim": 8, "word_embed_proj_dim": 8, "pad_token_id": 1},
    "bart": {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    | {"encoder_attention_heads": 2, "decoder_attention_heads": 2},
}


@pytest.mark.parametrize("kind", WITH_A_TABLE)
def test_a_model_reads_as_many_tokens_as_it_has_positions_and_no_more(kind):
    config = AutoConfig.for_model(kind, **SMALL, max_position_embeddings=18, **WITH_A_TABLE[kind])
    model = AutoModel.from_config(config).eval()
    room = positions(model)
    assert room in (16, 18)
    ids = torch.full((1, room + 1), 5)
    model(input_ids=ids[:, :room])
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids)


@pytest.mark.parametrize(("kind", "more"), [("llama", {}), ("t5", {"d_model": 8, "num_layers": 1})])
def test_computed_positions_have_no_end(kind, more):
    assert positions(AutoModel.from_config(AutoConfig.for_model(kind, **SMALL, **more))) is None


# --- what looks like a special token --------------------

MARKED = {
    "classification": ({"labels": ["a", "b"]}, "{} film"),
    "ranking": ({}, "a\t{} film"),
    "similarity": ({}, "{} a\tfilm {}"),
    "token_classification": ({"labels": ["a", "b"]}, "the {} film"),
    "question_answering": ({}, "a {}\tthe {} film"),
    "seq2seq": ({"prefix": "{} "}, "the {} film"),
}


@pytest.mark.parametrize("kind", MARKED)
@pytest.mark.parametrize("mark", ["[SEP]", "[CLS]", "[PAD]"])
def test_what_looks_like_a_special_token_is_a_text(tmp_path, kind, mark):
    """As many of the tokenizer's own in a row's inputs, whatever stands in its texts."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.model(tmp_path))
    fields, line = MARKED[kind]
    own = {tokenizer.convert_tokens_to_ids(token) for token in ("[SEP]", "[CLS]", "[PAD]")}

    def marks(word):
        task = task_of(kind, {key: v.format(word) if isinstance(v, str) else v for key, v in fields.items()})
        (inputs,) = task.encode(task.questions([line.format(word, word)], ["a"]), tokenizer, None)
        sides = [inputs["input_ids"], inputs.get("second", inputs)["input_ids"]]
        return [[token for token in side if token in own] for side in sides]

    assert marks(mark) == marks("film")
