"""What a model puts out for inputs, in prediction; whether it takes them at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from subspace_tuning.errors import BadInput, is_out_of_memory
from subspace_tuning.tasks.task import Collate, Inputs

BATCH = 32  # inputs at a time


def tried(model: Any, collate: Collate, inputs: Sequence[Inputs], what: str) -> None:
    """Put one input through a model, with or without its numbers. Raises BadInput where that fails.

    what: ``pictures``, for errors.
    """
    batch = collate([{key: value for key, value in row.items() if key != "labels"} for row in inputs[:1]])
    was_training = model.training
    model.eval()  # nothing is drawn, no mean is moved
    try:
        with torch.inference_mode():
            model(**{key: value.to(model.device) for key, value in batch.items() if key != "labels"})
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        shapes = ", ".join(f"{key} {' x '.join(map(str, value.shape))}" for key, value in batch.items())
        raise BadInput(f"the model cannot read {what} of this size ({shapes}): {str(error).splitlines()[0]}") from error
    finally:
        model.train(was_training)


def outputs(
    model: Any, collate: Collate, inputs: Sequence[Inputs], names: Sequence[str] = ("logits",)
) -> Iterator[tuple[Tensor, ...]]:
    """For each input in turn, its part of the model's outputs of these names; padded as its batch is.

    Raises BadInput where they are no numbers.
    """
    for first in range(0, len(inputs), BATCH):
        batch = collate([inputs[i] for i in range(first, min(first + BATCH, len(inputs)))])
        with torch.inference_mode():
            said = model(**{key: value.to(model.device) for key, value in batch.items()})
        found = [said[name].float().cpu() for name in names]
        if not all(part.isfinite().all() for part in found):
            raise BadInput("the model answers with NaN or infinite numbers; its weights are broken")
        yield from zip(*found, strict=True)
