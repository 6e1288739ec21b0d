"""Sounds: WAV files, their bytes, arrays of samples."""

from __future__ import annotations

import io
import math
import struct
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subspace_tuning.errors import BadInput
from subspace_tuning.files.attached import named

SUFFIXES = (".wav",)
_ZERO = {"u": 128.0}  # WAV of 8 bits counts from 0


def samples(sound: Any, rate: int) -> NDArray[np.float32]:
    """The samples (n,) of a sound, -1 to 1, ``rate`` a second, all channels as one.

    sound: the path or the bytes of a WAV file, or an array of samples at that rate, (n,) or (n, channels). Raises
    BadInput for anything else.
    """
    own, found = _read(sound, rate)
    if found.dtype.kind in "iu":
        found = (found - _ZERO.get(found.dtype.kind, 0.0)) / 2.0 ** (8 * found.dtype.itemsize - 1)
    mono = found.mean(1) if found.ndim == 2 else found
    if not np.isfinite(mono).all():
        raise BadInput(f"the sound {named(sound)} has samples that are no finite numbers")
    return _at(mono, own, rate).astype(np.float32)


def length(sound: Any, rate: int) -> int:
    """How many samples it has at that rate. Raises BadInput for what is no sound; a file's samples are not read."""
    own, found = _read(sound, rate)
    return -(-len(found) * rate // own)


def check(sound: Any) -> None:
    """Raises BadInput for what is no sound, as far as can be told without reading the samples of a file."""
    length(sound, 1)


def _read(sound: Any, rate: int) -> tuple[int, NDArray]:
    """Samples a second, and the samples as they are kept."""
    from scipy.io import wavfile

    if isinstance(sound, np.ndarray):
        own, found = rate, sound
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that are no sound
                own, found = _file(sound)
        except (OSError, ValueError, EOFError, TypeError, struct.error) as error:
            raise BadInput(
                f"cannot read the sound {named(sound)}: {error}; expected a file {SUFFIXES[0]} (ffmpeg -i FILE a.wav)"
            ) from error
    if found.dtype.kind not in "iuf" or found.ndim not in (1, 2) or not found.size:
        raise BadInput(f"the sound {named(sound)} has no samples: expected numbers (n,) or (n, channels)")
    if own < 1:
        raise BadInput(f"the sound {named(sound)} has {own} samples a second, expected 1 or more")
    return own, found


def _file(sound: Any) -> tuple[int, NDArray]:
    from scipy.io import wavfile

    if isinstance(sound, bytes):
        return wavfile.read(io.BytesIO(sound))
    try:
        return wavfile.read(sound, mmap=True)
    except ValueError:  # of 24 bits, or shorter than it says
        return wavfile.read(sound)


def _at(mono: NDArray, own: int, rate: int) -> NDArray:
    if own == rate:
        return mono
    from scipy.signal import resample_poly

    common = math.gcd(own, rate)
    return resample_poly(mono, rate // common, own // common)
