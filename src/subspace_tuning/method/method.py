"""What a method is: hyper-parameters, parameters and the equation phi(W); how methods compose.

A method is a frozen dataclass. Its fields are the hyper-parameters, the config, the command-line flags and the
checkpoint metadata at once; everything else is derived from the few functions below.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from subspace_tuning.algebra import Expr, Identity, Weight, line
from subspace_tuning.method.parameters import Constants, Params, Start

if TYPE_CHECKING:
    from subspace_tuning.method.composition import Composition


def steps_of(number: float, total: int) -> int:
    """A number of steps of training, given as such or, below 1, as a share of all steps."""
    return int(number) if number >= 1 else round(number * total)


class Seat(Protocol):
    """One layer as a method sees it between steps of training."""

    name: str  # of the module
    W: Weight  # frozen
    values: Mapping[str, Tensor]  # parameters (with their .grad), stored numbers and constants, by name
    memory: dict[str, Any]  # what the method remembers from step to step; saved beside the optimiser's moments

    def within(self, prefix: str) -> Seat: ...


@dataclass(frozen=True)
class Method(ABC):
    """One way to fine-tune: phi(W) = g(f(W)).

    The docstring's first line of a method is its equation, the last its source.
    """

    name: ClassVar[str] = ""
    category: ClassVar[str]  # reconstruction | extension | combination
    mode: ClassVar[str] = ""  # for reconstructions: what of the subspaces is adjusted
    formula: ClassVar[str]  # parameters of one weight; in n, m, k = min(n, m), the fields and the sizes
    paper: ClassVar[str]
    sits_on: ClassVar[str] = "weight"  # weight | bias | output | block | tokens
    places: ClassVar[str] = "all"  # default modules: see tuner/targets.py
    learning_rate: ClassVar[float] = 1e-3
    mergeable: ClassVar[bool] = True
    noisy: ClassVar[bool] = False  # True where training draws random numbers, dropout apart
    wide: ClassVar[bool] = False  # True where the rank r may exceed n and m
    rebuilds: ClassVar[bool] = False  # True where training forms a dense n x m gradient, because nothing cheaper exists
    starts_at: ClassVar[str] = "W"  # what phi(W) is before training
    no_decay: ClassVar[str] = ""  # why weight decay would not lead phi(W) back to W; "" where it does
    pairs: ClassVar[tuple[tuple[str, str], ...]] = (("A", "B"),)  # factors that phi multiplies, if they are trained
    shared: ClassVar[Mapping[str, str]] = {}  # parameter -> the layers that share it: of one "shape", "kind"; "model"
    calibration: ClassVar[tuple[str, ...]] = ()  # what the start needs to know of the data: see calibrate.py

    def __post_init__(self) -> None:
        r = getattr(self, "r", None)
        if r is not None and (isinstance(r, bool) or not isinstance(r, int) or r <= 0):
            raise ValueError(f"{self.name}: the rank r is a whole number above 0, got r={r!r}")

    @abstractmethod
    def parameters(self, n: int, m: int) -> dict[str, Start]:
        """The trained parameters of a weight in R^{n x m}: name -> shape and start."""

    def sizes(self, n: int, m: int) -> dict[str, int]:
        """What else the formula names, beside r, n and m: name -> number, for a weight in R^{n x m}."""
        return {}

    def constants(self, W: Weight) -> dict[str, Tensor]:
        """name -> frozen tensor that phi needs, computed once from W in R^{n x m} and never stored in a checkpoint."""
        return {}

    def stored(self, n: int, m: int) -> dict[str, Start]:
        """Numbers that phi needs, that training does not change and that a checkpoint stores (the places of a mask)."""
        return {}

    def calibrated(self, W: Weight, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """name -> parameter or stored number as it starts, given what ``calibration`` asked of the data."""
        return {}

    def phi(self, W: Expr, p: Params) -> Expr:
        """The equation: W in R^{n x m} -> phi(W) in R^{n x m}."""
        return W

    def whole(self, p: Params) -> Params:
        """The parameters with factors A and B as they stand, where what is trained is added to a start."""
        return p

    def factor_pairs(self) -> list[tuple[str, str, float]]:
        """The names of factors A and B that phi multiplies, and the scale s of s A B; see optim/."""
        return [(A, B, getattr(self, "s", 1.0)) for A, B in self.pairs]

    def bias(self, b: Any, p: Params) -> Any:
        """The bias b (m,) after tuning; None where the layer has none."""
        return b

    def output(self, m: int, p: Params) -> Expr | None:
        """For methods that sit on a module's output y (..., m): what becomes of y, as an expression in R^{m x m}."""
        return None

    def phi_t(self, W: Expr, p: Params, t: float) -> Expr:
        """W + t (phi(W) - W).

        The strength dial, from W (t = 0) to phi(W) (t = 1): a straight line unless the equation knows better. The first
        line of this docstring is the method's rule in the documentation.
        """
        return line(W, self.phi(W, p), t)

    def bias_t(self, b: Any, p: Params, t: float) -> Any:
        """The bias b (m,) at a strength t."""
        made = self.bias(b, p)
        return b if made is b else b + t * (made - b)

    def output_t(self, m: int, p: Params, t: float) -> Expr | None:
        """What becomes of a module's output y (..., m) at a strength: y + t (output(y) - y)."""
        made = self.output(m, p)
        return made and line(Identity(m), made, t)

    def project(self, W: Weight, W_star: Weight) -> dict[str, Tensor]:
        """name -> parameter or stored number, so that phi(W) is as near to W* in R^{n x m} as it comes, bias included.

        Near in Frobenius distance. In closed form where there is one, else good ones to search on from; nothing where
        the search is on its own (see theory/project.py).
        """
        return {}

    def before_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        """Called with the gradients of step 1, 2, ..., total at hand; all layers of an adapter at once."""

    def after_step(self, seats: Sequence[Seat], step: int, total: int) -> None:
        """Called when the optimiser has taken that step."""

    def penalty(self, p: Params, among: int = 1) -> Tensor | None:
        """A term for the loss, a number (), or None: the part of one weight in a mean over ``among`` weights.

        Its gradient joins that of the loss at each step of the optimiser.
        """
        return None

    def packed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """name -> tensor as a checkpoint stores it, from the parameters by name."""
        return values

    def unpacked(self, values: dict[str, Tensor], constants: Constants, n: int, m: int) -> dict[str, Tensor]:
        """name -> parameter of a weight in R^{n x m}, from those of a checkpoint, given the constants that it made."""
        return values

    def check(self, n: int, m: int) -> None:
        """Raise ValueError where a weight in R^{n x m} is too small for the method."""
        r = getattr(self, "r", None)
        if r is not None and r > min(n, m) and not self.wide:
            raise ValueError(
                f"{self.describe()}: the rank r={r} is larger than this weight allows, which is {n} x {m}; "
                f"choose r <= {min(n, m)} or leave the module out"
            )

    def fitted(self, n: int, m: int) -> Method:
        """The method with no larger rank than it may have on a weight in R^{n x m}."""
        r = getattr(self, "r", 0)
        return self.with_fields(r=min(n, m)) if r > min(n, m) and not self.wide else self

    def count(self, n: int, m: int) -> int:
        """Trained numbers for a weight in R^{n x m}."""
        return sum(torch.Size(start.shape).numel() for start in self.parameters(n, m).values())

    @property
    def on_step(self) -> bool:
        """Whether the method has something to do at each step of training."""
        mine = type(self)
        return mine.before_step is not Method.before_step or mine.after_step is not Method.after_step

    @property
    def penalises(self) -> bool:
        """Whether the method has a penalty."""
        return type(self).penalty is not Method.penalty

    @property
    def needs_total(self) -> bool:
        """Whether what it does at a step goes by the number of all steps."""
        return False

    def with_fields(self, **values: Any) -> Method:
        """A copy with other hyper-parameters; the ones that the method does not have are left out."""
        mine = {f.name for f in fields(self)}
        return dataclasses.replace(self, **{k: v for k, v in values.items() if k in mine})

    def describe(self) -> str:
        """The name with all fields, as people read it."""
        values = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{self.name}({values})"

    @classmethod
    def equation(cls) -> str:
        """The first line of the docstring, as pages and tables show it."""
        return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")

    def __or__(self, other: Method) -> Composition:
        """self | other: phi(W) = other.phi(self.phi(W)); first reconstruct, then extend."""
        from subspace_tuning.method.composition import compose

        return compose(self, other)
