"""Weight decay leads phi(W) back to W; parameters kept in half precision train."""

import torch
from torch import Tensor

from subspace_tuning.testing.cases import Case, adapter_parameters, sits, tuned, tuned_layer
from subspace_tuning.testing.kinds import Kind, inputs
from subspace_tuning.testing.law import law, relative, require

HALVINGS = 14


def decays(case: Case, kind: Kind) -> bool:
    return sits(case, kind) and not case.resolved.no_decay


@law(where=decays, first=1)
def decay_alone_leads_back_to_W(case: Case, kind: Kind) -> None:
    """All parameters halved again and again: the output comes near that of the base layer, and goes never far away."""
    model, x = tuned(case, kind), inputs(kind)
    with torch.no_grad():
        want = tuned_layer(model).base_layer(x)
        away = [relative(model(x), want)]
        for _ in range(HALVINGS):
            for p in adapter_parameters(model).values():
                p.mul_(0.5)
            away.append(relative(model(x), want))
    require(away[0] > 1e-3, "the adapter changes nothing")
    require(away[-1] < 1e-2 * away[0] or away[-1] < 1e-6, f"decay ends {away[-1]:.1e} from W, begun at {away[0]:.1e}")
    require(max(away) < 1.5 * away[0], f"decay leads away from W: from {away[0]:.1e} to {max(away):.1e}")


@law(first=1, rate=[2e-4, 1e-3])
def half_precision_parameters_train(case: Case, kind: Kind, rate: float) -> None:
    """All parameters in bfloat16 on a bfloat16 base, as some trainers keep them: steps of Adam move those that start
    at zero, and the loss falls about as far as with parameters in single precision.
    """
    fallen = {dtype: _fall(case, kind, rate, dtype) for dtype in (torch.float32, torch.bfloat16)}
    single, half = fallen.values()
    require(single > 0, "the loss does not fall with parameters in single precision")
    require(half > 0.5 * single, f"the loss falls by {half:.2e}, in single precision by {single:.2e}")


def _fall(case: Case, kind: Kind, rate: float, dtype: torch.dtype) -> float:
    """How far the loss falls in a few steps, measured with what was trained in double precision."""
    torch.manual_seed(0)
    model = tuned(case, kind, init_weights=True, dtype=torch.bfloat16)
    x, y = inputs(kind, 16, torch.bfloat16), None
    trained = adapter_parameters(model)
    for p in trained.values():
        p.data = p.data.to(dtype)
    start = {k: p.detach().clone() for k, p in trained.items()}
    optimiser = torch.optim.Adam(trained.values(), lr=rate)

    def loss(out: Tensor) -> Tensor:
        return (out.float() - 1).square().mean() if out.dtype != torch.float64 else (out - 1).square().mean()

    torch.manual_seed(1)
    for _ in range(8):
        optimiser.zero_grad()
        y = loss(model.train()(x))
        y.backward()
        optimiser.step()
    for name, p in trained.items():
        waits = p.grad is None or not p.grad.any() or start[name].any()
        require(waits or p.any(), f"no number of {name.rpartition('.')[2]} moved")
    model.eval().double()
    wide = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        after = loss(model(wide))
        for name, p in trained.items():
            p.copy_(start[name])
        return (loss(model(wide)) - after).item()
