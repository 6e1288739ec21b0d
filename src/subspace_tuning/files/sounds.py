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
    if isinstance(sound, np.ndarray):
        found, own = sound, rate
    else:
        from scipy.io import wavfile

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that are no sound
                own, found = wavfile.read(io.BytesIO(sound) if isinstance(sound, bytes) else sound)
        except (OSError, ValueError, EOFError, TypeError, struct.error) as error:
            raise BadInput(f"cannot read the sound {named(sound)}: {error}; expected a file {SUFFIXES[0]}") from error
    if found.dtype.kind in "iu":
        found = (found - _ZERO.get(found.dtype.kind, 0.0)) / 2.0 ** (8 * found.dtype.itemsize - 1)
    if found.dtype.kind != "f" or found.ndim not in (1, 2) or not found.size:
        raise BadInput(f"the sound {named(sound)} has no samples: expected numbers (n,) or (n, channels)")
    mono = found.mean(1) if found.ndim == 2 else found
    return _at(mono, own, rate).astype(np.float32)


def _at(mono: NDArray, own: int, rate: int) -> NDArray:
    if own == rate:
        return mono
    from scipy.signal import resample_poly

    common = math.gcd(own, rate)
    return resample_poly(mono, rate // common, own // common)
