"""Truths of the methods whose update has a structure of its own: random, rotated, element-wise, Kronecker, curved."""

import torch


def _uniform(seed, shape, variance):
    """seed: a number, or a generator that goes on."""
    bound = (3 * variance) ** 0.5
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).double()


def vera(f, W, b, p):
    n, m = W.shape
    if not f.cut_n:
        A, B = _uniform(2 * f.seed, (n, f.r), 2 / n), _uniform(2 * f.seed + 1, (f.r, m), 2 / f.r)
    else:
        N, M, stream = f.cut_n, f.cut_m, torch.Generator().manual_seed(f.seed)
        A, B = _uniform(stream, (f.r, N), 2 / N).T[:n], _uniform(stream, (M, f.r), 2 / f.r).T[:, :m]
    return W + torch.einsum("nr,r,rm,m->nm", A, f.d_initial + p["delta"], B, p["b"]), b


def moslora(f, W, b, p):
    return W + f.alpha / f.r * torch.einsum("nr,rs,sm->nm", p["A"], p["M"], p["B"]), b


def randlora(f, W, b, p):
    n, m = W.shape
    N, k = len(p["l"]), min(n, m)
    P = _uniform(2 * f.seed, (max(n, m), N * f.r), 1.0)
    Q = _uniform(2 * f.seed + 1, (f.r, k), 1.0)
    update = torch.zeros(max(n, m), k, dtype=W.dtype)
    for j in range(N):
        update = update + P[:, j * f.r : (j + 1) * f.r] @ torch.diag(p["l"][j]) @ Q @ torch.diag(p["g"][j])
    return W + f.alpha / f.r * (update if n > m else update.T), b


def oft(f, W, b, p):
    n, q, R = W.shape[0], p["q"], []
    for start in range(0, n, f.b):
        size = min(f.b, n - start)
        Q = torch.zeros(size, size, dtype=W.dtype)
        for i in range(size):
            for j in range(i):
                Q = Q + q[0] * (_unit(size, i, j) - _unit(size, j, i))
                q = q[1:]
        eye = torch.eye(size, dtype=W.dtype)
        inverse = sum(torch.linalg.matrix_power(Q, k) for k in range(f.terms - 1)) if f.terms else (eye - Q).inverse()
        R.append((eye + Q) @ inverse)
    return torch.block_diag(*R) @ W, b


def _unit(size, i, j):
    E = torch.zeros(size, size, dtype=torch.float64)
    E[i, j] = 1
    return E


def loha(f, W, b, p):
    return W + f.alpha / f.r * (p["A1"] @ p["B1"]) * (p["A2"] @ p["B2"]), b


def loha_valleys(f, n, m):
    """Where two products have fewer free numbers than W: A B = (A T) (T^-1 B), and rows and columns have a scale."""
    return 2 * f.r * (n + m) - 2 * f.r**2 - (n + m - 1) < n * m


def lokr(f, W, b, p):
    D = p["D"] if "D" in p else p["D1"] @ p["D2"]
    blocks = [torch.cat([c * D for c in row], 1) for row in p["C"]]
    return W + f.alpha / f.r * torch.cat(blocks, 0), b


def hira(f, W, b, p):
    return W * (1 + p["A"] @ p["B"]), b


def liera(f, W, b, p):
    M = f.alpha / f.r * p["A"] @ p["B"]
    return W * (1 + M if f.order == "first" else M.exp()), b


def stella(f, W, b, p):
    return W + f.alpha / f.r * p["U"] @ p["S"] @ p["V"].T, b


TRUTHS = {
    "vera": vera,
    "moslora": moslora,
    "randlora": randlora,
    "oft": oft,
    "loha": loha,
    "lokr": lokr,
    "hira": hira,
    "liera": liera,
    "stella": stella,
}
ON_ROWS = {}
VARIANTS = {
    "vera": [{}, {"r": 5, "seed": 3}, {"r": 5, "seed": 3, "cut_n": 64, "cut_m": 72}],
    "moslora": [{"r": 4}, {"r": 2, "mixer": "orthogonal", "dropout": 0.5}],
    "randlora": [{"r": 4}, {"r": 5, "alpha": 2.0, "seed": 1}],
    "oft": [{}, {"b": 2}, {"b": 4}],
    "loha": [{"r": 2}, {"r": 5}],
    "lokr": [{"r": 2}, {"r": 9}, {"r": 3, "factor": 1}],
    "hira": [{"r": 3}],
    "liera": [{"r": 3}, {"r": 3, "order": "exponential"}, {"r": 2, "dropout": 0.5}],
    "stella": [{"r": 4}, {"r": 2, "dropout": 0.5}],
}
SEVERAL_VALLEYS = {"loha": loha_valleys}
