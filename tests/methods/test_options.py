"""Options beside those in the table of all laws: the laws that tell equations apart, on two layers."""

from cases import case, each
from subspace_tuning.methods import MAP, OFT, LoRA, RoAd
from subspace_tuning.testing.kinds import KINDS
from subspace_tuning.testing.law import LAWS

OPTIONS = [
    RoAd(),
    RoAd(variant=4, group=8),
    OFT(b=4, terms=5),
    LoRA(r=3, init="loram"),
    MAP(r=2, extension="lora_xs", length=0.5),
]
TOLD = [
    "identity_at_start",
    "parameter_count_is_the_formula",
    "forward_is_the_dense_truth",
    "gradients_are_those_of_autograd_through_the_dense_truth",
    "merged_weight_is_the_dense_truth",
    "projecting_what_a_method_reaches_finds_it_again",
    "decay_alone_leads_back_to_W",
    "the_dial_leads_away_from_W_steadily",
    "a_checkpoint_gives_the_same_output",
]


@each(law=TOLD, method=OPTIONS)
def test_the_law_holds(law, method):
    for instance in LAWS[law].instances(
        [case(method)], [kind for kind in KINDS if kind.name in ("linear_wide", "conv2d")]
    ):
        instance.holds()
