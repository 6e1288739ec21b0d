"""transformers' Trainer with the losses of sentence-transformers, on a model of transformers as it is."""

from __future__ import annotations

from typing import Any, cast

import torch
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import cos_sim
from torch import Tensor
from transformers import Trainer


def vectors(model: Any, inputs: dict[str, Tensor], pooling: str) -> Tensor:
    """The vector of each text, (rows, dim)."""
    tokens = model(**inputs).last_hidden_state
    found = Pooling(tokens.shape[-1], cast(Any, pooling))(
        {"token_embeddings": tokens, "attention_mask": inputs["attention_mask"]}
    )
    return found["sentence_embedding"]


class AmongOthers(MultipleNegativesRankingLoss):
    """Each query's own text ranked among those of the batch that do not belong to it too.

    Labels (rows, 2) number the queries and the texts; what belongs together is told by the rows of the batch.
    """

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        same_query, same_text = (side[:, None] == side for side in labels.T)
        others = (same_query.float() @ same_text.float()).bool().fill_diagonal_(False)
        self.similarity_fct = lambda a, b: cos_sim(a, b).masked_fill(others, -torch.inf)
        return super().compute_loss_from_embeddings(embeddings, labels)


LOSSES: dict[str, Any] = {loss.__name__: loss for loss in (CoSENTLoss, AmongOthers)}


class PairsTrainer(Trainer):
    """Batches of ``first`` and ``second``, the inputs of two texts, and labels; a prediction is their vectors."""

    def __init__(self, *args: Any, loss: str, pooling: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pooling = pooling
        self.of_vectors = LOSSES[loss](model=None)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        first, second = (vectors(model, inputs[side], self.pooling) for side in ("first", "second"))
        loss = self.of_vectors.compute_loss_from_embeddings([first, second], inputs["labels"])
        return (loss, {"first": first, "second": second}) if return_outputs else loss
