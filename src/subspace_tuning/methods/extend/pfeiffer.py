"""Pfeiffer adapter: one bottleneck in each block."""

from dataclasses import dataclass

from subspace_tuning.method.registry import register
from subspace_tuning.methods.extend.houlsby import Bottleneck


@register("pfeiffer")
@dataclass(frozen=True)
class Pfeiffer(Bottleneck):
    """y -> y + h(y A + a) B + b, after the feed-forward.

    One in each block; half as many numbers as Houlsby's of the same size r, hence twice the size by default.
    Source: arXiv:2005.00247; arXiv:2407.05417, eq. (27).
    """

    r: int = 16

    paper = "arXiv:2005.00247"
    places = "ff_output"
