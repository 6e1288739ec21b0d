"""Log-probabilities read in trees are those of each sequence read alone, whatever the model and the batches."""

import numpy as np
import peft
import pytest
import torch
from torch import nn

import models
from subspace_tuning import SubspaceConfig
from subspace_tuning.judge.likelihood import Likelihood
from subspace_tuning.judge.ready import judged, limit_of
from subspace_tuning.judge.trie import Sequence, Trie

RNG = np.random.default_rng(0)


def _group(options: int = 4) -> list[Sequence]:
    """Sequences that share a beginning, and often more: few tokens make options that begin alike."""
    stem = RNG.integers(3, 40, RNG.integers(2, 9))
    tails = [RNG.integers(3, 6, RNG.integers(1, 5)) for _ in range(options)]
    return [
        Sequence(np.r_[stem, tail].astype(np.int32), np.arange(len(stem) + len(tail)) >= len(stem)) for tail in tails
    ]


GROUPS = [_group() for _ in range(7)] + [_group(1)]


def _alone(model: nn.Module, sequence: Sequence) -> np.ndarray:
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(sequence.ids)[None].long()).logits[0]
    logits = logits[logits.shape[0] - len(sequence.ids) :].float().log_softmax(-1)
    return np.array([logits[at - 1, sequence.ids[at]].item() for at in np.flatnonzero(sequence.judged)])


def _apart(model: nn.Module, read: Likelihood) -> float:
    with judged(model):
        found = read(GROUPS)
    pairs = (
        (one, got) for group, told in zip(GROUPS, found, strict=True) for one, got in zip(group, told, strict=True)
    )
    return max(np.abs(got - _alone(model, one)).max() for one, got in pairs)


@pytest.mark.parametrize("make", models.CAUSAL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_a_tree_says_what_each_sequence_says(make, batch_tokens):
    model = make()
    read = Likelihood(model, batch_tokens)
    assert _apart(model, read) < 1e-5
    assert read.shares


def test_a_prefix_is_computed_once():
    trie = Trie.of(_group())
    beginnings = {(one.ids[: end + 1].tobytes()) for one in GROUPS[0] for end in range(len(one.ids))}
    assert len(Trie.of(GROUPS[0])) == len(beginnings)
    assert (trie.parents < np.arange(len(trie))).all()
    assert (trie.sees().sum(1) == trie.depths[: trie.read] + 1).all()


def test_only_what_another_token_follows_is_read():
    """The last token of an option is asked for, and nothing is asked of what would come after it."""
    model = models.llama()
    seen = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(args[0].numel()))
    with judged(model):
        Likelihood(model).read([Trie.of(GROUPS[0])])
    assert seen == [len({one.ids[:end].tobytes() for one in GROUPS[0] for end in range(1, len(one.ids))})]


ADAPTERS = {
    "lora": peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"], init_lora_weights=False),
    "subspace": SubspaceConfig(method="ssb", task_type="CAUSAL_LM"),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_read_too(name):
    model = peft.get_peft_model(models.llama(), ADAPTERS[name])
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter) * parameter.requires_grad
    read = Likelihood(model)
    assert _apart(model, read) < 1e-5
    soft = name in ("prompt", "prefix")
    assert read.shares != soft
    assert limit_of(model) == 32 - 3 * soft


class _Deaf(nn.Module):
    """A model that ignores what it is given beside the ids."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None):
        return self.model(input_ids=input_ids)

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def get_output_embeddings(self):
        return None  # and whose head cannot be reached


def test_a_model_that_ignores_the_mask_is_found_out():
    model = _Deaf(models.llama())
    read = Likelihood(model)
    assert _apart(model, read) < 1e-5
    assert not read.shares


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_stay_near(dtype):
    model = models.llama()
    exact = [told for group in GROUPS for told in [np.concatenate([_alone(model, one) for one in group])]]
    with torch.autocast("cpu", dtype), judged(model):
        cast = Likelihood(model)
        under_autocast = cast(GROUPS)
    model.to(dtype)
    with judged(model):
        half = Likelihood(model)
        in_half = half(GROUPS)
    assert cast.shares
    assert half.shares
    for found in (under_autocast, in_half):
        for told, truth in zip(found, exact, strict=True):
            assert np.abs(np.concatenate(told) - truth).max() < 0.05


def test_the_head_sees_only_what_is_asked_for():
    model = models.llama()
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.shape[:-1].numel()))
    with judged(model):
        Likelihood(model).read([Trie.of(GROUPS[0])])
    trie = Trie.of(GROUPS[0])
    assert seen == [len(set(trie.parents[trie.asked].tolist()))]


def test_progress_counts_rows():
    told = []
    with judged(model := models.llama()):
        Likelihood(model, batch_tokens=40)(GROUPS, lambda done, of: told.append((done, of)))
    assert told[-1] == (len(GROUPS), len(GROUPS))
    assert told == sorted(told)


def test_modes_are_as_they_were():
    model = models.llama().train()
    model.lm_head.eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), judged(model):
        during = [any(module.training for module in model.modules()), torch.is_grad_enabled(), 1 / 0]
    with judged(model):
        during = [any(module.training for module in model.modules()), torch.is_grad_enabled()]
    assert during == [False, False]
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
