"""Spectral Surgery: of a trained dW = sum_i s_i u_i v_i^T, the s_i reweighted by what a few batches say of each.

g_i = u_i^T G v_i, G = dL/dW at phi(W), is how fast the loss falls or rises with s_i. Directions stay, and so does the
sum of the s_i. Nothing is trained. Source: arXiv:2603.03995, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor

from subspace_tuning.convert.certificate import Certificate
from subspace_tuning.convert.change import Change, exact
from subspace_tuning.convert.export import Job, checked
from subspace_tuning.convert.layers import answers_with, changes_of, frozen_weights, methods_of, seats
from subspace_tuning.convert.lora import Wanted
from subspace_tuning.convert.probe import probe
from subspace_tuning.convert.source import opened
from subspace_tuning.errors import BadInput
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.recipe import Recipe
from subspace_tuning.run.train import calibration_batches, encoded, trainer_of
from subspace_tuning.tuner.calibrate import observe


@dataclass(frozen=True)
class Policy:
    """f (k,) from g (k,), with h_i = |g_i| / mean |g|; the defaults are the authors'.

    smooth     down + (up - down) sigmoid((h - median h) / (temperature times the spread of h))
    select     up for the share ``core`` of largest h, down for the share ``noise`` of smallest, else 1
    direction  exp(-eta g / mean |g|): terms along which the loss rises shrink
    random     select's, h drawn at random: the control
    """

    name: str = "smooth"
    core: float = 0.2
    noise: float = 0.2
    up: float = 1.25
    down: float = 0.8
    temperature: float = 0.35
    eta: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            raise BadInput(f"the policy is one of {', '.join(POLICIES)}, got {self.name!r}")

    def factors(self, g: Tensor) -> Tensor:
        """The factor of each singular value; 1 where the loss depends on none of them."""
        mean = g.abs().mean()
        return POLICIES[self.name](self, g / mean) if len(g) and mean > 0 else torch.ones_like(g)


def _smooth(p: Policy, g: Tensor) -> Tensor:
    h = g.abs()
    spread = h.quantile(1 - p.core) - h.quantile(p.noise)
    if not spread > 0:
        return torch.ones_like(g)
    return p.down + (p.up - p.down) * torch.sigmoid((h - h.median()) / (p.temperature * spread))


def _select(p: Policy, g: Tensor) -> Tensor:
    order, k = g.abs().argsort(descending=True), len(g)
    core = max(1, round(p.core * k))
    noise = min(k - core, round(p.noise * k))
    f = torch.ones_like(g)
    f[order[:core]], f[order[k - noise :]] = p.up, p.down
    return f


def _direction(p: Policy, g: Tensor) -> Tensor:
    return torch.exp(-p.eta * g)


def _random(p: Policy, g: Tensor) -> Tensor:
    return _select(p, torch.rand(len(g), generator=torch.Generator().manual_seed(p.seed)).to(g))


POLICIES: dict[str, Callable[[Policy, Tensor], Tensor]] = {
    "smooth": _smooth,
    "select": _select,
    "direction": _direction,
    "random": _random,
}


def reweighted(change: Change, G: Tensor, policy: Policy) -> Change:
    """The change with its singular values reweighted, their sum kept; G (n, m) is dL/dW where the change is at work."""
    U, S, Vt = change.svd
    f = policy.factors(torch.linalg.vecdot((U.T @ exact(G).to(U.device)), Vt))
    kept = f * S
    kept = kept * (S.sum() / kept.sum()) if len(S) else kept
    return replace(change, dW=(U * kept, Vt) if change.has_factors else U * kept @ Vt)


def surgery(
    run: Path | str,
    out: Path | str,
    to: str = "lora",
    policy: Policy | None = None,
    wanted: Wanted | None = None,
    base: str | None = None,
    texts: Sequence[str] | None = None,
    batches: int = 8,
) -> Certificate:
    """Write a run's adapter, its singular values reweighted by that many batches of its training rows.

    The certificate compares with the reweighted change. Raises BadInput for what has no rows of its own.
    """
    out, policy = checked(out, to, ("lora", "merged")), policy or Policy()
    if not (Path(run) / "config.yaml").is_file():
        raise BadInput(
            f"{run} is no run: the surgery wants the rows that the adapter was trained on; give a run's folder"
        )
    source, recipe = opened(run, base), RunFolder(run).recipe()
    model = source.load()
    changes = changes_of(model, model.active_adapters)
    G = _gradients(model, recipe.model_copy(update={"calibration_batches": batches}), RunFolder(run))
    made = {name: reweighted(c, G[name], policy) if name in G else c for name, c in changes.items()}
    inputs = probe(model, source.tokenizer, texts)
    before = answers_with(model, frozen_weights(model), made, inputs)
    told = [f"{method} after Spectral Surgery ({policy.name})" for method in methods_of(model)]
    return Job(out, to, wanted or Wanted(), [str(run)], told, source, inputs).run(model, made, before)


def _gradients(model: PeftModel, recipe: Recipe, folder: RunFolder) -> Mapping[str, Tensor]:
    """dL/dW of each tuned weight, by its name, over some training rows, the adapter at work."""
    rows, _ = encoded(recipe, recipe.task_object())
    trainer = trainer_of(recipe, folder, model, [])
    layers = {path: layer for path, layer in seats(model).items() if layer.frozen.holds_matrix}
    found = observe(
        model,
        calibration_batches(recipe, rows, trainer.data_collator),
        dict.fromkeys(layers.values(), ("gradients",)),
        loss=cast(Any, trainer.compute_loss),
    )
    return {
        part.under(path): mean["gradients"]
        for path, layer in layers.items()
        if layer in found  # no row reached the others
        for part, mean in zip(layer.parts, found[layer], strict=True)
    }
