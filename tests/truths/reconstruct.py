"""Truths of the methods that adjust the subspaces of W."""

import torch


def ssl(f, W, b, p):
    return p["d"][:, None] * W, b


def ssb(f, W, b, p):
    return p["d1"][:, None] * W * p["d2"][None, :], b


def ia3(f, W, b, p):
    return W * p["d"][None, :], b


def ia3_output(f, W, b, p):
    return W * p["d"], None if b is None else b * p["d"]


def sam_parser(f, W, b, p):
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    return torch.einsum("nk,k,km->nm", U, p["s"], Vh), b


def bitfit(f, W, b, p):
    return W, b + p["delta"]


TRUTHS = {"ssl": ssl, "ssb": ssb, "ia3": ia3, "ia3_output": ia3_output, "sam_parser": sam_parser, "bitfit": bitfit}
ON_ROWS = {}
VARIANTS = {}
