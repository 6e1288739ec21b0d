"""Every method composes with every other, as the first and as the last member."""

import torch

from subspace_tuning.method import Method
from subspace_tuning.methods import SSB, LoRA
from subspace_tuning.testing.cases import Case
from subspace_tuning.testing.kinds import Kind
from subspace_tuning.testing.law import law, require, single
from subspace_tuning.testing.laws.merging import merged_equals_unmerged, unmerge_restores_bit_for_bit
from subspace_tuning.testing.laws.start import identity_at_start, starts_at_W
from subspace_tuning.testing.laws.training import (
    gradients_reach_exactly_the_methods_parameters,
    optimiser_steps_change_the_output,
)


@law(where=single, first=1, partner=[SSB(), LoRA(r=2)], leads=[True, False])
def the_method_composes(case: Case, kind: Kind, partner: Method, leads: bool) -> None:
    """Neither member is ignored, and the laws hold for the pair."""
    pair = Case(case.method | partner if leads else partner | case.method)
    if starts_at_W(pair):
        identity_at_start(pair, kind, dtype=torch.float32)
    merged_equals_unmerged(pair, kind, dtype=torch.float32)
    if pair.resolved.mergeable:
        unmerge_restores_bit_for_bit(pair, kind)
    gradients_reach_exactly_the_methods_parameters(pair, kind)
    optimiser_steps_change_the_output(pair, kind)
    n, m = kind.matrix(kind.layer()).shape
    want = case.method.count(n, m) + partner.count(n, m)
    require(pair.resolved.count(n, m) == want, f"the pair counts {pair.resolved.count(n, m)} numbers, expected {want}")
