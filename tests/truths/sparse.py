"""Truths of the methods that change a few entries of W."""

import torch


def at(W, places, values):
    """W plus the values at the places of its rows laid end to end."""
    i, j = places // W.shape[1], places % W.shape[1]
    delta = torch.zeros_like(W)
    return W + delta.index_put((i, j), values)


def fishmask(f, W, b, p):
    return at(W, p["places"], p["v"]), b


def pafi(f, W, b, p):
    k = max(1, round(f.share * W.numel()))
    threshold = W.abs().flatten().kthvalue(k).values
    return at(W, torch.nonzero((W.abs() <= threshold).flatten()).squeeze(1), p["v"]), b


def supertuning(f, W, b, p):
    k = max(1, round(f.share * W.numel()))
    threshold = W.abs().flatten().kthvalue(W.numel() - k + 1).values
    return at(W, torch.nonzero((W.abs() >= threshold).flatten()).squeeze(1), p["v"]), b


def shira(f, W, b, p):
    n, m = W.shape
    drawn = torch.randperm(n * m, generator=torch.Generator().manual_seed(f.seed))[: len(p["v"])]
    kept = torch.zeros(m, n).flatten().index_fill(0, drawn, 1.0).view(m, n).T.flatten().nonzero().squeeze(1)
    return at(W, kept, p["v"]), b


def diff_pruning(f, W, b, p):
    gates = [p["a"], p["a_all"]] if f.structured else [p["a"]]
    delta = p["V"]
    for a in gates:
        delta = delta * (f.low + (f.high - f.low) / (1 + torch.exp(-a))).clamp(0.0, 1.0)
    return W + delta, b


TRUTHS = {
    "diff_pruning": diff_pruning,
    "fishmask": fishmask,
    "pafi": pafi,
    "shira": shira,
    "supertuning": supertuning,
}
ON_ROWS = {}
VARIANTS = {
    "fishmask": [{"share": 0.25}, {"share": 0.6}],
    "pafi": [{"share": 0.25}, {"share": 0.6}],
    "shira": [{"r": 2}],
    "supertuning": [{"share": 0.25}],
    "diff_pruning": [{"gate": 0.3}, {"structured": True, "gate": 0.5, "low": -0.01, "high": 1.01, "l0": 0.0}],
}
