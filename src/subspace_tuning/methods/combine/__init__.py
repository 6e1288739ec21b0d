"""Combination: phi(W) = g(f(W)), both or not separable."""
