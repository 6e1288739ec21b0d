"""The advice: gradients, what families reach of them, ranks, filters, what was measured, three methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subspace_tuning.advise import filling, prior
from subspace_tuning.advise.candidates import (
    Candidate,
    at_budget,
    candidates,
    ordered,
    short_list,
    with_families,
)
from subspace_tuning.advise.energy import CHEAP, Family, families
from subspace_tuning.advise.filters import Wanted
from subspace_tuning.advise.gradients import Gradients, gradients
from subspace_tuning.advise.recipes import recipe_files
from subspace_tuning.advise.words import concentration, reasons, verdict
from subspace_tuning.errors import BadInput, as_bad_input
from subspace_tuning.method.catalogue import catalogue
from subspace_tuning.method.registry import METHODS
from subspace_tuning.methods.extend.lora import LoRA
from subspace_tuning.run.estimate import of_recipe
from subspace_tuning.run.recipe import Recipe, make
from subspace_tuning.run.train import encoded


@dataclass(frozen=True)
class Ranks:
    """Ranks of LoRA at the budget: water-filling's and the uniform one, and the share of G's energy that each holds."""

    suggested: int  # holds most of the energy, or all that the budget allows
    uniform: dict[str, int]
    filled: dict[str, int]
    held_uniform: float
    held_filled: float


@dataclass(frozen=True)
class Advice:
    """``fields``: of the recipes that follow, all but the method."""

    fields: dict[str, Any]
    found: Gradients
    wanted: Wanted
    families: list[Family]  # the most captured energy first
    ranks: Ranks
    short: list[Candidate]
    left_out: dict[str, str]

    @property
    def words(self) -> list[str]:
        r = self.ranks
        told = [verdict(prior.predictors()), concentration(self.energies)]
        told.append(
            f"LoRA of rank {r.suggested} is suggested. At most {self.wanted.budget:,} parameters hold "
            f"{100 * r.held_uniform:.1f} % of the energy of its weights at one rank for all, "
            f"{100 * r.held_filled:.1f} % where ranks go by water-filling."
        )
        if self.wanted.keep:
            told.append(
                "Which method forgets least no study can tell yet (what was measured: docs/language_models.md): "
                "judge it by retention in your own runs."
            )
        return told

    @property
    def pattern(self) -> dict[str, Any]:
        """LoRA's ranks by water-filling, as fields of a recipe."""
        modules = {name: seat.module for name, seat in self.found.seats.items()}
        return filling.pattern(self.ranks.filled, modules, LoRA().s)

    @property
    def files(self) -> dict[str, str]:
        """The recipes."""
        lora = {"name": LoRA.name, "r": max(self.ranks.uniform.values(), default=1)}
        told = {c.entry.name: self.reasons(c) for c in self.short}
        return recipe_files(self.fields, self.short, told, lora, self.pattern)

    @property
    def energies(self) -> list[tuple[str, float]]:
        """Each weight's share of the gradient's energy, the most first."""
        shares = [(name, seat.energy / self.found.energy) for name, seat in self.found.seats.items()]
        return sorted(shares, key=lambda pair: -pair[1])

    @property
    def reached(self) -> list[tuple[str, ...]]:
        """A row a family: method, kappa, energy at the start, parameters, per mille; full fine-tuning first."""
        total = self.found.parameters
        rows: list[tuple[str, ...]] = [("full", "1.0000", "1.0000", f"{total:,}", "1000.00")]
        for f in self.families:
            r = getattr(f.method, "r", None)
            name, kappa = f.method.name + (f" r={r}" if r else ""), "" if f.kappa is None else f"{f.kappa:.4f}"
            rows.append((name, kappa, f"{f.start:.4f}", f"{f.parameters:,}", f"{1000 * f.parameters / total:.2f}"))
        return rows

    def reasons(self, c: Candidate) -> list[str]:
        return reasons(c, self.found.parameters)

    def to_data(self) -> dict[str, Any]:
        return {
            "words": self.words,
            "parameters": self.found.parameters,
            "budget": self.wanted.budget,
            "rows": self.found.rows,
            "kappa_leads": prior.kappa_leads(prior.predictors()),
            "energy": dict(self.energies),
            "families": [family.to_data() for family in self.families],
            "rank": vars(self.ranks),
            "pattern": self.pattern,
            "short_list": [
                {"method": c.data, "parameters": c.parameters, "memory": c.memory, "reasons": self.reasons(c)}
                for c in self.short
            ],
            "left_out": self.left_out,
            "recipes": self.files,
        }


def advise(
    given: Mapping[str, Any],
    wanted_of: Callable[[int], Wanted],
    methods: Sequence[str] = CHEAP,
    tick: Callable[[int], None] = lambda total: None,
) -> Advice:
    """What to fine-tune by, for a run with these fields of a recipe. Raises BadInput where nothing is left.

    wanted_of: from the number of the model's parameters. methods: whose gradient energy is looked at.
    """
    recipe = make({**given, "method": LoRA.name})
    found = gradients(recipe)
    wanted = wanted_of(found.parameters)
    ranks = _ranks(found, wanted.budget)
    with as_bad_input():
        looked = [at_budget(METHODS[name](), found, wanted.budget, ranks.suggested)[0] for name in methods]
    reached = families(found, looked, tick)
    kept, out = candidates(catalogue(), found, wanted, ranks.suggested, prior.scores(), prior.times())
    order = ordered(with_families(kept, reached), prior.kappa_leads(prior.predictors()))
    rows, _ = encoded(recipe.resolved(), recipe.task_object())
    short, out_too = short_list(order, wanted.memory, lambda c: _memory(make({**given, "method": c.data}), rows))
    out |= out_too
    if not short:
        why = "; ".join(f"{name}: {told}" for name, told in list(out.items())[-4:])
        raise BadInput(f"no method has all that is asked for ({why}); ask for less")
    return Advice(_fields(given, recipe, wanted), found, wanted, reached, ranks, short, out)


def _ranks(found: Gradients, budget: int) -> Ranks:
    energies = filling.spectra(found.of(LoRA()))
    if not energies:
        raise BadInput("the model has no weights in its blocks that LoRA would sit on: there are no ranks to advise")
    costs = {name: sum(found.seats[name].shape) for name in energies}
    uniform, filled = filling.uniform(energies, costs, budget), filling.fill(energies, costs, budget)
    suggested = min(filling.least_rank(energies), max(uniform.values(), default=1))
    return Ranks(suggested, uniform, filled, filling.held(energies, uniform), filling.held(energies, filled))


def _memory(recipe: Recipe, rows: Sequence[Any]) -> int | None:
    """Bytes of a training step; None where the model cannot be traced."""
    try:
        needs = of_recipe(recipe.resolved(), rows)
    except Exception:
        return None
    return None if needs is None else needs.peak


def _fields(given: Mapping[str, Any], recipe: Recipe, wanted: Wanted) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": recipe.model, "task": recipe.task}
    fields |= {key: value for key, value in given.items() if key not in ("output", "calibration_batches")}
    if wanted.keep and recipe.task_object().task_type == "CAUSAL_LM":
        fields.setdefault("retention", [{"judge": "bits_per_byte", "data": "editorials", "samples": 300}])
    return fields
