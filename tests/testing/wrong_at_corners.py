"""Methods that are wrong where equations stumble: at zero scales, without numbers, in inference, after changes."""

import torch
from wrong import INFERENCE, PAIR, UNNOTICED, Sound

from subspace_tuning.algebra import Diag, Elementwise
from subspace_tuning.method import zeros

GRADIENT = "gradients_are_those_of_autograd_through_the_dense_truth"


class DividesByItsScale(Sound):
    """A scale that has no effect, divided out again, as a gradient taken from the output is."""

    breaks = {"scales_may_be_zero_and_negative", GRADIENT}

    formula = "2 r m + m"

    def parameters(self, n, m):
        return super().parameters(n, m) | {"delta": zeros(m)}

    def phi(self, W, p):
        d = 1 + p.delta
        return W + W @ p.A @ p.B @ Diag(d / d.detach())


class HidesWhatIsNoNumber(Sound):
    breaks = PAIR | {"a_weight_that_is_no_number_is_told_or_passed_on"}

    def constants(self, W):
        return {"W0": W.dense().nan_to_num(posinf=0.0)}

    def phi(self, W, p):
        return p.W0 + p.W0 @ p.A @ p.B


class KeepsATensorOfItsFirstPass(Sound):
    breaks = INFERENCE

    def output(self, m, p):
        kept = []

        def times_one(y):
            if not kept:
                kept.append(torch.ones(()))
            return y * kept[0].to(y.dtype)

        return Elementwise(times_one, m, linear=True)

    def phi(self, W, p):
        return W + W @ p.A @ p.B @ self.output(W.shape[1], p)


class KeepsItsInputUnnoticed(Sound):
    """Of x it keeps what torch does not see change."""

    breaks = UNNOTICED | {GRADIENT}

    formula = "2 r m + n"

    def parameters(self, n, m):
        return super().parameters(n, m) | {"c": zeros(n)}

    def phi(self, W, p):
        c = 1 + p.c
        scaled = Elementwise(lambda x: x.data, W.shape[0], linear=True) @ Diag(c / c.detach())
        return W + scaled @ W @ p.A @ p.B
