"""Makes docs/kinds.md: which method sits on which kind of weight, trains there, and merges, all of it tried.

    python benchmarks/kinds.py

Each method is put on a network of one layer of each kind, starts from what the network was, is trained for two steps,
merged and unmerged. Half a minute on one core.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from subspace_tuning import SubspaceConfig
from subspace_tuning.files.aside import write
from subspace_tuning.files.markdown import table
from subspace_tuning.testing.cases import Case, adapter_parameters
from subspace_tuning.testing.convolutions import CONVOLUTIONS
from subspace_tuning.testing.kinds import KINDS
from subspace_tuning.testing.law import relative
from subspace_tuning.tuner.calibrate import calibrate
from subspace_tuning.weights.written import NotTaken

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
PAGE = ROOT / "docs" / "kinds.md"
D = 14
MERGES, TRAINS, LEFT = "merges", "trains", ""
NEAR = 1e-5
HEAD = """\
<!-- made by `python benchmarks/kinds.py` from what was tried: edit that, not this page -->
# Kinds of weight

A method is an equation in W, and W is what a layer keeps, whatever kind of layer it is. On each kind every method was
put on a network of one layer, where it starts from what the network was, trained for two steps, merged, and unmerged.

- **merges**: it trains there, phi(W) written into the layer computes the same (within 1e-5), and unmerging puts the
  original back bit for bit;
- **trains**: it trains there and stays an adapter: it is no map of the weight, or the layer cannot hold phi(W);
- nothing: it has no seat there, and a sentence says why before anything is touched.

| kind | W in R^{n x m} | rows |
| --- | --- | --- |
| Linear, Conv1D of GPT-2 | its weight | the inputs |
| convolution, 1 to 3 dimensions | weight flattened, n = in x kernel, m = out | the patches |
| transposed convolution | the same | for each output, the inputs that come to it |
| in groups, both | the groups side by side, n = in / groups x kernel | none meets all of W: phi(W) is built |
| embedding, scaled ones too (Gemma's, BART's) | its weight, n = vocabulary | one-hot, times the scale |
| slice | the columns of one role in a fused weight: `c_attn.key` | the inputs |
| torch's attention | `in_proj_weight` for one role: `self_attn.key`; `self_attn.out_proj` | read: phi(W) is built |
| experts | W of each expert, phi for each ([experts](experts.md)) | those that are sent to it |
| norm | none: its bias alone | |
| weight_norm | what its g and v make; both are written in merging | the inputs |
| spectral_norm | what it makes of the stored weight, which can hold no other norm than 1 | the inputs |

Where phi(W) is built, in training too, its gradient has n m numbers, and dropout on rows has no place. Weights that
Mamba's kernels and the blocks of `nn.TransformerEncoderLayer` read on some paths are called on the others: there phi(W)
is built only for the kernels. A parametrization that can hold any weight (weight_norm, old or new, or one with an
exact `right_inverse`) is merged into; where it cannot (spectral_norm, orthogonal, pruned) merging is refused before
anything is written.

"""


class Seat(NamedTuple):
    """A network, the modules to tune, and inputs."""

    name: str
    net: Callable[[], nn.Module]
    targets: list[str]
    inputs: Callable[[], Tensor]


class One(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)


def _attention() -> nn.Module:
    return One(nn.MultiheadAttention(D, 2, batch_first=True))


def _layer(name: str, make: Callable[[], nn.Module], inputs: Callable[[], Tensor]) -> Seat:
    return Seat(name, lambda: One(make()), ["layer"], inputs)


def _rows() -> Tensor:
    return torch.randn(3, 5, D)


def _experts() -> nn.Module:
    from test_experts import gpt_oss

    return gpt_oss()


def _ids() -> Tensor:
    return torch.randint(17, (3, 5))


def seats() -> Iterator[Seat]:
    sys.path.insert(0, str(ROOT / "tests" / "weights"))
    kinds = {kind.name: kind for kind in (*KINDS, *CONVOLUTIONS)}
    shown = {"linear": "Linear", "conv1d": "Conv1D (GPT-2)", "conv1d_torch": "Conv1d", "conv2d": "Conv2d"}
    shown |= {"conv3d": "Conv3d", "conv_transposed2d": "ConvTranspose2d", "conv_grouped": "Conv2d in groups"}
    shown |= {"embedding": "Embedding"}
    for key, name in shown.items():
        kind = kinds[key]
        yield _layer(name, kind.layer, lambda kind=kind: kind.x(3))
    yield _layer("scaled embedding", lambda: Gemma3TextScaledWordEmbedding(17, D, 0, 3.0), _ids)
    yield _layer("slice", kinds["slice"].layer, _rows)
    yield Seat("query of attention", _attention, ["layer.query"], _rows)
    yield Seat("output of attention", _attention, ["layer.out_proj"], _rows)
    yield Seat("experts", _experts, ["experts.gate_up_proj"], lambda: torch.randn(5, D))
    yield _layer("norm", lambda: nn.LayerNorm(D), _rows)
    yield _layer("weight_norm", lambda: parametrizations.weight_norm(nn.Linear(D, 10)), _rows)
    yield _layer("spectral_norm", lambda: parametrizations.spectral_norm(nn.Linear(D, 10)), _rows)


def tried(case: Case, seat: Seat) -> tuple[str, str]:
    """What a method does on a kind of weight, and why not more. Raises AssertionError where that is wrong."""
    torch.manual_seed(0)
    net, x = seat.net().eval(), seat.inputs()
    plain = net(x).detach()
    try:
        model: Any = get_peft_model(net, SubspaceConfig(method=case.resolved, target_modules=seat.targets)).eval()
        if case.resolved.calibration:
            calibrate(model, [seat.inputs()], loss=lambda model, x: (model(x) - 1).square().mean())
    except ValueError as error:
        return LEFT, str(error)
    if not case.resolved.calibration:
        assert relative(model(x), plain) < NEAR, "it does not start from the network as it was"
    start, optimiser = model(x).detach(), torch.optim.Adam(adapter_parameters(model).values(), lr=0.05)
    for _ in range(2):
        optimiser.zero_grad()
        (model.train()(x) - 1).square().sum().backward()
        optimiser.step()
    want = model.eval()(x).detach()
    assert relative(want, start) > 1e-4, "two steps change nothing"
    before = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        model.merge_adapter()
    except (ValueError, NotTaken) as error:
        assert torch.equal(model(x), want), "a refusal leaves something behind"
        return TRAINS, str(error)
    assert relative(model(x), want) < NEAR, "merged, it computes something else"
    model.unmerge_adapter()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "unmerging leaves something behind"
    return MERGES, ""


def page() -> str:
    from cases import SINGLE

    cases = {case.method.name: case for case in reversed(SINGLE)}
    tuned = list(seats())
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(cases):
        cells = []
        for seat in tuned:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    cells.append(tried(cases[name], seat)[0])
                except Exception as error:
                    raise RuntimeError(f"{name} on {seat.name}: {error}") from error
        rows.setdefault(tuple(cells), []).append(f"[`{name}`](methods.md#{name})")
        print(name, *cells, sep="  ", flush=True)
    lines = ((" ".join(methods), *cells) for cells, methods in sorted(rows.items(), key=lambda row: -len(row[1])))
    return HEAD + table(("methods", *(seat.name for seat in tuned)), lines)


if __name__ == "__main__":
    write(PAGE, page())
    print(PAGE)
