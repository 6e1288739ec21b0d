"""What each method must compute, written a second time and plainly: the dense phi(W) and bias in float64.

Adding a method to the package adds here: its truth, and, if it wants more than its default fields tried, its variants.
Nothing in this file uses the package's algebra.
"""

import torch

# --- maps of the weight: (method's fields, W (n, m), b (m,) or None, parameters) -> phi(W), bias ---------------------


def ssl(f, W, b, p):
    return p["d"][:, None] * W, b


def ssb(f, W, b, p):
    return p["d1"][:, None] * W * p["d2"][None, :], b


def ia3(f, W, b, p):
    return W * p["d"][None, :], b


def sam_parser(f, W, b, p):
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    return torch.einsum("nk,k,km->nm", U, p["s"], Vh), b


def bitfit(f, W, b, p):
    return W, b + p["delta"]


def lora_scale(f):
    return f.alpha / (f.r**0.5 if f.rank_stabilized else f.r)


def lora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,rm->nm", p["A"], p["B"]), b


def trilora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,r,rm->nm", p["A"], p["d"], p["B"]), b


def flora(f, W, b, p):
    return W + lora_scale(f) * torch.einsum("nr,rs,sm->nm", p["A"], p["M"], p["B"]), b


TRUTHS = {
    "ssl": ssl,
    "ssb": ssb,
    "ia3": ia3,
    "sam_parser": sam_parser,
    "bitfit": bitfit,
    "lora": lora,
    "trilora": trilora,
    "flora": flora,
}

# --- no map of the weight: (method's fields, rows x (..., n), W, b, parameters) -> rows (..., m) ---------------------


def lora_n(f, x, W, b, p):
    return plain(x, W, b) + lora_scale(f) * (x @ p["A"]).relu() @ p["B"]


def trilora_n(f, x, W, b, p):
    return plain(x, W, b) + lora_scale(f) * ((x @ p["A"]).relu() * p["d"]) @ p["B"]


def flora_n(f, x, W, b, p):
    return plain(x, W, b) + lora_scale(f) * (x @ p["A"]).relu() @ p["M"] @ p["B"]


ON_ROWS = {"lora+mpc_n": lora_n, "trilora+mpc_n": trilora_n, "flora+mpc_n": flora_n}

# --- fields to try instead of the defaults ---------------------------------------------------------------------------

VARIANTS = {
    "lora": [{}, {"r": 3, "rank_stabilized": True}, {"r": 2, "alpha": 1.0, "dropout": 0.5}],
    "trilora": [{"r": 4}, {"r": 2, "dropout": 0.5}],
    "flora": [{"r": 4}, {"r": 2, "dropout": 0.5}],
}

# --- from one method to compositions and constraints -----------------------------------------------------------------


def plain(x, W, b):
    return x @ W if b is None else x @ W + b


def dense_truth(method, W, b, p):
    """phi(W) and the bias of a method, a composition or a method held to a pattern."""
    if hasattr(method, "members"):
        for i, member in enumerate(method.members):
            W, b = dense_truth(member, W, b, _within(p, i))
        return W, b
    if hasattr(method, "pattern"):
        method = method.method
    return TRUTHS[method.name](method, W, b, p)


def rows_truth(method, x, W, b, p):
    """phi on rows x (..., n), for maps of the weight and for others."""
    if method.mergeable:
        return plain(x, *dense_truth(method, W, b, p))
    if hasattr(method, "members"):
        *first, last = method.members
        for i, member in enumerate(first):
            W, b = dense_truth(member, W, b, _within(p, i))
        return rows_truth(last, x, W, b, _within(p, len(first)))
    return ON_ROWS[method.name](getattr(method, "method", method), x, W, b, p)


def _within(p, i):
    return {k.removeprefix(f"{i}_"): v for k, v in p.items() if k.startswith(f"{i}_")}
