"""W* = phi(W) for random parameters: the best fit finds it again, and captures all of W* - W."""

from typing import Any

import torch

from subspace_tuning.algebra import Weight
from subspace_tuning.method import Method, Params
from subspace_tuning.methods import DoRA
from subspace_tuning.testing.cases import Case, held_by, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind
from subspace_tuning.testing.law import law, mergeable, near, require
from subspace_tuning.theory import PATIENT, Projection, Search, project


def projects(case: Case, kind: Kind) -> bool:
    return mergeable(case, kind) and case.resolved.sits_on != "output"


def searched(case: Case, kind: Kind) -> bool:
    """No closed form; DoRA's own projection is where its search starts."""
    return projects(case, kind) and type(case.method).project in (Method.project, DoRA.project)


def solved(case: Case, kind: Kind) -> bool:
    return projects(case, kind) and not searched(case, kind)


@law(where=solved)
def projecting_what_a_method_reaches_finds_it_again(case: Case, kind: Kind) -> None:
    finds_again(case, kind)


@law(where=searched, first=2)
def searching_for_what_a_method_reaches_finds_it_again(case: Case, kind: Kind) -> None:
    """A search takes its time, and sees a matrix, whatever layer it is from."""
    finds_again(case, kind)


def finds_again(case: Case, kind: Kind) -> None:
    layer = tuned_layer(tuned(case, kind, dtype=torch.float64))
    found, W, W_star = project_planted(case, layer)
    several = case.several_valleys(*W.shape)
    least = 0.9 if several else 1 - 1e-6
    require(found.captured_energy > least, f"of W* - W {found.captured_energy:.8f} is captured, expected > {least}")
    if several:
        return
    if case.resolved.sits_on != "bias":
        E = case.resolved.phi(W, Params({**case.resolved.constants(W), **found.values}))
        near(E.dense() - W.dense(), W_star.dense() - W.dense(), 1e-3, "phi(W) - W of the parameters found")
    shapes, held = ({k: tuple(v.shape) for k, v in values.items()} for values in (found.values, held_by(layer)))
    require(shapes == held, f"the projection gives {shapes}, the layer holds {held}")


def project_planted(case: Case, layer: Any) -> tuple[Projection, Weight, Weight]:
    """The best fit to what the adapter on a layer makes of it; W and W*."""
    made = layer.tuned(["default"])
    W = Weight(made.W.dense().detach(), None if made.b is None else made.W.own_bias.detach()).known_as(layer.path)
    W_star = Weight(made.E.dense().detach(), None if made.b is None else made.b.now().detach())
    stored = dict(layer.subspace_stored["default"].items()) if "default" in layer.subspace_stored else None
    how = Search(tries=3) if case.several_valleys(*W.shape) else PATIENT
    return project(case.resolved, W, W_star, how, stored=stored), W, W_star
