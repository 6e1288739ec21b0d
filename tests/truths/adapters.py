"""Truths of the bottleneck adapters: maps of rows, for which no weight stands."""

import torch
from torch.nn import functional as F


def plain(x, W, b):
    return x @ W + (0 if b is None else b)


def _h(f, z):
    return {"relu": z.clamp_min(0), "gelu": F.gelu(z), "silu": z * z.sigmoid(), "tanh": torch.tanh(z)}[f.h]


def serial(f, x, W, b, p):
    y = plain(x, W, b)
    return y + _h(f, y @ p["A"] + p["a"]) @ p["B"] + p["b"]


def parallel(f, x, W, b, p):
    return plain(x, W, b) + f.s * _h(f, x @ p["A"]) @ p["B"]


TRUTHS = {}
ON_ROWS = {"houlsby": serial, "pfeiffer": serial, "parallel": parallel}
VARIANTS = {
    "houlsby": [{}, {"r": 3, "h": "silu"}],
    "pfeiffer": [{"r": 4}],
    "parallel": [{"r": 3}, {"r": 4, "s": 4.0, "h": "tanh"}],
}
