"""Truths of methods whose parameters several layers share, on the one layer of the laws, which is called "layer"."""

from zlib import crc32

import torch

LAYER = "layer"


def _generator(f, key=0, own=True):
    return torch.Generator().manual_seed(2 * (crc32(f"{f.seed} {LAYER}".encode()) if own else f.seed) + key)


def tinylora(f, W, b, p):
    P = torch.empty(f.u, f.r * f.r).normal_(generator=_generator(f)).double().view(f.u, f.r, f.r) / f.r**0.5
    R = sum(v * one for v, one in zip(p["v"], P, strict=True))
    U, S, Vt = torch.linalg.svd(p.get("frozen", W), full_matrices=False)
    U, S, Vt = U[:, : f.r], S[: f.r], Vt[: f.r]
    signs = torch.stack([column[column.abs().argmax()].sign() for column in U.T])
    return W + (U * signs * S) @ R @ (Vt * signs.unsqueeze(1)), b


def unilora(f, W, b, p):
    n, m = W.shape
    start = torch.empty(f.d).uniform_(-(3**0.5), 3**0.5, generator=_generator(f, own=False)).double() * f.start / 3**0.5
    draw = torch.Generator().manual_seed(crc32(f"{f.seed} {LAYER}".encode()))
    first = torch.randperm(f.d, generator=draw).tolist()
    order = torch.randperm(f.r * (n + m), generator=draw).tolist()

    def product(theta):
        entries = torch.stack([theta[first[i % f.d]] for i in order])
        return entries[: n * f.r].view(n, f.r) @ entries[n * f.r :].view(f.r, m)

    return W + product(start + p["theta"]) - product(start), b


def vblora(f, W, b, p):
    n, m = W.shape
    uniform = torch.empty(f.h, f.b).uniform_(-(3**0.5), 3**0.5, generator=_generator(f, own=False))
    bank = uniform.double() * f.start / 3**0.5
    logits = [
        torch.empty(f.r * -(-size // f.b), f.h).normal_(generator=_generator(f, key)).double() * 0.1
        for key, size in enumerate((n, m))
    ]

    def factor(vectors, numbers, size):
        pieces = []
        for row in numbers:
            best = row.argsort(descending=True)[: f.top]
            weights = row[best].exp() / row[best].exp().sum()
            pieces.append(sum(w * vectors[i] for w, i in zip(weights, best, strict=True)))
        return torch.cat(pieces).view(f.r, -1)[:, :size]

    def product(change):
        moved = [own + change * p[name] for own, name in zip(logits, ("logits_A", "logits_B"), strict=True)]
        A, B = (factor(bank + change * p["bank"], own, size) for own, size in zip(moved, (n, m), strict=True))
        return A.T @ B

    return W + product(1) - product(0), b


def tied_lora(f, W, b, p):
    s = f.alpha / (f.r**0.5 if f.rank_stabilized else f.r)
    return W + s * torch.einsum("nr,r,rm,m->nm", p["A"], 1 + p["u"], p["B"], 1 + p["v"]), b


TRUTHS = {"tinylora": tinylora, "unilora": unilora, "vblora": vblora, "tied_lora": tied_lora}
ON_ROWS = {}
VARIANTS = {
    "tinylora": [{"r": 3, "u": 5, "seed": 1}],
    "unilora": [{"r": 2, "d": 7}],
    "vblora": [{"r": 1, "h": 3, "b": 1, "start": 1.0, "seed": 17}],  # no two logits of a piece near each other
    "tied_lora": [{"r": 3}],
}
SEVERAL_VALLEYS = {"vblora": lambda f, n, m: True}  # each choice of the largest logits has its own
