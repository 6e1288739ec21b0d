"""Bits per byte are those of the plain computation, in windows too, and the same whatever the batches."""

import math

import numpy as np
import peft
import pytest
import torch

import tiny_lm
from subspace_tuning.errors import BadInput
from subspace_tuning.judge import BitsPerByte
from subspace_tuning.judge.bits_per_byte import _windows

ROWS = [
    {"prompt": "the cat", "completion": " sat on thé"},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no cat"}]},
    {"text": "the cat sat"},
]


def _nats(model, tokenizer, before: str, answer: str) -> float:
    ids = tokenizer.encode(before) + tokenizer.encode(answer)
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(tokenizer.encode(before))
    return -sum(log_probs[at - 1, ids[at]].item() for at in range(start, len(ids)))


@pytest.mark.parametrize("batch_tokens", [1, 30, 4096])
def test_bits_are_those_of_the_plain_computation(batch_tokens):
    model, tokenizer = tiny_lm.model(), tiny_lm.tokenizer()
    verdict = BitsPerByte(batch_tokens=batch_tokens)(model, tokenizer, records=ROWS)
    written = [("the cat", " sat on thé"), ("<|user|>q<eos>\n<|assistant|>", "no cat"), ("<eos>", "the cat sat")]
    nats = [_nats(model, tokenizer, *row) for row in written]
    sizes = [len(answer.encode()) for _, answer in written]
    bits = [n / math.log(2) / size for n, size in zip(nats, sizes, strict=True)]
    assert verdict.per_row["bits_per_byte"] == pytest.approx(bits, abs=1e-4)
    assert verdict.value == pytest.approx(sum(nats) / math.log(2) / sum(sizes), abs=1e-4)
    tokens = sum(len(tokenizer.encode(answer)) for _, answer in written)
    assert verdict.metrics["loss"] == pytest.approx(sum(nats) / tokens, abs=1e-4)
    assert not verdict.greater_is_better


def test_a_model_that_says_nothing_needs_the_bits_of_its_vocabulary():
    model, tokenizer = tiny_lm.model(), tiny_lm.tokenizer()
    torch.nn.init.zeros_(model.lm_head.weight)
    verdict = BitsPerByte()(model, tokenizer, records=[{"text": "xyz"}])
    assert verdict.value == pytest.approx(math.log2(320), abs=1e-5)


@pytest.mark.parametrize("length", [3, 8, 9, 12, 13, 100])
def test_windows_judge_each_token_once_with_half_a_window_before_it(length):
    asked = np.arange(length) >= 2
    seen = []
    for piece in _windows(np.arange(length), asked, 8):
        assert len(piece.ids) <= 8
        seen += piece.ids[piece.judged].tolist()
        first = piece.ids[piece.judged][0]
        assert first - piece.ids[0] >= min(4, first)
    assert seen == list(range(2, length))


def test_long_texts_are_read_in_windows_and_it_is_said():
    model, tokenizer = tiny_lm.model(max_position_embeddings=32), tiny_lm.tokenizer()
    text = "abcdefg hij" * 20
    verdict = BitsPerByte()(model, tokenizer, records=[{"text": text}, {"text": "the"}])
    assert verdict.notes == ("1 rows are longer than 32 tokens and were read in windows",)
    ids, nats = [1, *tokenizer.encode(text)], 0.0
    for end in (32, *range(48, len(ids) + 15, 16)):
        end = min(end, len(ids))
        window = ids[max(0, end - 32) : end]
        with torch.no_grad():
            log_probs = model(torch.tensor([window])).logits[0].log_softmax(-1)
        done = 1 if end == 32 else len(window) - (16 if end % 16 == 0 else end % 16)
        nats -= sum(log_probs[at - 1, window[at]].item() for at in range(done, len(window)))
    assert verdict.per_row["bits_per_byte"][0] == pytest.approx(nats / math.log(2) / len(text), abs=1e-4)


def test_an_adapter_is_judged_and_the_base_without_it():
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    base, tokenizer = tiny_lm.model(), tiny_lm.tokenizer()
    plain = BitsPerByte()(base, tokenizer, records=ROWS).value
    model = peft.get_peft_model(base, adapter)
    with model.disable_adapter():
        assert BitsPerByte()(model, tokenizer, records=ROWS).value == pytest.approx(plain, abs=1e-6)
    assert BitsPerByte()(model, tokenizer, records=ROWS).value != pytest.approx(plain, abs=1e-6)


def test_a_text_needs_something_to_begin_after():
    tokenizer = tiny_lm.tokenizer(eos_token=None)
    with pytest.raises(BadInput, match="neither a bos nor an eos"):
        BitsPerByte()(tiny_lm.model(), tokenizer, records=[{"text": "the"}])
    assert BitsPerByte()(tiny_lm.model(), tokenizer, records=[{"prompt": "a", "completion": "the"}]).rows == 1
