"""The laws as a class of pytest tests: one test a law, one item a method, on every kind of base weight in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from subspace_tuning.method import Method
from subspace_tuning.testing.cases import Case
from subspace_tuning.testing.check import Broken, BrokenLaws, as_case, fails
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
        if "instances" in metafunc.fixturenames:
            mine = type(self)
            law = LAWS[metafunc.function.__name__.removeprefix("test_")]
            cases = [as_case(method, mine.truth) for method in mine.methods]
            spoken_of = [(case, found) for case in cases if (found := list(law.instances([case], mine.kinds)))]
            metafunc.parametrize(
                "instances", [found for _, found in spoken_of], ids=[str(case) for case, _ in spoken_of]
            )


def _test(name: str) -> Callable[..., None]:
    def test(self: Laws, instances: Sequence[Instance]) -> None:
        broken = [Broken(instance, error) for instance in instances if (error := fails(instance)) is not None]
        if broken:
            raise BrokenLaws(len(instances), broken) from broken[0].error

    test.__name__, test.__doc__ = f"test_{name}", LAWS[name].holds.__doc__
    return test


for _name in LAWS:
    setattr(Laws, f"test_{_name}", _test(_name))
