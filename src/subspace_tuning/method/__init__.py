"""What a method is: its equation, its parameters, its name; how methods compose and are constrained."""

from subspace_tuning.method.composition import Composition, members
from subspace_tuning.method.method import Method, Seat, steps_of
from subspace_tuning.method.parameters import Constants, Params, Start, constant, kaiming, normal, ones, zeros

__all__ = [
    "Composition",
    "Constants",
    "Method",
    "Params",
    "Seat",
    "Start",
    "constant",
    "kaiming",
    "members",
    "normal",
    "ones",
    "steps_of",
    "zeros",
]
