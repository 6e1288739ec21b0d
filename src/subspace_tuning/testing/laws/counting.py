"""A method trains as many numbers as its formula says."""

import re

from subspace_tuning.testing.cases import Case, adapter_parameters, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind
from subspace_tuning.testing.law import law, require, single


def evaluate(formula: str, **values: float) -> float:
    """A formula such as ``r (n + m)``, multiplication implied."""
    explicit = re.sub(r"([\w)])\s+(?=[\w(])", r"\1 * ", formula)
    count: float = eval(explicit, {"__builtins__": {"max": max, "min": min, "round": round}}, values)
    return count


@law(where=single)
def parameter_count_is_the_formula(case: Case, kind: Kind) -> None:
    model, method = tuned(case, kind), case.method
    n, m = kind.matrix(tuned_layer(model).base_layer).shape
    fields = {k: v for k, v in vars(method).items() if isinstance(v, int | float)}
    counted = sum(p.numel() for p in adapter_parameters(model).values())
    says = evaluate(method.formula, n=n, m=m, k=min(n, m), **fields, **method.sizes(n, m))
    require(counted == says, f"{counted} numbers are trained, the formula {method.formula!r} says {says}")
    for counter, found in {"count": method.count(n, m), "PEFT": model.get_nb_trainable_parameters()[0]}.items():
        require(counted == found, f"{counted} numbers are trained, {counter} says {found}")
