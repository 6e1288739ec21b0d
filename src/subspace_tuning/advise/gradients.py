"""G = dL/dW of every weight that methods could sit on, from one pass over a few batches of a run's own rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from subspace_tuning.algebra import Weight
from subspace_tuning.errors import BadInput
from subspace_tuning.method import Method, members
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.pretrained import adapt, load_model
from subspace_tuning.run.recipe import Recipe
from subspace_tuning.run.train import calibration_batches, encoded, fit_to_data, trainer_of
from subspace_tuning.tuner.budget import count
from subspace_tuning.tuner.calibrate import observe
from subspace_tuning.tuner.config import SubspaceConfig
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.model import layers
from subspace_tuning.tuner.targets import KINDS, default_targets
from subspace_tuning.weights import LayerWeight

PROBE = {"name": "lora", "r": 1}  # B = 0: the model is as it was, and every layer is watched
WEIGHTS, BIASES = "default", "biases"  # adapters; the second is a kind of place too
FEW = 4  # batches


@dataclass(frozen=True)
class Seat:
    """A weight, and the gradient of the mean loss there: G (n, m), and g (m,) where there is a bias."""

    name: str
    module: str  # that a config names: that of the layer
    held: LayerWeight
    G: Tensor | None  # None: of a norm or the like, of which the bias alone could be tuned
    g: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.held.shape if self.G is not None else (0, self.held.shape[1])

    @cached_property
    def energy(self) -> float:
        """||G||^2 + ||g||^2."""
        return self.energy_of_weight + (0.0 if self.g is None else self.g.double().square().sum().item())

    @cached_property
    def energy_of_weight(self) -> float:
        """||G||^2."""
        return 0.0 if self.G is None else self.G.double().square().sum().item()

    def weights(self, eta: float, dtype: torch.dtype = torch.float64) -> tuple[Weight, Weight]:
        """W and W - c G, with their biases; the step c G is ``eta`` times as long as W."""
        b = None if self.held.own_bias is None else self.held.own_bias.detach().to(dtype)
        W = self.held.dense().detach().to(dtype) if self.G is not None else cast(Tensor, b).new_zeros(self.shape)
        size = sum(t.square().sum().item() for t in (W, b) if t is not None) or 1.0
        c = eta * (size / self.energy) ** 0.5
        W_star = W if self.G is None else W - c * self.G.to(dtype)
        return Weight(W, b), Weight(W_star, b if b is None or self.g is None else b - c * self.g.to(dtype))


@dataclass(frozen=True)
class Gradients:
    """The seats of a model by name; ``targets``: by kind of place, the names of those that are taken by default."""

    seats: dict[str, Seat]
    targets: dict[str, list[str]]
    parameters: int  # of the model without its new head
    rows: int

    @property
    def energy(self) -> float:
        return sum(seat.energy for seat in self.seats.values())

    def of(self, method: Method) -> list[Seat]:
        """Where a method sits by default, so far as it fits there; none where that is no weight that was watched."""
        found = [self.seats[name] for name in self.targets.get(method.places, ())]
        on_biases = any(f.sits_on == "bias" for f in members(method))
        return found if on_biases else [seat for seat in found if seat.G is not None]


def gradients(recipe: Recipe, progress: bool = True) -> Gradients:
    """Of a run as the recipe says, before its first step. Raises BadInput where the model gives none."""
    recipe = recipe.resolved()
    rows, _ = encoded(recipe, recipe.task_object())
    pretrained = load_model(recipe.model, recipe.task_object(), recipe.seed, recipe.dtype)
    fit_to_data(pretrained, recipe)
    targets = _targets(pretrained.model)
    total = count(pretrained.model, pretrained.head).total
    model = cast(PeftModel, adapt(pretrained, recipe.model_copy(update={"method": PROBE})))
    if targets[BIASES] and not recipe.target_modules:
        model.add_adapter(BIASES, SubspaceConfig("bitfit"))
    asked = {layer: _statistics(layer) for layer in layers(model)}
    with TemporaryDirectory() as folder:
        there = recipe.model_copy(update={"output": folder})
        trainer = trainer_of(there, RunFolder.of(there), model, [])
        batches = calibration_batches(recipe, rows, trainer.data_collator)
        found = observe(model, batches, asked, loss=cast(Any, trainer.compute_loss), progress=progress)
    seats = {}
    for layer, means in found.items():
        for part, own in zip(layer.parts, means, strict=True):
            name = part.under(layer.path)
            seats[name] = Seat(name, layer.path, part.W, own.get("gradients"), own.get("biases"))
    if not any(seat.energy > 0 for seat in seats.values()):
        raise BadInput("the gradient of the loss is zero in every weight: nothing can be said before training")
    held = {kind: list(seats) if recipe.target_modules else _named(names, seats) for kind, names in targets.items()}
    return Gradients(seats, held, total, min(len(rows), recipe.calibration_batches * (recipe.batch_size or 1)))


def _statistics(layer: SubspaceLayer) -> list[str]:
    """G of weights that methods take by default, or the recipe names; of all others with a bias the bias's alone."""
    return ["gradients"] * (WEIGHTS in layer.methods) + ["biases"] * (layer.frozen.own_bias is not None)


def _targets(model: nn.Module) -> dict[str, set[str]]:
    found = {}
    for places in (*KINDS, BIASES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is left out
            try:
                found[places] = default_targets(places, model)
            except ValueError:
                found[places] = set()
    return found


def _named(targets: set[str], seats: dict[str, Seat]) -> list[str]:
    """The seats that these suffixes mean; none where one means columns of a weight that was watched whole."""
    meant = {t: {name for name, seat in seats.items() if _ends(seat, t)} for t in targets}
    lost = [t.rpartition(".")[0] for t, names in meant.items() if not names]
    if any(_ends(seat, whole) for whole in lost if whole for seat in seats.values()):
        return []
    return [name for name in seats if any(name in names for names in meant.values())]


def _ends(seat: Seat, name: str) -> bool:
    return f".{seat.module}".endswith(f".{name}")
