"""The dense truths that the laws compare with: every method has one."""

from subspace_tuning import METHODS
from truths import ON_ROWS, TRUTHS


def test_every_registered_method_has_a_truth():
    for name, cls in METHODS.items():
        on_rows = not cls.mergeable and cls.sits_on not in ("tokens", "block")
        assert (name in TRUTHS) == bool(cls.mergeable), name
        assert (name in ON_ROWS) == on_rows, name
