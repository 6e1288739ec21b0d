"""Methods that are wrong in one way each, and the laws that each of them breaks."""

from dataclasses import dataclass

import torch

from subspace_tuning.algebra import Dense, Diag, Elementwise, Live, root
from subspace_tuning.algebra.precision import wide
from subspace_tuning.method import Method, kaiming, normal, ones, zeros


@dataclass(frozen=True)
class Sound(Method):
    """phi(W) = W + W A B."""

    r: int = 2

    name = "tests_sound"
    category = "reconstruction"
    formula = "2 r m"
    paper = "tests"

    def parameters(self, n, m):
        return {"A": kaiming(m, self.r), "B": zeros(self.r, m)}

    def rows(self, x):
        """What happens to the rows on the way to W A B; as a matrix, it is I."""
        return x

    def phi(self, W, p):
        return W + Elementwise(self.rows, W.shape[0], linear=True) @ W @ p.A @ p.B


def truth(method, W, b, p):
    return W + W @ p["A"] @ p["B"], b


ROWS = {"forward_is_the_dense_truth", "gradients_are_those_of_autograd_through_the_dense_truth"}
DENSE = {"dense_and_delta_are_the_dense_truth", "merged_weight_is_the_dense_truth"}
MERGED = {"merged_equals_unmerged", "merge_and_unload_leaves_the_plain_layer"}
AT_STRENGTHS = {"merged_equals_unmerged_at_every_strength", "every_adapter_has_a_strength_of_its_own"}
MOVED = {"gradients_reach_exactly_the_methods_parameters", "optimiser_steps_change_the_output"}
PAIR = {"the_method_composes"}
SMALL = {"small_changes_survive_rounding"}
HALF = {"half_precision_parameters_train"}
EXACT = {"gradients_are_as_exact_as_rounding_allows"}
DECAY = {"decay_alone_leads_back_to_W"}
IN_PLACE = {"outputs_may_be_changed_in_place"}
TRANSFORMED = {"gradients_of_each_sample_come_at_once", "gradients_can_be_differentiated"}
RANK = {"a_rank_may_be_that_of_the_weight"}
INFERENCE = {"inference_mode_computes_the_same_and_leaves_nothing"}
UNNOTICED = {"inputs_changed_in_place_are_noticed_or_do_not_matter"}
ROUNDED = {"a_rounded_base_is_the_same_or_told"}


class StartsElsewhere(Sound):
    breaks = {"identity_at_start", "degenerate_weights_train"} | PAIR | HALF

    def parameters(self, n, m):
        return {"A": kaiming(m, self.r), "B": normal(self.r, m, std=1.0)}


class OnlySaysThatItStartsElsewhere(Sound):
    breaks = {"a_start_that_is_told_is_not_W"}

    starts_at = "elsewhere"


class HasADeadParameter(Sound):
    breaks = (
        MOVED
        | PAIR
        | EXACT
        | IN_PLACE
        | TRANSFORMED
        | RANK
        | INFERENCE
        | UNNOTICED
        | {
            "zero_rows_give_zero_rows",
            "a_bf16_base_computes_what_the_fp32_base_does",
            "gradients_are_those_of_autograd_through_the_dense_truth",
            "gradients_reach_the_parameters_at_a_strength",
        }
    )

    formula = "2 r m + 1"

    def parameters(self, n, m):
        return super().parameters(n, m) | {"dead": zeros(1)}


class CountsWrong(Sound):
    breaks = {"parameter_count_is_the_formula"}

    formula = "r m"


class NeverMoves(Sound):
    breaks = (
        MOVED
        | PAIR
        | ROWS
        | DENSE
        | HALF
        | DECAY
        | {
            "unmerge_restores_bit_for_bit",
            "a_checkpoint_gives_the_same_output",
            "gradients_reach_the_parameters_at_a_strength",
            "no_strength_is_the_base_and_full_strength_phi",
            "the_dial_leads_away_from_W_steadily",
        }
    )

    def phi(self, W, p):
        return W + 0.0 * (W @ p.A @ p.B)


class MergesSomethingElse(Sound):
    breaks = MERGED | AT_STRENGTHS | PAIR | ROWS | RANK

    def rows(self, x):
        return 2 * x


