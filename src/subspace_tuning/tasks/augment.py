"""How pictures are changed in training: mirrored and moved by code of our own, else by torchvision's transforms."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from subspace_tuning.errors import BadInput, nearest

CALLING = ("Lambda",)  # transforms of a function, which nobody can write down here
SHIFT = 8  # a picture moves by a part of its side, at most


class Scaling(NamedTuple):
    """How a model's processor scales pictures: (x - mean) / std for x from 0 to 1, channel by channel."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, processor: Any) -> Scaling:
        scaled = getattr(processor, "do_normalize", False)
        mean, std = (processor.image_mean, processor.image_std) if scaled else ([0.0], [1.0])
        return cls(*(torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std)))


Change = Callable[[Tensor, Scaling], Tensor]  # of (b, c, h, w)


def change(told: str) -> Change:
    """``flip``, ``shift``, or a transform of torchvision.transforms.v2, written as ``RandomRotation(degrees=15)``.

    Raises BadInput for what is none of them, or cannot be made.
    """
    if told in OWN:
        return OWN[told]
    name, words = _parsed(told)
    kinds = _torchvision(told)
    kind = getattr(kinds, name, None)
    if name in CALLING or not (isinstance(kind, type) and issubclass(kind, kinds.Transform)):
        hint = nearest(name, [*OWN, *(n for n in vars(kinds) if n[0].isupper())])
        raise BadInput(f"augment: {name!r} is no transform of torchvision.transforms.v2: {hint}")
    try:
        transform = kind(**words)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"augment: {told}: {error}") from error

    def changed(pixels: Tensor, scaling: Scaling) -> Tensor:
        mean, std = (t.to(pixels) for t in scaling)
        shown = (pixels * std + mean).clamp(0, 1)
        drawn = [transform(picture) for picture in shown]  # each by itself
        if any(picture.shape != shown.shape[1:] for picture in drawn):
            raise BadInput(f"augment: {told} gives pictures of another size than {list(shown.shape[2:])}; give one")
        return (torch.stack(drawn).to(pixels) - mean) / std

    return changed


def _flip(pixels: Tensor, scaling: Scaling) -> Tensor:
    mirrored = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < 0.5
    return torch.where(mirrored, pixels.flip(-1), pixels)


def _shift(pixels: Tensor, scaling: Scaling) -> Tensor:
    """Moved by up to an eighth; what moves in repeats the border."""
    *_, h, w = pixels.shape
    dy, dx = max(1, h // SHIFT), max(1, w // SHIFT)
    wide = F.pad(pixels, (dx, dx, dy, dy), mode="replicate")
    tops, lefts = (torch.randint(2 * d + 1, (len(pixels),)).tolist() for d in (dy, dx))
    return torch.stack([x[:, i : i + h, j : j + w] for x, i, j in zip(wide, tops, lefts, strict=True)])


OWN: dict[str, Change] = {"flip": _flip, "shift": _shift}


def _parsed(told: str) -> tuple[str, dict[str, Any]]:
    """A name, and the plain values it is given by their names; nothing is evaluated."""
    try:
        call = ast.parse(told.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            return call.id, {}
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            return call.func.id, {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    raise BadInput(
        f"augment: {told!r} is neither {', '.join(OWN)} nor a transform with words: RandomRotation(degrees=15)"
    )


def _torchvision(told: str) -> Any:
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError) as error:  # RuntimeError: made for another torch
        raise BadInput(
            f"augment: {told!r} would be a transform of torchvision's, which cannot be imported ({error}); install the "
            f"one that goes with torch {torch.__version__}, or take {' and '.join(OWN)}"
        ) from error
    return v2
