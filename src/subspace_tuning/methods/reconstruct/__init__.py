"""Reconstruction: phi(W) = f(W), the subspaces of W themselves are adjusted."""