class FormsADenseGradient(Sound):
    breaks = {"no_dense_weight_gradient_is_computed"}

    def phi(self, W, p):
        M = p.A.numbers @ p.B.numbers
        return W + Dense(Live.of(lambda M: W.dense().to(M.dtype) @ M, M))


class HalvesAGradient(Sound):
    breaks = {"gradients_are_those_of_autograd_through_the_dense_truth"}

    def phi(self, W, p):
        B = p.B.numbers
        return W + W @ p.A @ Dense(B / 2 + B.detach() / 2)


class TrainsOnOtherRows(Sound):
    breaks = {"training_mode_changes_nothing_but_dropout"}

    def phi(self, W, p):
        return W + (1.5 if p.training else 1.0) * (W @ p.A @ p.B)


class NeedsRows(Sound):
    breaks = {"zero_rows_give_zero_rows"}

    def rows(self, x):
        return x / x.abs().max() * x.abs().max()


class IgnoresStrides(Sound):
    breaks = {"strides_of_the_input_do_not_matter"}

    def rows(self, x):
        return x.as_strided(x.shape, torch.empty(x.shape).stride())


class CountsRows(Sound):
    breaks = {"few_and_many_rows_take_different_orders_to_the_same_output"}

    def rows(self, x):
        return x * (1 if x.numel() < 1000 else 1.01)


class IsAnotherInBf16(Sound):
    breaks = {"merged_equals_unmerged", "a_bf16_base_computes_what_the_fp32_base_does"} | SMALL | EXACT

    def rows(self, x):
        return 3 * x if x.dtype == torch.bfloat16 else x


class GoesAllTheWayAtOnce(Sound):
    breaks = {"the_dial_leads_away_from_W_steadily", "no_strength_is_the_base_and_full_strength_phi"}

    def phi_t(self, W, p, t):
        return self.phi(W, p)


class Turns(Sound):
    """phi(W) = W R, R = exp(A - A^T) a rotation."""

    breaks = ROWS | DENSE | {"what_keeps_singular_values_keeps_them_at_every_strength"}  # the way is a straight line

    formula = "m m"

    def parameters(self, n, m):
        return {"A": zeros(m, m)}

    def phi(self, W, p):
        return W @ Live.of(lambda A: torch.matrix_exp(wide(A - A.T)), p.A.numbers)


class IsAnotherOnARoundedBase(Sound):
    breaks = ROUNDED | SMALL | EXACT

    def phi(self, W, p):
        return W + (2.0 if root(W).dtype == torch.bfloat16 else 1.0) * (W @ p.A @ p.B)


class StartsAtOne(Sound):
    breaks = DECAY | HALF | ROWS | DENSE

    formula = "2 r m + m"

    def parameters(self, n, m):
        return super().parameters(n, m) | {"d": ones(m)}

    def phi(self, W, p):
        return (W + W @ p.A @ p.B) @ Diag(p.d)


class Same(torch.autograd.Function):
    """x -> x, with an output that backward asks for."""

    @staticmethod
    def forward(ctx, x):
        y = x.clone()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g + 0 * y


class KeepsItsOutput(Sound):
    breaks = IN_PLACE | TRANSFORMED

    def output(self, m, p):
        return Elementwise(Same.apply, m, linear=True)


class StartsFromOtherConstants(Sound):
    breaks = (
        ROWS
        | DENSE
        | {
            "a_checkpoint_gives_the_same_output",
            "searching_for_what_a_method_reaches_finds_it_again",
        }
    )

    def constants(self, W):
        return {"d": 1 + torch.rand(W.shape[1]).to(W.dense())}

    def phi(self, W, p):
        return W + W @ Diag(p.d) @ p.A @ p.B


class ForgetsWhatCameBefore(Sound):
    breaks = PAIR

    def constants(self, W):
        return {"W0": W.dense().clone()}

    def phi(self, W, p):
        return p.W0 + p.W0 @ p.A @ p.B


class ProjectsByOtherConstants(StartsFromOtherConstants):
    breaks = (
        ROWS
        | DENSE
        | {
            "a_checkpoint_gives_the_same_output",
            "projecting_what_a_method_reaches_finds_it_again",
        }
    )

    def project(self, W, W_star):
        return {"B": torch.zeros(self.r, W.shape[1]).to(W.dense())}
