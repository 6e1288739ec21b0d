"""Pictures: files, bytes, arrays of numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from subspace_tuning.errors import BadInput
from subspace_tuning.files.attached import named

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def opened(picture: Any, mode: str = "RGB") -> Image:
    """A picture from a path, the bytes of a file, or numbers from 0 to 255, (h, w), (h, w, 1) or (h, w, 3).

    mode: of Pillow, to which it is brought; '' leaves it as it is. Raises BadInput for anything else.
    """
    from PIL import Image

    try:
        if isinstance(picture, np.ndarray):
            image = Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
            return image.convert(mode) if mode else image
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            return image.convert(mode) if mode else image.copy()
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot read the picture {named(picture)}: {error}; expected {', '.join(SUFFIXES)}") from error
