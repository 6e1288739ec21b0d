"""What each method must compute, written a second time and plainly: the dense phi(W) and bias in float64.

A file here has three dictionaries by method name. Adding a method to the package adds to one of them: its truth, and,
if it wants more than its default fields tried, its variants. Nothing here uses the package's algebra.

    TRUTHS    maps of the weight: (method's fields, W (n, m), b (m,) or None, parameters) -> phi(W), bias
    ON_ROWS   no map of the weight: (method's fields, rows x (..., n), W, b, parameters) -> rows (..., m)
    VARIANTS  fields to try instead of the defaults
"""

from truths import (
    adapters,
    adaptive,
    extend,
    lengths,
    patterned,
    reconstruct,
    rotations,
    sharing,
    singular,
    sparse,
    structured,
)

FAMILIES = (
    reconstruct,
    extend,
    sparse,
    adaptive,
    singular,
    adapters,
    structured,
    patterned,
    lengths,
    rotations,
    sharing,
)
TRUTHS = {name: truth for family in FAMILIES for name, truth in family.TRUTHS.items()}
ON_ROWS = {name: truth for family in FAMILIES for name, truth in family.ON_ROWS.items()}
SEVERAL_VALLEYS = sharing.SEVERAL_VALLEYS | structured.SEVERAL_VALLEYS
VARIANTS = {name: fields for family in FAMILIES for name, fields in family.VARIANTS.items()}


def plain(x, W, b):
    return x @ W if b is None else x @ W + b


def dense_truth(method, W, b, p):
    """phi(W) and the bias of a method, a composition or a method held to a pattern.

    Members of a composition find the weight as it was before the first of them among the parameters: ``frozen``.
    """
    if hasattr(method, "members"):
        frozen = W
        for i, member in enumerate(method.members):
            W, b = dense_truth(member, W, b, {"frozen": frozen, **_within(p, i)})
        return W, b
    if hasattr(method, "method"):
        method = method.method
    return TRUTHS[method.name](method, W, b, p)


def rows_truth(method, x, W, b, p):
    """phi on rows x (..., n), for maps of the weight and for others."""
    if method.mergeable:
        return plain(x, *dense_truth(method, W, b, p))
    if hasattr(method, "members"):
        *first, last = method.members
        for i, member in enumerate(first):
            W, b = dense_truth(member, W, b, _within(p, i))
        return rows_truth(last, x, W, b, _within(p, len(first)))
    return ON_ROWS[method.name](getattr(method, "method", method), x, W, b, p)


def truth_of(method):
    """The truth as the laws take it (see ``subspace_tuning.testing.Case``)."""
    return dense_truth if method.mergeable else rows_truth


def valleys_of(method):
    """Where a search for the method's best fit may end in a lesser valley (see ``subspace_tuning.testing.Case``)."""
    several = SEVERAL_VALLEYS.get(method.name, lambda f, n, m: False)
    return lambda n, m: several(method, n, m)


def _within(p, i):
    return {k.removeprefix(f"{i}_"): v for k, v in p.items() if k.startswith(f"{i}_")}
