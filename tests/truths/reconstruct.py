"""Truths of the methods that adjust the subspaces of W."""

import torch


def ssl(f, W, b, p):
    return W + p["delta"][:, None] * W, b


def ssb(f, W, b, p):
    return W * torch.outer(1 + p["delta1"], 1 + p["delta2"]), b


def ia3(f, W, b, p):
    return W + W * p["delta"][None, :], b


def ia3_output(f, W, b, p):
    return W + W * p["delta"], None if b is None else b + b * p["delta"]


def sam_parser(f, W, b, p):
    U, _, Vh = torch.linalg.svd(W, full_matrices=False)
    return W + torch.einsum("nk,k,km->nm", U, p["delta"], Vh), b


def bitfit(f, W, b, p):
    return W, b + p["delta"]


TRUTHS = {"ssl": ssl, "ssb": ssb, "ia3": ia3, "ia3_output": ia3_output, "sam_parser": sam_parser, "bitfit": bitfit}
ON_ROWS = {}
VARIANTS = {}
