"""Captured gradient energy is what dense linear algebra says it is."""

from dataclasses import dataclass

import pytest
import torch

from cases import each
from subspace_tuning import METHODS
from subspace_tuning.advise.energy import captured
from subspace_tuning.advise.gradients import Seat
from subspace_tuning.method import Method, zeros
from subspace_tuning.method.catalogue import SMALL
from subspace_tuning.methods import SSB, SSL, LoRA, LoRAXS, PiSSA, VeRA
from subspace_tuning.theory.reach import Reach
from subspace_tuning.weights import weight_of

N, M = 48, 40
MAPS = [name for name, cls in METHODS.items() if cls.sits_on in ("weight", "bias") and cls().mergeable]


@dataclass(frozen=True)
class Everything(Method):
    """phi(W) = W + D: full fine-tuning of a weight."""

    category = "extension"

    def parameters(self, n, m):
        return {"D": zeros(n, m)}

    def phi(self, W, p):
        return W + p.D

    def project(self, W, W_star):
        return {"D": W_star.dense() - W.dense()}


@pytest.fixture
def seat():
    layer = torch.nn.Linear(N, M)
    return Seat("layer", "layer", weight_of(layer), torch.randn(N, M), torch.randn(M))


def share(G, part):
    return (part.square().sum() / G.square().sum()).item()


def test_full_fine_tuning_captures_all(seat):
    found = captured(Everything(), seat)
    assert found.kappa == pytest.approx(1.0, abs=1e-9)
    assert found.start == pytest.approx(1.0, abs=1e-3)
    assert found.parameters == N * M


@pytest.mark.parametrize("r", [1, 3, 12])
def test_LoRA_captures_the_largest_singular_values_and_starts_in_the_columns_of_A(seat, r):
    found, G = captured(LoRA(r=r), seat), seat.G.double()
    energies = torch.linalg.svdvals(G).square()
    assert found.kappa == pytest.approx((energies[:r].sum() / energies.sum()).item(), abs=2e-6)
    Q, _ = torch.linalg.qr(Reach(LoRA(r=r), seat.weights(1.0, torch.float32)[0]).resting["A"].double())
    assert found.start == pytest.approx(share(G, Q.T @ G), rel=2e-2)


def test_starts_that_fix_a_subspace_are_their_tangents(seat):
    G = seat.G.double()
    U, _, Vt = torch.linalg.svd(seat.held.dense().detach().double(), full_matrices=False)
    P, Q = U[:, :3] @ U[:, :3].T, Vt[:3].T @ Vt[:3]
    assert captured(PiSSA(r=3), seat).start == pytest.approx(share(G, P @ G + G @ Q - P @ G @ Q), rel=1e-2)
    assert captured(LoRAXS(r=3), seat).start == pytest.approx(share(G, P @ G @ Q), rel=1e-2)
    assert captured(LoRAXS(r=3), seat).kappa == pytest.approx(share(G, P @ G @ Q), rel=2e-3)
    c = VeRA(r=5).constants(seat.weights(1.0, torch.float32)[0])
    columns = torch.nn.functional.normalize((c["A"] @ c["B"]).double(), dim=0)
    assert captured(VeRA(r=5), seat).start == pytest.approx(share(G, (columns * G).sum(0)), rel=1e-2)
    assert captured(VeRA(r=5), seat).kappa is None


def test_scales_capture_the_projection_on_rows_of_W(seat):
    W, G = seat.held.dense().detach().double(), seat.G.double()
    along = (W * G).sum(1) / W.square().sum(1).sqrt()
    found = captured(SSL(), seat)
    assert found.kappa == pytest.approx(share(G, along), rel=2e-3)
    assert found.start == pytest.approx(share(G, along), rel=2e-3)
    assert captured(SSB(), seat).kappa >= found.kappa


def test_kappa_does_not_depend_on_the_size_of_the_gradient(seat):
    small = Seat("layer", "layer", seat.held, 1e-6 * seat.G, 1e-6 * seat.g)
    for method in (LoRA(r=2), SSB()):
        assert captured(method, small).kappa == pytest.approx(captured(method, seat).kappa, rel=1e-4)


@each(name=MAPS)
def test_no_method_captures_more_than_there_is(name, seat):
    method = METHODS[name]().with_fields(**SMALL)
    found = captured(method, seat)
    assert 0 <= found.start <= 1
    assert found.kappa is None or 0 <= found.kappa <= 1
