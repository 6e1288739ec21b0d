"""Pictures: files, bytes, arrays of numbers."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subspace_tuning.errors import BadInput
from subspace_tuning.files.attached import named

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_ORIENTATION = 0x0112  # of EXIF; above 4 height and width change places


def opened(picture: Any, mode: str = "RGB") -> Image:
    """A picture from a path, the bytes of a file, or whole numbers from 0 to 255, (h, w) or (h, w, channels).

    Upright, as the camera's EXIF says. mode: of Pillow, to which it is brought, 16 bits a point by their upper 8; ''
    leaves numbers as they are, beyond 255 too. Raises BadInput for anything else.
    """
    from PIL import Image

    try:
        if isinstance(picture, np.ndarray):
            image = Image.fromarray(_points(picture, mode))
            return image.convert(mode) if mode else image
        with Image.open(_file(picture)) as image:
            image.load()
            return _brought(_upright(image), mode)
    except _unreadable() as error:
        raise _cannot(picture, error) from error


def check(picture: Any) -> None:
    """Raises BadInput for what is no picture, as far as can be told without reading the points of a file."""
    from PIL import Image

    try:
        if isinstance(picture, np.ndarray):
            _points(picture, "RGB")
        else:
            Image.open(_file(picture)).close()
    except _unreadable() as error:
        raise _cannot(picture, error) from error


def size(picture: Any) -> tuple[int, int]:
    """Height and width of a picture as it is opened."""
    from PIL import Image

    if isinstance(picture, np.ndarray):
        return picture.shape[:2]
    try:
        with Image.open(_file(picture)) as image:
            try:
                is_turned = image.getexif().get(_ORIENTATION, 1) > 4
            except _unreadable(KeyError):
                is_turned = False
            return image.size if is_turned else (image.height, image.width)
    except _unreadable() as error:
        raise _cannot(picture, error) from error


def _file(picture: Any) -> Any:
    return io.BytesIO(picture) if isinstance(picture, bytes) else picture


def _unreadable(*more: type[Exception]) -> tuple[type[Exception], ...]:
    from PIL import Image

    return OSError, ValueError, TypeError, SyntaxError, OverflowError, struct.error, Image.DecompressionBombError, *more


def _cannot(picture: Any, error: Exception) -> BadInput:
    numbers = "whole numbers from 0 to 255, (height, width) or (height, width, 1, 3 or 4 channels)"
    wanted = numbers if isinstance(picture, np.ndarray) else ", ".join(SUFFIXES)
    return BadInput(f"cannot read the picture {named(picture)}: {error}; expected {wanted}")


def _points(array: NDArray, mode: str) -> NDArray:
    """Numbers as Pillow takes them: from 0 to 255; where they stay as they are, whole ones."""
    array = array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise ValueError("it has another shape")
    if array.dtype == bool:
        return array.astype(np.uint8) * (255 if mode else 1)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise ValueError(f"it holds {array.dtype.name}, no numbers")
    least, most = array.min(), array.max()
    room = np.iinfo(np.uint8 if mode or array.ndim == 3 else np.int32)
    if not (room.min <= least and most <= room.max and np.array_equal(np.floor(array), array)):
        raise ValueError(f"its numbers are from {least:g} to {most:g}, or not whole")
    return array.astype(room.dtype)


def _upright(image: Image) -> Image:
    """Turned as its EXIF says, where that can be read."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except _unreadable(KeyError):
        return image.copy()


def _brought(image: Image, mode: str) -> Image:
    from PIL import Image

    if mode and image.mode.startswith(("I", "F")):  # Pillow cuts what is above 255
        deep = np.asarray(image)
        if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() > np.iinfo(np.uint16).max:
            raise ValueError("its points are no numbers of 8 or 16 bits")
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    return image.convert(mode) if mode else image
