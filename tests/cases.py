"""Every method with every variant, compositions and constraints."""

from typing import Any

import pytest

from subspace_tuning import METHODS, SSB, BitFit, FLoRA, LoRA, TriLoRA
from subspace_tuning.method import Method
from subspace_tuning.methods import DoRA
from subspace_tuning.testing import Case
from subspace_tuning.testing.law import label
from truths import VARIANTS, truth_of, valleys_of


def case(method: Method, mpc: str | None = None) -> Case:
    made = Case(method, mpc)
    return made._replace(truth=truth_of(made.resolved), several_valleys=valleys_of(method))


ON_LAYERS = [name for name in sorted(METHODS) if METHODS[name].sits_on not in ("tokens", "block")]
SINGLE = [case(METHODS[name](**fields)) for name in ON_LAYERS for fields in VARIANTS.get(name, [{}])]
COMPOSED = [
    case(SSB() | LoRA(r=2)),
    case(LoRA(r=2) | SSB()),
    case(SSB() | BitFit()),
    case(SSB() | FLoRA(r=2), "o"),
    case(SSB() | DoRA(r=2)),  # the norms of a weight that is itself an expression
    case(LoRA(r=2, dropout=0.5) | DoRA(r=2)),
]
CONSTRAINED = [
    *(case(LoRA(r=3), mpc) for mpc in "odn"),
    *(case(method, mpc) for method in (TriLoRA(r=3), FLoRA(r=3)) for mpc in "on"),
]
CASES = SINGLE + COMPOSED + CONSTRAINED


def each(**grid: list) -> Any:
    """Parametrise over named lists, with readable ids."""

    def add(test: Any) -> Any:
        for name, values in grid.items():
            test = pytest.mark.parametrize(name, values, ids=label)(test)
        return test

    return add
