"""Truths of the methods that add a low-rank product to W."""

import math

import torch


def lora_scale(f):
    return f.alpha / (f.r**0.5 if f.rank_stabilized else f.r)


def started(f, W, p=()):
    """s A0 B0, what the product is at first and what is taken away from it."""
    if "A0" in p:  # a start that was found in data
        return lora_scale(f) * p["A0"] @ p["B0"]
    init = getattr(f, "init", "milora")
    if init == "orthogonal":  # W projected on its first r rows, which is what r steps of Gram and Schmidt leave
        rows = W[: f.r]
        return lora_scale(f) * W @ rows.T @ torch.linalg.solve(rows @ rows.T, rows)
    if init in ("pissa", "milora"):  # W projected on eigenvectors of its smaller Gram matrix
        wide = W.shape[0] <= W.shape[1]
        _, vectors = torch.linalg.eigh(W @ W.T if wide else W.T @ W)
        E = vectors[:, -f.r :] if init == "pissa" else vectors[:, : f.r]
        return E @ E.T @ W if wide else W @ E @ E.T
    if init == "loram":
        A0, B0 = start(f, W)
        return lora_scale(f) * A0 @ B0
    return 0.0


def factors(f, W, p):
    """A and B as they stand: the trained numbers, on top of a start that is not nothing."""
    A0, B0 = (0, 0) if f.init in ("kaiming", "eva", "lora_one") else (p["A0"], p["B0"]) if "A0" in p else start(f, W)
    return A0 + p["A"], B0 + p["B"]


def start(f, W):
    """A0 and B0 written once more: Gram and Schmidt on rows of W, or eigenvectors of W W^T with the larger entry up."""
    if f.init == "orthogonal":
        basis = []
        for row in W[: f.r]:
            for q in basis:
                row = row - (row @ q) * q
            basis.append(row / row.norm())
        B0 = torch.stack(basis)
        return W @ B0.T, B0
    if f.init == "loram":  # both sides c times a sine transform, c^4 = log_k(r) mean(W^2) / mean((Phi_n Phi_m^T)^2)
        phi_n, phi_m = (sines(size, f.r) for size in W.shape)
        gain = math.log(f.r) / math.log(min(W.shape))
        c = (gain * W.square().mean() / (phi_n @ phi_m.T).square().mean()) ** 0.25
        return c * phi_n / lora_scale(f) ** 0.5, c * phi_m.T / lora_scale(f) ** 0.5
    values, vectors = torch.linalg.eigh(W @ W.T)
    k = min(W.shape)
    values, vectors = values[-k:].flip(0), vectors[:, -k:].flip(1)
    which = slice(0, f.r) if f.init == "pissa" else slice(k - f.r, k)
    U, S = vectors[:, which], values[which].sqrt()
    U = U * torch.stack([column[column.abs().argmax()].sign() for column in U.T])
    root = (S / lora_scale(f)).sqrt()
    return U * root, (W.T @ U / S * root).T


def sines(n, r):
    return torch.tensor(
        [
            [(2 / (n + 1)) ** 0.5 * math.sin(i * j * math.pi / (n + 1)) for j in range(1, r + 1)]
            for i in range(1, n + 1)
        ],
        dtype=torch.float64,
    )


def lora(f, W, b, p):
    A, B = factors(f, W, p)
    return W + lora_scale(f) * torch.einsum("nr,rm->nm", A, B) - started(f, W, p), b


def trilora(f, W, b, p):
    A, B = factors(f, W, p)
    return W + lora_scale(f) * torch.einsum("nr,r,rm->nm", A, 1 + p["delta"], B) - started(f, W, p), b


def flora(f, W, b, p):
    A, B = factors(f, W, p)
    return W + lora_scale(f) * (A @ B + torch.einsum("nr,rs,sm->nm", A, p["M"], B)) - started(f, W, p), b


def kasa(f, W, b, p):
    """The r smallest terms by the projection on eigenvectors of W's smaller Gram matrix."""
    noise = started(f, W) if "frozen" not in p else started(f, p["frozen"])
    return W - noise + lora_scale(f) * torch.einsum("nr,r,rm->nm", p["A"], p["d"], p["B"]), b


def lora_n(f, x, W, b, p):
    return x @ W + (0 if b is None else b) + lora_scale(f) * (x @ p["A"]).relu() @ p["B"]


def trilora_n(f, x, W, b, p):
    return x @ W + (0 if b is None else b) + lora_scale(f) * ((x @ p["A"]).relu() * (1 + p["delta"])) @ p["B"]


def flora_n(f, x, W, b, p):
    return (
        x @ W
        + (0 if b is None else b)
        + lora_scale(f) * (h := (x @ p["A"]).relu()) @ p["B"]
        + lora_scale(f) * h @ p["M"] @ p["B"]
    )


TRUTHS = {"lora": lora, "trilora": trilora, "flora": flora, "kasa": kasa}
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
        {"r": 3, "init": "lora_one"},
        {"r": 3, "init": "corda"},
    ],
    "trilora": [{"r": 4}, {"r": 2, "dropout": 0.5}, {"r": 3, "init": "pissa"}],
    "kasa": [{"r": 3}, {"r": 2, "alpha": 3.0, "beta": 0.0, "gamma": 0.0, "dropout": 0.5}],
    "flora": [{"r": 4}, {"r": 2, "dropout": 0.5}, {"r": 3, "init": "orthogonal"}],
}
