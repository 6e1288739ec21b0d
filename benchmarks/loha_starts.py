"""How often Levenberg-Marquardt finds a planted (A1 B1) o (A2 B2) again, from random starts.

    python benchmarks/loha_starts.py [--starts 16] [--planted 2] [--steps 100]

The whole Jacobian in double precision, so that what is missed is the landscape's and not the search's.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

CASES = [(14, 10, 8), (14, 21, 8), (14, 10, 5), (14, 21, 5), (14, 10, 2), (14, 21, 2)]  # n, m, r: as in the laws


def factors(n: int, m: int, r: int, size: float, seed: int) -> list[Tensor]:
    """A1, B1, A2, B2, normal."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, r), (r, m), (n, r), (r, m))
    return [size * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def reached(P: list[Tensor]) -> Tensor:
    A1, B1, A2, B2 = P
    return (A1 @ B1) * (A2 @ B2)


def jacobian(P: list[Tensor]) -> Tensor:
    """d vec(dW) / d vec(A1, B1, A2, B2), (n m, 2 r (n + m))."""
    A1, B1, A2, B2 = P
    n, m = len(A1), B1.shape[1]
    rows, columns = torch.eye(n).to(A1), torch.eye(m).to(A1)
    parts = []
    for A, B, other in ((A1, B1, A2 @ B2), (A2, B2, A1 @ B1)):
        parts.append(torch.einsum("ia,kj,ij->ijak", rows, B, other).reshape(n * m, -1))
        parts.append(torch.einsum("ik,jb,ij->ijkb", A, columns, other).reshape(n * m, -1))
    return torch.cat(parts, 1)


def missed(D: Tensor, P: list[Tensor], steps: int) -> float:
    """The share of ||D||^2 that a descent from P leaves."""
    damping, rest = 1e-2, D - reached(P)
    whole, left = D.square().sum().item(), rest.square().sum().item()
    for _ in range(steps):
        J = jacobian(P)
        H, g = J.T @ J, J.T @ rest.flatten()
        step = torch.linalg.solve(H + damping * H.diagonal().mean() * torch.eye(len(H)).to(H), g)
        moves = step.split([p.numel() for p in P])
        trial = [p + d.view_as(p) for p, d in zip(P, moves, strict=True)]
        rest_there = D - reached(trial)
        if (there := rest_there.square().sum().item()) < left:
            P, rest, left, damping = trial, rest_there, there, max(damping / 3, 1e-14)
        else:
            damping *= 4
        if left < 1e-12 * whole or damping > 1e12:
            break
    return left / whole


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--starts", type=int, default=16)
    options.add_argument("--planted", type=int, default=2)
    options.add_argument("--steps", type=int, default=100)
    chosen = options.parse_args()
    print("| $n \\times m$ | r | free numbers, of $n m$ | found again | the others leave |\n|---|---|---|---|---|")
    for n, m, r in CASES:
        left = []
        for planted in range(chosen.planted):
            D = reached(factors(n, m, r, 0.3, planted))
            size = (D.square().mean().sqrt() / r).sqrt().sqrt().item()
            left += [missed(D, factors(n, m, r, size, 100 + s), chosen.steps) for s in range(chosen.starts)]
        lost = [x for x in left if x > 1e-6]
        told = f"{min(lost):.1g} to {max(lost):.1g}" if lost else ""
        free = 2 * r * (n + m) - 2 * r**2 - (n + m - 1)
        print(f"| {n} x {m} | {r} | {free} of {n * m} | {len(left) - len(lost)} of {len(left)} | {told} |", flush=True)


if __name__ == "__main__":
    main()
