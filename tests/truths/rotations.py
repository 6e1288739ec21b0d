"""Truths of reflections and of rotations in planes."""

import torch


def hra(f, W, b, p):
    """One reflection after the other, on top of pairs that undo each other."""
    stream = torch.Generator().manual_seed(2 * f.seed)
    half = torch.empty(len(W), f.r // 2).normal_(std=len(W) ** -0.5, generator=stream).double()
    for i in range(f.r):
        u = half[:, i // 2] + p["u"][:, i]
        W = W - 2 * torch.outer(u, u @ W) / (u @ u)
    return W, b


def boft(f, W, b, p):
    """One small rotation after the other, on the features that it joins."""
    n, q = len(W), p["q"]
    for i in range(f.factors):
        half, apart = f.b // 2, 2**i
        for first in range(0, n - f.b * apart + 1, f.b * apart):
            for k in range(apart):
                own = [first + k * half + j for j in range(half)]
                own += [j + apart * half for j in own]
                Q = torch.zeros(f.b, f.b, dtype=W.dtype)
                for row in range(f.b):
                    for column in range(row):
                        unit = torch.zeros(f.b, f.b, dtype=W.dtype)
                        unit[row, column], unit[column, row] = 1, -1
                        Q, q = Q + q[0] * unit, q[1:]
                eye = torch.eye(f.b, dtype=W.dtype)
                W = W.index_put((torch.tensor(own),), (eye + Q) @ torch.linalg.inv(eye - Q) @ W[own])
    return W * (1 + p["delta"]), b


def road(f, W, b, p):
    m = W.shape[1]
    pairs, paired = [], []
    for start in range(0, m, f.group):
        group = list(range(start, min(start + f.group, m)))
        half = len(group) // 2
        pairs += zip(group[:half], group[half : 2 * half], strict=True)
    paired = sorted(j for pair in pairs for j in pair)

    def held(name, j, sine):
        """The number for output j; with 4 of them those of sines come last."""
        if f.variant == 1:
            return p[name][next(k for k, pair in enumerate(pairs) if j in pair)]
        return p[name][paired.index(j) + (len(paired) if f.variant == 4 and sine else 0)]

    def across(j):
        return (1 + held("delta", j, True)) * torch.sin(held("theta", j, True))

    R = torch.eye(m, dtype=W.dtype)
    for i, j in pairs:
        for k in (i, j):
            R[k, k] = (1 + held("delta", k, False)) * torch.cos(held("theta", k, False))
        R[j, i], R[i, j] = -across(i), across(j)
    return W @ R, None if b is None else b @ R


TRUTHS = {"boft": boft, "hra": hra, "road": road}
ON_ROWS = {}
VARIANTS = {
    "boft": [{}],
    "hra": [{"r": 4}],
    "road": [{"variant": 2, "group": 4}],
}
