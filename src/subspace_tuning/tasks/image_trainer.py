"""transformers' Trainer on pictures, which are changed a little at every step of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Trainer

from subspace_tuning.tasks.augment import Scaling, change


class ImageTrainer(Trainer):
    """augment: what ``augment.change`` takes. What is drawn follows, as all of a step, from its number."""

    def __init__(self, *args: Any, augment: Sequence[str], scaling: Scaling, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.changes, self.scaling = [change(told) for told in augment], scaling

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        pixels = inputs["pixel_values"]
        for changed in self.changes:
            pixels = changed(pixels, self.scaling)
        return super().training_step(model, {**inputs, "pixel_values": pixels}, *args, **kwargs)
