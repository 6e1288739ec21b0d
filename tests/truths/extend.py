"""Truths of the methods that add a low-rank product to W."""

import torch


def lora_scale(f):
    return f.alpha / (f.r**0.5 if f.rank_stabilized else f.r)


def started(f, W, p=()):
    """s A0 B0, what the product is at first and what is taken away from it."""
    if "A0" in p:  # a start that was found in data
        return lora_scale(f) * p["A0"] @ p["B0"]
    if f.init == "orthogonal":  # W projected on its first r rows, which is what r steps of Gram and Schmidt leave
        rows = W[: f.r]
        return lora_scale(f) * W @ rows.T @ torch.linalg.solve(rows @ rows.T, rows)
    if f.init in ("pissa", "milora"):  # W projected on eigenvectors of its smaller Gram matrix
        wide = W.shape[0] <= W.shape[1]
        _, vectors = torch.linalg.eigh(W @ W.T if wide else W.T @ W)
        E = vectors[:, -f.r :] if f.init == "pissa" else vectors[:, : f.r]
        return E @ E.T @ W if wide else W @ E @ E.T
    return 0.0


def lora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,rm->nm", p["A"], p["B"]) - started(f, W, p), b


def trilora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,r,rm->nm", p["A"], p["d"], p["B"]) - started(f, W, p), b


def flora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,rs,sm->nm", p["A"], p["M"], p["B"]) - started(f, W, p), b


def lora_n(f, x, W, b, p):
    return x @ W + (0 if b is None else b) + lora_scale(f) * (x @ p["A"]).relu() @ p["B"]


def trilora_n(f, x, W, b, p):
    return x @ W + (0 if b is None else b) + lora_scale(f) * ((x @ p["A"]).relu() * p["d"]) @ p["B"]


def flora_n(f, x, W, b, p):
    return x @ W + (0 if b is None else b) + lora_scale(f) * (x @ p["A"]).relu() @ p["M"] @ p["B"]


TRUTHS = {"lora": lora, "trilora": trilora, "flora": flora}
ON_ROWS = {"lora+mpc_n": lora_n, "trilora+mpc_n": trilora_n, "flora+mpc_n": flora_n}
VARIANTS = {
    "lora": [
        {},
        {"r": 3, "rank_stabilized": True},
        {"r": 2, "alpha": 1.0, "dropout": 0.5},
        {"r": 3, "init": "orthogonal"},
        {"r": 3, "init": "pissa", "dropout": 0.5},
        {"r": 3, "alpha": 4.0, "init": "milora"},
        {"r": 3, "init": "eva"},
        {"r": 3, "init": "lora_ga", "dropout": 0.5},
        {"r": 3, "init": "corda"},
    ],
    "trilora": [{"r": 4}, {"r": 2, "dropout": 0.5}, {"r": 3, "init": "pissa"}],
    "flora": [{"r": 4}, {"r": 2, "dropout": 0.5}, {"r": 3, "init": "orthogonal"}],
}
