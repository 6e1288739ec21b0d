"""Methods that are wrong in one way each: exactly the laws that speak of it catch them, and say what is wrong."""

import pytest
import torch
import wrong_at_corners  # noqa: F401  (more of them)
from wrong import (
    DENSE,
    ROWS,
    CountsWrong,
    MergesSomethingElse,
    NeedsRows,
    Sound,
    StartsElsewhere,
    StartsFromOtherConstants,
    truth,
)

from cases import each
from subspace_tuning.method.registry import METHODS
from subspace_tuning.methods import TinyLoRA
from subspace_tuning.testing import KINDS, LAWS, BrokenLaws, Laws, check
from subspace_tuning.tuner import model, shared

BROKEN = [*Sound.__subclasses__(), *StartsFromOtherConstants.__subclasses__()]
SHARING = {
    "what_layers_share_counts_once": (shared, "key_of", lambda method, name, path, W: path.replace(".", "_")),
    "gradients_of_what_layers_share_add_up": (shared, "key_of", lambda method, name, path, W: path.replace(".", "_")),
    "what_layers_share_is_merged_in_all": (model, "HOME", "elsewhere"),
    "shared_parameters_of_adapters_do_not_mix": (shared.SharedParameters, "leave", lambda self, adapter: None),
    "a_checkpoint_gives_all_layers_back": (model, "of_model", lambda held, model, adapter: held),
    "what_layers_share_loads_where_fewer_are_tuned": (model, "of_model", lambda held, model, adapter: held),
}  # law -> what of the package breaks it, when it is another
OF_THE_PACKAGE = {"a_method_without_a_seat_says_so", "adapters_beside_each_other_do_not_mix", *SHARING}  # of no method


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for cls in (Sound, *BROKEN):
        monkeypatch.setattr(cls, "name", f"tests_{cls.__name__}")
        monkeypatch.setitem(METHODS, cls.name, cls)


def broken(method, truth):
    """law -> what it says, on one kind of weight."""
    with pytest.raises(BrokenLaws) as found:
        check(method, truth, kinds=KINDS[:1])
    return {b.law: str(b) for b in found.value.broken}


def test_a_sound_method_breaks_none():
    check(Sound(), truth, kinds=[KINDS[1], KINDS[5]])


@each(cls=BROKEN)
def test_a_wrong_method_breaks_exactly_the_laws_that_speak_of_it(cls):
    assert set(broken(cls(), truth)) == cls.breaks


def test_every_law_can_fail():
    broken = set().union(*(cls.breaks for cls in BROKEN))
    assert broken == set(LAWS) - OF_THE_PACKAGE, "a law needs a method here that breaks it"


@each(name=list(SHARING))
def test_a_package_that_shares_wrongly_breaks_the_laws_of_sharing(name, monkeypatch):
    check(TinyLoRA(r=2, u=3), kinds=KINDS[:1], laws=[LAWS[name]])
    where, attribute, wrong = SHARING[name]
    monkeypatch.setattr(where, attribute, wrong)
    with pytest.raises(BrokenLaws):
        check(TinyLoRA(r=2, u=3), kinds=KINDS[:1], laws=[LAWS[name]])


@each(wrong=[lambda W, b, dW: (W + 2 * dW, b), lambda W, b, dW: (W + dW, 2 * b)])
def test_a_truth_that_differs_breaks_the_laws_of_the_truth(wrong):
    found = set(broken(Sound(), lambda method, W, b, p: wrong(W, b, W @ p["A"] @ p["B"])))
    assert "forward_is_the_dense_truth" in found
    assert "merged_weight_is_the_dense_truth" in found
    assert found <= ROWS | DENSE


class Collected:
    """What pytest gives to ``pytest_generate_tests``, as far as the suite uses it."""

    fixturenames = ("instances",)

    def __init__(self, function):
        self.function = function

    def parametrize(self, name, instances, ids):
        self.instances = instances


def test_the_suite_fails_where_the_check_does():
    class Suite(Laws):
        methods = [CountsWrong(), CountsWrong(r=3)]
        truth = truth
        kinds = KINDS[:1]

    failed = []
    for law in LAWS:
        test = getattr(Suite(), f"test_{law}")
        collected = Collected(test)
        Suite().pytest_generate_tests(collected)
        for instances in collected.instances:
            try:
                test(instances)
            except AssertionError:
                failed.append((law, instances[0].case.method))
    assert failed == [("parameter_count_is_the_formula", method) for method in Suite.methods]


def test_the_report_says_which_law_fails_for_what_and_why():
    says = broken(CountsWrong(), truth)["parameter_count_is_the_formula"]
    assert says == (
        "parameter_count_is_the_formula [tests_CountsWrong(r=2)-linear]: "
        "40 numbers are trained, the formula 'r m' says 20"
    )
    says = broken(MergesSomethingElse(), truth)["merged_equals_unmerged"]
    assert "the output after merging is off by" in says
    says = broken(NeedsRows(), truth)["zero_rows_give_zero_rows"]
    assert "RuntimeError: max()" in says


def test_laws_draw_the_same_numbers_each_time_and_leave_the_generator_alone():
    drawn = torch.get_rng_state()
    first = broken(StartsElsewhere(), truth)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.rand(3)
    assert broken(StartsElsewhere(), truth) == first
