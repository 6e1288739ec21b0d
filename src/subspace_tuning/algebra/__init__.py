"""Lazy matrix expressions over a frozen weight: what phi(W) is made of.

An expression stands for a matrix E in R^{n x m} (n inputs, m outputs) and is evaluated only against the rows x that
meet it: ``x @ E`` never builds an n x m matrix unless that takes fewer floating-point operations for the number of
rows at hand, and never does so where a dense n x m gradient would follow (``planner.py``).

    Weight       the frozen W, reached through its layer's own forward
    Dense        a small matrix (a factor such as A or B, or singular vectors)
    Diag         a diagonal matrix, held as its diagonal
    Sparse       numbers at fixed places
    Elementwise  h(.), dropout: a map of the rows, not of the weight
    Product      E1 E2 ... Ek, times a scalar
    Sum          E1 + E2 + ... + Ek
    Shift        x -> x + b, a bias between factors
    Hadamard     E o (A B), element-wise
    Kronecker    C (x) D
    BlockDiag    I + diag(D_1, ..., D_N); NearIdentity: I + L R
    Blocks       diag(M_1, ..., M_k); Regroup: a permutation between two of them
    Circulant    circulant blocks
    Repeated     [D; D; ...]
    Pairs        features mixed two by two
    Transformed  numbers at fixed places of another basis, Fourier's or Haar's
"""

from subspace_tuning.algebra.blocks import BlockDiag, Blocks, Regroup
from subspace_tuning.algebra.circulant import Circulant
from subspace_tuning.algebra.expr import Expr, Leaf, root
from subspace_tuning.algebra.factors import Dense, Diag, matrix
from subspace_tuning.algebra.frozen import Elementwise, Identity, NotALinearMap, Weight
from subspace_tuning.algebra.hadamard import Hadamard, khatri_rao, khatri_rao_rows
from subspace_tuning.algebra.kronecker import Kronecker
from subspace_tuning.algebra.line import line
from subspace_tuning.algebra.live import Live, now
from subspace_tuning.algebra.near_identity import NearIdentity
from subspace_tuning.algebra.pairs import Pairs
from subspace_tuning.algebra.products import Product, Sum
from subspace_tuning.algebra.repeated import Repeated
from subspace_tuning.algebra.shift import Shift
from subspace_tuning.algebra.sparse import Sparse
from subspace_tuning.algebra.transformed import FOURIER, HAAR, Transformed

__all__ = [
    "FOURIER",
    "HAAR",
    "BlockDiag",
    "Blocks",
    "Circulant",
    "Dense",
    "Diag",
    "Elementwise",
    "Expr",
    "Hadamard",
    "Identity",
    "Kronecker",
    "Leaf",
    "Live",
    "NearIdentity",
    "NotALinearMap",
    "Pairs",
    "Product",
    "Regroup",
    "Repeated",
    "Shift",
    "Sparse",
    "Sum",
    "Transformed",
    "Weight",
    "khatri_rao",
    "khatri_rao_rows",
    "line",
    "matrix",
    "now",
    "root",
]
