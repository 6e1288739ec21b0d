"""Truths of the methods whose update lays few numbers out in a pattern: circulant, repeated, in blocks, as waves."""

import math

import torch


def c3a(f, W, b, p):
    n, _ = W.shape
    rows = [torch.cat([torch.stack([w.roll(q) for q in range(len(w))], 1) for w in row], 1) for row in p["w"]]
    return W + torch.cat(rows) / n, b


def miss(f, W, b, p):
    return W + torch.stack([p["D"][i % f.r] for i in range(len(W))]), b


def gralora(f, W, b, p):
    k, rank = len(p["A"]), f.r // len(p["A"])
    rows = []
    for i in range(k):
        left = p["A"][i].split(rank, 1)
        rows.append(torch.cat([left[j] @ p["B"][j][i * rank : (i + 1) * rank] for j in range(k)], 1))
    return W + f.alpha / f.r * torch.cat(rows), b


def _drawn(f, W):
    """Output and input of each coefficient, drawn in a matrix (m, n)."""
    n, m = W.shape
    drawn = torch.randperm(n * m, generator=torch.Generator().manual_seed(f.seed))[: f.frequencies].tolist()
    return [divmod(place, n) for place in drawn]


def fourierft(f, W, b, p):
    n, m = W.shape
    i, j = (torch.arange(size, dtype=torch.float64) for size in (n, m))
    waves = [torch.cos(2 * math.pi * (u * i.unsqueeze(1) / n + v * j / m)) for v, u in _drawn(f, W)]
    return W + f.alpha / (n * m) * torch.einsum("k,knm->nm", p["c"], torch.stack(waves)), b


def _wave(at, n):
    """Of one coefficient of n numbers: half of them are sums of pairs, the other half differences."""
    half = (n + 1) // 2
    wave = torch.zeros(2 * half, dtype=torch.float64)
    pair = at % half
    wave[2 * pair], wave[2 * pair + 1] = 1.0, 1.0 if at < half else -1.0
    return wave[:n] / math.sqrt(2)


def waveft(f, W, b, p):
    n, m = W.shape
    half_n, half_m = (n + 1) // 2, (m + 1) // 2
    update = torch.zeros_like(W)
    for (v, u), c in zip(_drawn(f, W), p["c"], strict=True):
        if (u < half_n) != (v < half_m):  # the two mixed bands change places
            u = u + half_n if u < half_n else u - half_n
            v = v + half_m if v < half_m else v - half_m
        update = update + c * torch.outer(_wave(u, n), _wave(v, m))
    return W + f.alpha * update, b


TRUTHS = {"c3a": c3a, "miss": miss, "gralora": gralora, "fourierft": fourierft, "waveft": waveft}
ON_ROWS = {}
VARIANTS = {
    "c3a": [{}],
    "miss": [{"r": 4}],
    "gralora": [{"r": 4}],
    "fourierft": [{"frequencies": 30}],
    "waveft": [{"frequencies": 30, "alpha": 2.5, "seed": 1}],  # with 25, phi in bf16 is off too (test_saving)
}
