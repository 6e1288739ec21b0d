"""Truths of the methods that start from the singular value decomposition of W, and of DoRA."""

import torch

from truths.extend import factors, lora_scale, started


def svd(W):
    """U, S, V with the largest entry of each column of U above zero."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    V = Vh.T.clone()
    for i in range(len(S)):
        if U[U[:, i].abs().argmax(), i] < 0:
            U[:, i], V[:, i] = -U[:, i], -V[:, i]
    return U, S, V


def dora(f, W, b, p):
    A, B = factors(f, W, p)
    directions = W + lora_scale(f) * torch.einsum("nr,rm->nm", A, B) - started(f, W, p)
    norms = directions.square().sum(0).sqrt()
    magnitudes = p.get("frozen", W).square().sum(0).sqrt() * (1 + p["delta"])
    return directions / (norms.detach() if f.detach else norms) * magnitudes, b


def svdiff(f, W, b, p):
    U, S, V = svd(W)
    return torch.einsum("nk,k,mk->nm", U, (S + p["d"]).clamp(min=0), V), b


def svfit(f, W, b, p):
    U, S, V = svd(W)
    return torch.einsum("nk,k,mk->nm", U, torch.cat([S[: f.r] + p["delta"], S[f.r :]]), V), b


def svft(f, W, b, p):
    U, S, V = svd(W)
    k = len(S)
    if f.pattern == "random":
        count = k * (2 * f.d + 1) - f.d * (f.d + 1)
        order = torch.randperm(k * k, generator=torch.Generator().manual_seed(f.seed))[:count].sort().values
        places = [(int(i) // k, int(i) % k) for i in order]
    else:
        places = [(i, j) for i in range(k) for j in range(k) if abs(i - j) <= f.d]
    rows, cols = zip(*places, strict=True)
    C = torch.diag(S).index_put((torch.tensor(rows), torch.tensor(cols)), p["M"], accumulate=True)
    return U @ C @ V.T, b


def spectral(f, W, b, p):
    U, S, V = svd(W)
    added_U = torch.cat([U[:, : f.r] + p["A"], U[:, f.r :]], 1)
    added_V = torch.cat([V[:, : f.r] + p["B"].T, V[:, f.r :]], 1)
    # both factors move, and the product of the two changes counts too
    return added_U @ torch.diag(S) @ added_V.T, b


def rotation(q, r):
    Q = torch.zeros(r, r, dtype=q.dtype)
    above = [(i, j) for i in range(r) for j in range(i + 1, r)]
    for number, (i, j) in zip(q, above, strict=True):
        unit = torch.zeros(r, r, dtype=q.dtype)
        unit[i, j], unit[j, i] = 1, -1
        Q = Q + number * unit
    eye = torch.eye(r, dtype=q.dtype)
    return (eye - Q) @ torch.linalg.inv(eye + Q)


def spectral_rotation(f, W, b, p):
    U, S, V = svd(W)
    turned_U = torch.cat([U[:, : f.r] @ rotation(p["u"], f.r), U[:, f.r :]], 1)
    turned_V = torch.cat([V[:, : f.r] @ rotation(p["v"], f.r), V[:, f.r :]], 1)
    return turned_U @ torch.diag(S) @ turned_V.T, b


def psoft(f, W, b, p):
    U, S, V = svd(W)
    rest = U[:, f.r :] @ torch.diag(S[f.r :]) @ V[:, f.r :].T
    C = torch.diag(1 + p["a"]) @ rotation(p["q"], f.r) @ torch.diag(1 + p["b"])
    return U[:, : f.r] @ C @ torch.diag(S[: f.r]) @ V[:, : f.r].T + rest, b


def osf(f, W, b, p):
    U, S, V = svd(W)
    h = round(f.kept * len(S))
    n, m = W.shape
    P = torch.eye(n, dtype=W.dtype) - U[:, :h] @ U[:, :h].T
    Q = torch.eye(m, dtype=W.dtype) - V[:, :h] @ V[:, :h].T
    rest = P @ (U[:, h:] + p["U"]) @ torch.diag(S[h:] + p["s"]) @ (V[:, h:].T + p["Vt"]) @ Q
    return U[:, :h] @ torch.diag(S[:h]) @ V[:, :h].T + rest, b


def instead(W, which, p):
    """The part of W that these terms make, replaced by the product of what is trained on top of its halves."""
    U, S, V = svd(W)
    root = torch.diag(S[which].sqrt())
    rest = W - U[:, which] @ torch.diag(S[which]) @ V[:, which].T
    return rest + (U[:, which] @ root + p["A"]) @ (root @ V[:, which].T + p["B"])


def pissa(f, W, b, p):
    return instead(W, slice(0, f.r), p), b


def milora(f, W, b, p):
    return instead(W, slice(min(W.shape) - f.r, None), p), b


def lora_xs(f, W, b, p):
    U, S, V = svd(W)
    return W + lora_scale(f) * torch.einsum("nr,r,rs,ms->nm", U[:, : f.r], S[: f.r], p["M"], V[:, : f.r]), b


def pica(f, W, b, p):
    return W + svd(W)[0][:, : f.r] @ p["B"], b


TRUTHS = {
    "dora": dora,
    "lora_xs": lora_xs,
    "milora": milora,
    "osf": osf,
    "pica": pica,
    "pissa": pissa,
    "psoft": psoft,
    "spectral": spectral,
    "spectral_rotation": spectral_rotation,
    "svdiff": svdiff,
    "svfit": svfit,
    "svft": svft,
}
ON_ROWS = {}
VARIANTS = {
    "dora": [
        {"r": 4},
        {"r": 3, "detach": False},
        {"r": 2, "dropout": 0.5, "init": "orthogonal"},
        {"r": 2, "alpha": 4.0, "init": "pissa", "detach": False},
        {"r": 3, "init": "corda"},
    ],
    "lora_xs": [{"r": 3}, {"r": 4, "dropout": 0.5}],
    "milora": [{"r": 3}],
    "osf": [{"kept": 0.6}, {"kept": 0.8}],
    "pica": [{"r": 3}],
    "pissa": [{"r": 3}],
    "psoft": [{"r": 3}],
    "spectral": [{"r": 3}],
    "spectral_rotation": [{"r": 4}],
    "svfit": [{"r": 4}],
    "svft": [{}, {"pattern": "banded", "d": 2}, {"pattern": "random", "d": 2, "seed": 3}],
}
