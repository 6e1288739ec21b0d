"""Each relation between methods, as functions and as fits, on a weight with more rows and one with more columns."""

import json
from functools import cache

import pytest
import torch
from typer.testing import CliRunner

from subspace_tuning.algebra import Weight
from subspace_tuning.cli import app
from subspace_tuning.method import Params
from subspace_tuning.methods.relations import RELATIONS, relations_of
from subspace_tuning.theory import Search, project
from subspace_tuning.theory.reach import Reach

SIZES = [(8, 6), (6, 8)]
GRID = [(relation, size) for relation in RELATIONS for size in SIZES if relation.holds(*size)]
HOW = Search(steps=25, inner=15)
NEAR = 1e-4  # of ||W* - W||^2, where a search has stopped


def named(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else "-in-".join(reversed(value.names))


def is_map(relation):
    return all(f.mergeable for f in relation.on(*SIZES[0]))


def weight(size, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Weight(torch.randn(size, generator=draw, dtype=torch.float64))


def drawn(method, W):
    """Parameters away from where they start, and stored numbers."""
    torch.manual_seed(1)
    reach = Reach(method, W)
    return {k: v + 0.3 * torch.randn_like(v) if k in reach.trained else v for k, v in reach.resting.items()}


def on_rows(method, W, values, x):
    return method.phi(W, Params({**method.constants(W), **values})).apply(x)


@pytest.mark.parametrize(("relation", "size"), GRID, ids=named)
def test_what_the_inner_method_makes_of_a_weight_the_outer_one_makes_too(relation, size):
    W, (outer, inner) = weight(size), relation.on(*size)
    y = drawn(inner, W)
    x = relation.parameters(W, y)
    starts = outer.parameters(*size) | outer.stored(*size)
    assert {k: tuple(v.shape) for k, v in x.items()} == {k: s.shape for k, s in starts.items()}
    rows = torch.randn(50, size[0], dtype=torch.float64)
    got, want = on_rows(outer, W, x, rows), on_rows(inner, W, y, rows)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(want, rows @ W.dense(), rtol=1e-3)


@cache
def left(method, size):
    W = weight(size)
    W_star = Weight(W.dense() + 0.5 * weight(size, 1).dense())
    found = project(method, W, W_star, HOW)
    return found.left / found.whole


@pytest.mark.parametrize("relation", [r for r in RELATIONS if is_map(r)], ids=named)
def test_the_outer_method_fits_a_random_target_no_worse(relation):
    size = next(size for size in SIZES if relation.holds(*size))
    outer, inner = relation.on(*size)
    assert left(outer, size) <= left(inner, size) + NEAR


def test_relations_are_told_by_name():
    told = relations_of("trilora")
    assert any(line.startswith("equals `lora`") for line in told)
    assert "is in `flora` (M = diag(delta))" in told
    assert relations_of("prompt") == []


def test_the_command_tells_of_one_method():
    told = CliRunner().invoke(app, ["methods", "trilora"])
    assert told.exit_code == 0
    assert "is in `flora` (M = diag(delta))" in told.output
    (entry,) = json.loads(CliRunner().invoke(app, ["methods", "trilora", "--json"]).output)
    assert entry["relations"] == relations_of("trilora")
    assert CliRunner().invoke(app, ["methods", "trilorra"]).exit_code != 0
