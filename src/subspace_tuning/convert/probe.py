"""What two models say to the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from subspace_tuning.tasks.texts import USUAL_LENGTH, max_length, positions

TEXTS = (
    "The film was a lovely surprise from beginning to end.",
    "Two hours of my life that nobody will give back to me.",
    "Water boils at a lower temperature on a high mountain.",
    "She asked whether the train to the coast had left already.",
    "In 1905 a clerk in Bern wrote four papers that changed physics.",
    "The committee will vote on the new budget next Tuesday morning!",
    "def area(r): return 3.14159 * r ** 2",
    "Why do cats sleep so much, and what do they dream about?",
)
TOKENS, INPUTS = 16, 8  # of random inputs, for models without a tokenizer


class Probe(NamedTuple):
    """Inputs for a model, one at a time, and what they are in words."""

    inputs: list[dict[str, Tensor]]
    told: str


class Differences(NamedTuple):
    """Two models' logits on the same inputs."""

    largest: float  # of |a - b|
    mean: float  # of |a - b|
    size: float  # mean of |a|
    agreement: float  # share of positions at which the largest logit is the same one


def probe(model: Any, tokenizer: Any = None, texts: Sequence[str] | None = None) -> Probe:
    """These texts or built-in ones; seeded random tokens or pixels where there is no tokenizer."""
    config = model.config
    if hasattr(config, "image_size"):
        g, size = torch.Generator().manual_seed(0), config.image_size
        h, w = (size, size) if isinstance(size, int) else size
        images = torch.randn(INPUTS, 1, getattr(config, "num_channels", 3), h, w, generator=g)
        return Probe([{"pixel_values": x} for x in images], f"{INPUTS} random images")
    if tokenizer is not None:
        given = list(texts or TEXTS)
        length = min(max_length(None, tokenizer), positions(model) or USUAL_LENGTH)
        rows = [tokenizer(text, truncation=True, max_length=length, return_tensors="pt").input_ids for text in given]
        rows = [ids for ids in rows if ids.numel()]
        told = f"{len(rows)} {'given' if texts else 'built-in'} texts"
    else:
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        g = torch.Generator().manual_seed(0)
        rows = list(torch.randint(text_config.vocab_size, (INPUTS, 1, TOKENS), generator=g))
        told = f"{INPUTS} rows of {TOKENS} random tokens"
    decoder = getattr(config, "is_encoder_decoder", False)
    return Probe([{"input_ids": ids, **({"decoder_input_ids": ids} if decoder else {})} for ids in rows], told)


@torch.no_grad()  # quanto does not compute with four bits in inference mode
def answers(model: nn.Module, inputs: Probe) -> list[Tensor]:
    """The logits, (..., classes) each; the last hidden states of a model without a head."""
    model.eval()
    device = next(model.parameters()).device
    found = []
    for row in inputs.inputs:
        out = model(**{k: v.to(device) for k, v in row.items()})
        logits = out.logits if getattr(out, "logits", None) is not None else out.last_hidden_state
        found.append(logits.double().cpu().flatten(0, -2))
    return found


def differences(a: Sequence[Tensor], b: Sequence[Tensor]) -> Differences:
    """How far b is from a."""
    x, y = torch.cat(list(a)), torch.cat(list(b))
    gap = (x - y).abs()
    agreement = (x.argmax(-1) == y.argmax(-1)).double().mean().item()
    return Differences(gap.max().item(), gap.mean().item(), x.abs().mean().item(), agreement)
