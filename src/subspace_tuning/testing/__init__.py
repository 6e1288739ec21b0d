"""The laws of this package for methods that live elsewhere: ``check`` tries them, ``Laws`` makes them pytest tests."""

from subspace_tuning.testing.cases import Case
from subspace_tuning.testing.check import BrokenLaws, check
from subspace_tuning.testing.kinds import KINDS, Kind
from subspace_tuning.testing.law import LAWS, Law, law
from subspace_tuning.testing.suite import Laws

__all__ = ["KINDS", "LAWS", "BrokenLaws", "Case", "Kind", "Law", "Laws", "check", "law"]
