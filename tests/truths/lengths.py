"""Truths of the methods that train lengths and directions apart."""

import torch

from truths.extend import lora_scale
from truths.singular import svd


def map_around(f, W, b, p):
    """Around LoRA or LoRA-XS."""
    if f.extension == "lora":
        D = p["A"] @ p["B"]
    else:
        U, S, V = svd(W)
        D = U[:, : f.r] @ torch.diag(S[: f.r]) @ p["M"] @ V[:, : f.r].T
    return W + p["alpha"] * W + (f.length + p["beta"]) * D / D.square().sum().sqrt(), b


def delora(f, W, b, p):
    total = torch.zeros_like(W)
    for a, row in zip(p["A"].T, p["B"], strict=True):
        total = total + torch.outer(a / a.norm(), row / row.norm())
    rows = p.get("frozen", W).square().sum(1).sqrt()
    return W + rows[:, None] * total * (f.bound + p["delta"]) / f.r, b


def speclora(f, W, b, p):
    U, S, V = svd(p.get("frozen", W))
    k = f.directions
    scaled = torch.einsum("nk,k,mk->nm", U[:, :k], p["delta"] * S[:k], V[:, :k])
    return W + scaled + lora_scale(f) * p["A"] @ p["B"], b


TRUTHS = {"map": map_around, "delora": delora, "speclora": speclora}
ON_ROWS = {}
VARIANTS = {
    "map": [{"r": 3, "dropout": 0.5}],
    "delora": [{"r": 3, "bound": 0.5, "dropout": 0.5}],
    "speclora": [{"r": 2, "directions": 3, "dropout": 0.5}],
}
