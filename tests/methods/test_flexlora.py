"""FlexLoRA moves directions from matrices that use few of theirs to matrices that use all, and nothing else changes."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model

from cases import each
from loops import Watch, train
from models import bert
from subspace_tuning import SubspaceConfig
from subspace_tuning.algebra import Weight
from subspace_tuning.method import Params
from subspace_tuning.methods import FlexLoRA
from subspace_tuning.testing.cases import adapter_parameters, stored_numbers
from subspace_tuning.tuner.clock import LayerSeat
from subspace_tuning.tuner.layer import SubspaceLayer
from subspace_tuning.tuner.whole import Values

N, M, R = 6, 5, 3


def entropy(d):
    """In plain numbers, another way round: H = (log E - sum_i e_i log e_i / E) / log r for energies e_i of sum E."""
    energies = [float(x) ** 2 for x in d]
    E = sum(energies)
    if len(energies) == 1 or E == 0:
        return 0.0
    used = torch.tensor([e for e in energies if e > 0], dtype=torch.float64)
    return float((torch.tensor(E).double().log() - (used * used.log()).sum() / E) / torch.tensor(len(energies)).log())


def seat(name, method, d, in_use):
    """A layer with these d (c,), in use where told; A and B random."""
    c = method.room(N, M)
    values = {"A": torch.randn(N, c), "d": torch.tensor(d)[:c], "B": torch.randn(c, M), "a": torch.tensor(in_use)[:c]}
    return LayerSeat(name, Weight(torch.randn(N, M)), Values(values))


def phi(method, seat):
    return method.phi(seat.W, Params(seat.values)).dense()


STEP, TOTAL = 6, 20
layer = st.tuples(
    st.lists(st.floats(-2, 2, width=32).map(lambda x: round(x, 3)), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
)


@given(st.lists(layer, min_size=1, max_size=8), st.integers(1, 5), st.sampled_from(["constant", "cubic"]))
def test_the_lowest_entropy_gives_its_least_energy_to_the_highest(layers, b, schedule):
    method = FlexLoRA(r=R, max_r=5, tinit=2, tfinal=4, delta_t=2, b=b, schedule=schedule)
    seats = [seat(f"layer.{i}", method, d, a) for i, (d, a) in enumerate(layers)]
    old = copy.deepcopy(seats)
    H = [entropy(s.values["d"][s.values["a"]]) for s in seats]
    method.after_step(seats, STEP, TOTAL)
    used = [int(s.values["a"].sum()) for s in seats]
    before = [int(s.values["a"].sum()) for s in old]
    assert sum(used) == sum(before)
    assert all(1 <= k <= 5 for k in used)
    change = [after - ago for after, ago in zip(used, before, strict=True)]
    gave, took = ([i for i, k in enumerate(change) if k == sign] for sign in (-1, 1))
    assert set(change) <= {-1, 0, 1}
    moves = b if schedule == "constant" else round(b * (1 - ((STEP - 2) / (TOTAL - 4 - 2)) ** 3))
    assert len(gave) == len(took) <= moves
    could_give = [H[i] for i in range(len(H)) if i not in gave and before[i] > 1]
    could_take = [H[i] for i in range(len(H)) if i not in took and before[i] < 5]
    slack = 1e-6
    for i in gave:
        assert all(H[i] <= h + slack for h in could_give)
        (lost,) = (old[i].values["a"] & ~seats[i].values["a"]).nonzero()
        assert old[i].values["d"][lost].abs() == old[i].values["d"][old[i].values["a"]].abs().min()
        assert all(torch.equal(seats[i].values[k], old[i].values[k]) for k in "AB")
    for i in took:
        assert all(H[i] >= h - slack for h in could_take)
        (new,) = (seats[i].values["a"] & ~old[i].values["a"]).nonzero()
        assert torch.equal(phi(method, seats[i]), phi(method, old[i]))  # zero impact
        assert not torch.equal(seats[i].values["A"][:, new], old[i].values["A"][:, new])
    if len(gave) < moves and could_give and could_take:  # it ended because nobody lower was left
        assert min(could_give) >= max(could_take) - slack
    for i, k in enumerate(change):
        if k == 0:
            assert all(torch.equal(seats[i].values[name], v) for name, v in old[i].values.items())


def test_directions_move_in_the_middle_phase_only():
    method = FlexLoRA(r=R, max_r=5, tinit=2, tfinal=4, delta_t=3)
    first = [True] * R + [False] * 2
    seats = [seat("low", method, [9.0, 0.1, 0.2, 0, 0], first), seat("high", method, [1.0, 1.0, 1.0, 0, 0], first)]
    moved = []
    for step in range(1, TOTAL + 1):
        now = copy.deepcopy(seats)
        method.after_step(now, step, TOTAL)
        if not torch.equal(now[0].values["a"], seats[0].values["a"]):
            moved.append(step)
            assert now[0].values["a"].tolist() == [True, False, True, False, False]
            assert now[1].values["a"].tolist() == [True, True, True, True, False]
    assert moved == [5, 8, 11, 14]


def test_layers_trained_side_by_side_take_up_the_same_direction():
    method = FlexLoRA(r=R, max_r=5, tinit=2, tfinal=4, delta_t=2)
    first = [True] * R + [False] * 2
    seats = [seat("low", method, [9.0, 0.1, 0.2, 0, 0], first), seat("high", method, [1.0, 1.0, 1.0, 0, 0], first)]
    beside = copy.deepcopy(seats)
    method.after_step(seats, STEP, TOTAL)
    torch.randn(3)
    method.after_step(beside, STEP, TOTAL)
    assert all(torch.equal(v, beside[1].values[k]) for k, v in seats[1].values.items())


def flexlora(**fields):
    method = FlexLoRA(**{"r": 2, "tinit": 3, "tfinal": 4, "delta_t": 2, "b": 3, **fields})
    return get_peft_model(bert(), SubspaceConfig(method=method))


def in_use(model):
    return torch.stack(list(stored_numbers(model).values()))


def whole(model):
    return adapter_parameters(model) | stored_numbers(model)


@each(schedule=["constant", "cubic"])
def test_the_number_of_directions_in_all_stays(schedule, tmp_path):
    model = flexlora(schedule=schedule)
    watch = Watch(model, lambda m: in_use(m).clone())
    train(model, tmp_path, 16, [watch])
    start = torch.tensor([True, True, False, False]).expand_as(watch.seen[0])
    assert all(int(a.sum()) == 2 * len(start) for a in watch.seen)
    assert all(torch.equal(a, start) for a in watch.seen[:4])  # warmup
    assert not torch.equal(watch.seen[4], start)
    assert all(torch.equal(a, watch.seen[10]) for a in watch.seen[11:])  # the last phase
    assert len(set(watch.seen[-1].sum(1).tolist())) > 1


def test_it_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path):
    def run(model, **values):
        torch.manual_seed(0)  # of the data
        return whole(train(model, tmp_path, 16, gradient_accumulation_steps=2, **values))

    straight, again = flexlora(), flexlora()
    frozen = {k: v for k, v in straight.state_dict().items() if "subspace_" not in k}
    again.load_state_dict(frozen, strict=False)
    want = run(straight, save_strategy="steps", save_steps=8)
    got = run(again, resume=str(tmp_path / "checkpoint-8"))
    assert len(set(in_use(again).sum(1).tolist())) > 1
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, msg=name)


def test_the_penalty_is_over_the_directions_in_use():
    method = FlexLoRA(r=2, max_r=4, orthogonality=0.3)
    A, B, a = torch.randn(N, 4), torch.randn(4, M), torch.tensor([True, False, True, False])
    used, eye = a.nonzero().squeeze(1), torch.eye(2)
    want = (A[:, used].T @ A[:, used] - eye).norm() / 2 + (B[used] @ B[used].T - eye).norm() / 2
    model = get_peft_model(bert(num_hidden_layers=1), SubspaceConfig(method=method, target_modules=["query"]))
    (held,) = (m for m in model.modules() if isinstance(m, SubspaceLayer))
    p = held.params("default").replace(A=A, B=B)
    torch.testing.assert_close(method.penalty(p.replace(a=held.params("default").a)), method.penalty(p))
    held.subspace_stored["default"]["a"].copy_(a)
    torch.testing.assert_close(method.penalty(p), 0.3 * want)


@each(
    fields=[
        ({"r": 4, "max_r": 3}, "max_r is at least r"),
        ({"b": 0}, "b matrices give"),
        ({"schedule": "linear"}, "constant, cubic"),
        ({"delta_t": 0}, "delta_t >= 1"),
    ]
)
def test_fields_out_of_range_say_so(fields):
    values, message = fields
    with pytest.raises(ValueError, match=message):
        FlexLoRA(**values)
