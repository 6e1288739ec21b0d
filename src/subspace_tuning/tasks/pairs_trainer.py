"""transformers' Trainer with the losses of sentence-transformers, on a model of transformers as it is."""

from __future__ import annotations

from typing import Any, cast

from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from transformers import Trainer


def vectors(model: Any, inputs: dict[str, Tensor], pooling: str) -> Tensor:
    """The vector of each text, (rows, dim)."""
    tokens = model(**inputs).last_hidden_state
    found = Pooling(tokens.shape[-1], cast(Any, pooling))(
        {"token_embeddings": tokens, "attention_mask": inputs["attention_mask"]}
    )
    return found["sentence_embedding"]


class PairsTrainer(Trainer):
    """Batches of ``first`` and ``second``, the inputs of two texts, and labels; a prediction is their vectors."""

    def __init__(self, *args: Any, loss: str, pooling: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pooling = pooling
        self.of_vectors = getattr(losses, loss)(model=None)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        first, second = (vectors(model, inputs[side], self.pooling) for side in ("first", "second"))
        loss = self.of_vectors.compute_loss_from_embeddings([first, second], inputs["labels"])
        return (loss, {"first": first, "second": second}) if return_outputs else loss
