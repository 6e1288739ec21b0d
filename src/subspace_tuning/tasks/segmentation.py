"""Which class each point of a picture belongs to (SegFormer)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.errors import BadInput
from subspace_tuning.files import pictures, table
from subspace_tuning.files.attached import ARRAYS, arrays, attached, is_array
from subspace_tuning.files.attached import named as told
from subspace_tuning.files.table import Table, read_table
from subspace_tuning.files.text import UTF8
from subspace_tuning.tasks.forward import outputs, tried
from subspace_tuning.tasks.labels import named
from subspace_tuning.tasks.metrics import undefined
from subspace_tuning.tasks.registry import register
from subspace_tuning.tasks.task import Answer, Collate, Inputs, Metric
from subspace_tuning.tasks.weighted import Weighted, of_counts, weighted_cross_entropy

if TYPE_CHECKING:
    from transformers import TrainingArguments

NOTHING = 255  # a point that counts for nothing


class Pointed(NamedTuple):
    """A picture and its mask, each a path, bytes or an array; None where the mask is asked for."""

    picture: Any
    mask: Any


def mean_iou(confusion: NDArray, names: Sequence[str]) -> float:
    """The mean over classes of the points in both over those in either; a class in neither is left out.

    confusion (classes, classes): points of each class, by the class that is predicted.
    """
    both, either = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    if not either.all():
        missing = ", ".join(repr(names[int(i)]) for i in np.flatnonzero(either == 0))
        undefined("mean_iou", f"no point is {missing}, nor predicted to be; it is left out of the mean")
    held = either > 0
    return float((both[held] / either[held]).mean()) if held.any() else 0.0


def point_accuracy(confusion: NDArray, names: Sequence[str]) -> float:
    """The share of points with the right class."""
    return float(np.trace(confusion) / max(confusion.sum(), 1))


@register("segmentation")
@dataclass(frozen=True, kw_only=True)
class Segmentation(Weighted):
    """image, mask: the columns of pictures and of their masks. image_size: the side that both are brought to.

    labels: the classes, by the numbers that masks hold, from 0; 255 counts for nothing. class_weights: of points.
    """

    row = "a picture, and its mask: a picture of the same size with the number of each point's class (255: none)"
    suffixes, endings = (*table.SUFFIXES, ARRAYS), pictures.SUFFIXES
    head = "AutoModelForSemanticSegmentation"
    processor = "AutoImageProcessor"
    task_type = None
    pipeline = "image-segmentation"
    metrics: ClassVar[Mapping[str, Metric]] = {"mean_iou": mean_iou, "point_accuracy": point_accuracy}
    usual: ClassVar[Mapping[str, Any]] = {"batch_size": 8, "epochs": 3.0}

    image: str = "image"
    mask: str = "mask"
    image_size: PositiveInt | None = None

    def config(self) -> dict[str, Any]:
        return {**named(self.labels), "semantic_loss_ignore_index": NOTHING}

    def read(self, path: Path, encoding: str = UTF8) -> list[Pointed]:
        is_arrays = path.suffix == ARRAYS
        return self.rows(arrays(path, (self.image, self.mask)) if is_arrays else read_table(path, encoding))

    def rows(self, table: Table) -> list[Pointed]:
        images = attached(table, self.image, "a picture", pictures.check)
        masks = attached(table, self.mask, "a mask", lambda held: None if is_array(held) else pictures.check(held))
        return [Pointed(*row) for row in zip(images, masks, strict=True)]

    def encode(self, rows: Sequence[Pointed], processor: Any, max_length: int | None) -> list[Inputs]:
        """Pictures as they are: they are opened when a batch is made of them."""
        return [{"picture": row.picture} | ({} if row.mask is None else {"mask": row.mask}) for row in rows]

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        for row in inputs:
            if "mask" not in row:
                continue
            points, size = self._points(row), pictures.size(row["picture"])
            if points.shape != size:
                raise BadInput(
                    f"a mask of {points.shape[0]} x {points.shape[1]} points belongs to a picture of {size[0]} x "
                    f"{size[1]}, {told(row['picture'])}; expected the same height and width"
                )
            if (points == NOTHING).all():
                raise BadInput(
                    f"every point of a mask is {NOTHING}, which counts for nothing; leave its picture out, "
                    f"{told(row['picture'])}"
                )
            beyond = points[(points < 0) | ((points >= len(self.labels)) & (points != NOTHING))]
            if beyond.size:
                raise BadInput(
                    f"a mask has the number {int(beyond[0])}, and there are {len(self.labels)} labels, counted from 0; "
                    f"name every class in labels, and mark with {NOTHING} what counts for nothing"
                )

        tried(model, self.collator(processor), inputs, "pictures")

    @staticmethod
    def _points(row: Inputs) -> NDArray:
        found = np.asarray(pictures.opened(row["mask"], ""))
        if found.ndim != 2:
            raise BadInput(f"a mask has the shape {found.shape}, expected one number a point: (height, width)")
        return found

    # training and judging

    def arguments(self) -> tuple[type[TrainingArguments], dict[str, Any]]:
        kind, values = super().arguments()
        return kind, {**values, "remove_unused_columns": False}

    def balance(self, train: Sequence[Inputs]) -> NDArray:
        """Of points of the masks as they are kept, before they are brought to a size."""
        counts = [np.bincount(self._points(row).flatten(), minlength=NOTHING)[:NOTHING] for row in train]
        return of_counts(np.sum(counts, axis=0)[: len(self.labels)])

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return weighted_cross_entropy(_enlarged(logits, labels).movedim(1, -1), labels, weights, NOTHING)

    def averaged(self, batch: Mapping[str, Any]) -> int:
        """Points, but for those that count for nothing."""
        return int((batch["labels"] != NOTHING).sum())

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        return {**super().parts(processor, train, judged), "preprocess_logits_for_metrics": _classes}

    def collator(self, processor: Any) -> Collate:
        how: dict[str, Any] = {}
        if hasattr(processor, "do_reduce_labels"):  # of ADE20K, whose masks count classes from 1
            how["do_reduce_labels"] = False
        if self.image_size:
            how["size"] = {"height": self.image_size, "width": self.image_size}

        def collate(rows: list[Inputs]) -> Any:
            images = [pictures.opened(row["picture"]) for row in rows]
            masks = {"segmentation_maps": [self._points(row) for row in rows]} if "mask" in rows[0] else {}
            return dict(processor(images, **masks, return_tensors="pt", **how))

        return collate

    def scores(self, predictions: Any, labels: NDArray, judged: Sequence[Inputs] = ()) -> dict[str, float]:
        """Of classes (rows, height, width) against those of the masks."""
        counted = labels != NOTHING
        pairs = len(self.labels) * labels[counted].astype(np.int64) + predictions[counted]
        confusion = np.bincount(pairs, minlength=len(self.labels) ** 2).reshape(len(self.labels), -1)
        return {name: metric(confusion, self.labels) for name, metric in self.metrics.items()}

    # prediction

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Pointed | None]:
        """A path a line."""
        return [Pointed(Path(line.strip()), None) if line.strip() else None for line in lines]

    def answers(self, model: Any, processor: Any, rows: Sequence[Pointed], max_length: int | None) -> list[Answer]:
        """Which share of its points each class has, the largest first."""
        said = outputs(model, self.collator(processor), self.encode(rows, processor, None))
        found = [np.bincount(logits.argmax(0).flatten(), minlength=len(self.labels)) for (logits,) in said]
        return [Answer((str(row.picture),), self._shares(counts)) for row, counts in zip(rows, found, strict=True)]

    def _shares(self, counts: NDArray) -> str:
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return ", ".join(f"{self.labels[i]} {counts[i] / counts.sum():.2f}" for i in order)


def _classes(logits: Any, labels: Tensor) -> Tensor:
    """The class of each point of the masks (rows, h, w)."""
    return _enlarged(logits[0] if isinstance(logits, tuple) else logits, labels).argmax(1)


def _enlarged(logits: Tensor, labels: Tensor) -> Tensor:
    """(rows, classes, h, w) of fewer points -> of those of the masks, as the model's own loss does it."""
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
