"""transformers' Trainer on pictures, which are changed a little at every step of training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer

SHIFT = 8  # a picture moves by a part of its side, at most


class ImageTrainer(Trainer):
    """augment: ``flip``, ``shift``. What is drawn follows, as all of a step, from its number."""

    def __init__(self, *args: Any, augment: Collection[str], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.augment = augment

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        changed = {**inputs, "pixel_values": augmented(inputs["pixel_values"], self.augment)}
        return super().training_step(model, changed, *args, **kwargs)


def augmented(pixels: Tensor, how: Collection[str]) -> Tensor:
    """Of (b, c, h, w), each picture mirrored or not, and moved by up to an eighth; what moves in repeats the border."""
    if "flip" in how:
        mirrored = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < 0.5
        pixels = torch.where(mirrored, pixels.flip(-1), pixels)
    if "shift" in how:
        *_, h, w = pixels.shape
        dy, dx = max(1, h // SHIFT), max(1, w // SHIFT)
        wide = F.pad(pixels, (dx, dx, dy, dy), mode="replicate")
        tops, lefts = (torch.randint(2 * d + 1, (len(pixels),)).tolist() for d in (dy, dx))
        moved = [x[:, i : i + h, j : j + w] for x, i, j in zip(wide, tops, lefts, strict=True)]
        pixels = torch.stack(moved)
    return pixels
