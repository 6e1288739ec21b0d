"""The laws as a class of pytest tests: one test a law, one item a method and kind of base weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from subspace_tuning.method import Method
from subspace_tuning.testing.cases import Case
from subspace_tuning.testing.check import as_case
from subspace_tuning.testing.kinds import KINDS, Kind
from subspace_tuning.testing.law import LAWS, Instance

if TYPE_CHECKING:
    import pytest


class Laws:
    """Inherit from this under a name that pytest collects, and say which methods::

    class TestColumnSpace(Laws):
        methods = [ColumnSpace(), ColumnSpace(r=2)]
        truth = lambda method, W, b, p: (W + W @ p["A"] @ p["B"], b)
    """

    methods: ClassVar[Sequence[Method | Case]]
    truth: ClassVar[Callable[..., Any] | None] = None  # see Case
    kinds: ClassVar[Sequence[Kind]] = KINDS

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "instance" in metafunc.fixturenames:
            mine = type(self)
            law = LAWS[metafunc.function.__name__.removeprefix("test_")]
            cases = [as_case(method, mine.truth) for method in mine.methods]
            metafunc.parametrize("instance", list(law.instances(cases, mine.kinds)), ids=str)


def _test(name: str) -> Callable[..., None]:
    def test(self: Laws, instance: Instance) -> None:
        instance.holds()

    test.__name__, test.__doc__ = f"test_{name}", LAWS[name].holds.__doc__
    return test


for _name in LAWS:
    setattr(Laws, f"test_{_name}", _test(_name))
