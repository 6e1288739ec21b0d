"""Truths of the methods that add a low-rank product to W."""

import torch


def lora_scale(f):
    return f.alpha / (f.r**0.5 if f.rank_stabilized else f.r)


def lora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,rm->nm", p["A"], p["B"]), b


def trilora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,r,rm->nm", p["A"], p["d"], p["B"]), b


def flora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,rs,sm->nm", p["A"], p["M"], p["B"]), b


def lora_n(f, x, W, b, p):
    return x @ W + (0 if b is None else b) + lora_scale(f) * (x @ p["A"]).relu() @ p["B"]


def trilora_n(f, x, W, b, p):
    return x @ W + (0 if b is None else b) + lora_scale(f) * ((x @ p["A"]).relu() * p["d"]) @ p["B"]


def flora_n(f, x, W, b, p):
    return x @ W + (0 if b is None else b) + lora_scale(f) * (x @ p["A"]).relu() @ p["M"] @ p["B"]


TRUTHS = {"lora": lora, "trilora": trilora, "flora": flora}
ON_ROWS = {"lora+mpc_n": lora_n, "trilora+mpc_n": trilora_n, "flora+mpc_n": flora_n}
VARIANTS = {
    "lora": [{}, {"r": 3, "rank_stabilized": True}, {"r": 2, "alpha": 1.0, "dropout": 0.5}],
    "trilora": [{"r": 4}, {"r": 2, "dropout": 0.5}],
    "flora": [{"r": 4}, {"r": 2, "dropout": 0.5}],
}
