"""Which of several classes something in a file belongs to: what pictures and sounds share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from subspace_tuning.errors import BadInput
from subspace_tuning.files.attached import ARRAYS, arrays, attached, by_folder
from subspace_tuning.files.table import Table, read_table
from subspace_tuning.files.text import UTF8
from subspace_tuning.tasks.classes import Classes
from subspace_tuning.tasks.forward import outputs
from subspace_tuning.tasks.labels import classes
from subspace_tuning.tasks.task import Answer, Inputs

if TYPE_CHECKING:
    from transformers import TrainingArguments


class Filed(NamedTuple):
    """A path, bytes or an array, and its class, None where it is asked for."""

    held: Any
    label: int | None


@dataclass(frozen=True, kw_only=True)
class FiledClasses(Classes):
    """label: the column of classes. Files are opened when a batch is made of them."""

    what: ClassVar[str]  # ``a picture``
    file: ClassVar[str]  # the field that names the column of files

    label: str = "label"

    @staticmethod
    @abstractmethod
    def look(held: Any) -> None:
        """Raises BadInput for a file that is none."""

    def read(self, path: Path, encoding: str = UTF8) -> list[Filed]:
        if path.suffix in self.endings:
            raise BadInput(
                f"{path} is {self.what} alone; give a folder with a folder for each class, a table or {ARRAYS}"
            )
        is_arrays = path.suffix == ARRAYS
        return self.rows(arrays(path, (self._column, self.label)) if is_arrays else read_table(path, encoding))

    @property
    def _column(self) -> str:
        return getattr(self, self.file)

    def elsewhere(self, source: str) -> tuple[list[Filed], list[Filed] | None] | None:
        """Folders of classes, or of parts with folders of classes in them."""
        folder = Path(source).expanduser()
        if not folder.is_dir() or any(folder.glob("train.*")) or (folder / self.name).is_dir():
            return None
        parts = {name: folder / name for name in ("train", *self.validation) if (folder / name).is_dir()}
        if "train" not in parts:
            return self._in(folder), None
        judged = [self._in(part) for name, part in parts.items() if name != "train"]
        return self._in(parts["train"]), judged[0] if judged else None

    def _in(self, folder: Path) -> list[Filed]:
        many = f"{self.what.partition(' ')[2]}s"
        return self.rows(by_folder(folder, self._column, self.label, many, self.endings))

    def rows(self, table: Table) -> list[Filed]:
        found = attached(table, self._column, self.what, self.look)
        labels = classes(table, self.label, self.labels)
        return [Filed(held, label) for held, label in zip(found, labels, strict=True)]

    def encode(self, rows: Sequence[Filed], processor: Any, max_length: int | None) -> list[Inputs]:
        return [{"file": row.held} | ({} if row.label is None else {"labels": row.label}) for row in rows]

    def arguments(self) -> tuple[type[TrainingArguments], dict[str, Any]]:
        kind, values = super().arguments()
        return kind, {**values, "remove_unused_columns": False}

    def questions(self, lines: Sequence[str], places: Sequence[str]) -> list[Filed | None]:
        """A path a line."""
        return [Filed(Path(line.strip()), None) if line.strip() else None for line in lines]

    def answers(self, model: Any, processor: Any, rows: Sequence[Filed], max_length: int | None) -> list[Answer]:
        said = outputs(model, self.collator(processor), self.encode(rows, processor, None))
        return [self.answer((str(row.held),), logits) for row, (logits,) in zip(rows, said, strict=True)]
