"""Truths of the methods whose low-rank product changes between steps of training."""

import torch


def adalora(f, W, b, p):
    s = f.alpha / (f.init_r**0.5 if f.rank_stabilized else f.init_r)
    return W + s * torch.einsum("nr,r,rm->nm", p["A"], p["d"], p["B"]), b


def flexlora(f, W, b, p):
    s = f.alpha / (f.r**0.5 if f.rank_stabilized else f.r)
    in_use = [i for i, used in enumerate(p["a"].tolist()) if used]
    return W + s * sum(p["d"][i] * torch.outer(p["A"][:, i], p["B"][i]) for i in in_use), b


def lora_dash(f, W, b, p):
    s = f.alpha / (f.r**0.5 if f.rank_stabilized else f.r)
    along = sum(p["d"][i] * torch.outer(p["U"][:, i], p["Vt"][i]) for i in range(f.directions))
    return W + s * p["A"] @ p["B"] + along, b


TRUTHS = {"adalora": adalora, "flexlora": flexlora, "lora_dash": lora_dash}
ON_ROWS = {}
VARIANTS = {
    "adalora": [{"r": 2, "init_r": 3}, {"r": 1, "init_r": 2, "orthogonality": 0.0, "dropout": 0.5}],
    "flexlora": [{"r": 2}, {"r": 2, "max_r": 2, "orthogonality": 0.0, "dropout": 0.5}, {"r": 3, "max_r": 30}],
    "lora_dash": [{"r": 2, "directions": 3, "launch": 1}],
}
