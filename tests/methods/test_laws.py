"""Every law on every method of the package, compositions and constrained methods, for every kind of base weight."""

from cases import CASES
from subspace_tuning.testing import Laws


class TestEveryMethod(Laws):
    methods = CASES
