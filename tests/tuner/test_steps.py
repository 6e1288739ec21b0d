"""Methods that act between steps of training do what their papers say, through transformers' Trainer and by hand."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from cases import each
from loops import Watch, train, trainer
from models import batch, bert
from subspace_tuning import SubspaceConfig, penalty, set_total_steps
from subspace_tuning.methods import AdaLoRA, DiffPruning, LoRADash
from subspace_tuning.testing.cases import adapter_parameters, stored_numbers
from subspace_tuning.tuner.layer import SubspaceLayer


def layers(model):
    return {k: m for k, m in model.named_modules() if isinstance(m, SubspaceLayer)}


def values(model, name):
    return {k: p for k, p in adapter_parameters(model).items() if k.endswith(f".{name}")}


def numbers_left(model, name="d"):
    return sum(int((d != 0).sum()) for d in values(model, name).values())


def adalora(**fields):
    method = AdaLoRA(**{"r": 2, "init_r": 4, "tinit": 3, "tfinal": 4, "delta_t": 2, **fields})
    return get_peft_model(bert(), SubspaceConfig(method=method))


# --- AdaLoRA ---------------------------------------------------------------------------------------------------------


@each(orthogonality=[0.0, 0.1])
def test_adalora_reaches_its_rank_exactly_through_the_trainer(orthogonality, tmp_path):
    model = adalora(orthogonality=orthogonality)
    L = len(layers(model))
    watch = Watch(model, numbers_left)
    train(model, tmp_path, 16, [watch])
    seen = dict(enumerate(watch.seen, 1))
    assert seen[1] == 4 * L  # warmup: all of them
    assert seen[3] == 4 * L
    budget = {t: round(L * (2 + 2 * (1 - (t - 3) / 9) ** 3)) for t in (4, 6, 8, 10)}
    assert {t: seen[t] for t in budget} == budget
    assert seen[5] == 4 * L  # between two allocations what was set to zero trains again
    assert [seen[t] for t in range(12, 17)] == [2 * L] * 5
    assert seen[11] > 2 * L
    kept = [int((d != 0).sum()) for d in values(model, "d").values()]
    assert len(set(kept)) > 1  # the rank went where it matters


def test_adalora_keeps_the_same_numbers_in_its_last_phase(tmp_path):
    model = adalora()
    watch = Watch(model, lambda m: torch.cat([d != 0 for d in values(m, "d").values()]))
    train(model, tmp_path, 16, [watch])
    assert all(torch.equal(mask, watch.seen[11]) for mask in watch.seen[11:])


@each(saved=[2, 7, 14])
def test_adalora_goes_on_from_a_checkpoint_as_if_never_stopped(saved, tmp_path):
    """What it remembers is saved with the optimiser's moments, and no adapter carries it."""

    def run(**values):
        torch.manual_seed(0)
        model = adalora()
        return adapter_parameters(train(model, tmp_path, 16, gradient_accumulation_steps=2, **values))

    want = run(save_strategy="steps", save_steps=saved)
    got = run(resume=str(tmp_path / f"checkpoint-{saved}"))
    assert all(torch.equal(got[k], p) for k, p in want.items())
    files = load_file(tmp_path / f"checkpoint-{saved}" / "adapter_model.safetensors")
    assert {k.rpartition(".")[2] for k in files if "subspace" in k} == {"A", "d", "B"}


def test_adalora_goes_on_without_what_it_remembers(tmp_path):
    """From a checkpoint of an optimiser that did not keep it, or none."""
    train(adalora(), tmp_path, 16, save_strategy="steps", save_steps=14, save_only_model=True)
    model = adalora()
    torch.manual_seed(1)
    train(model, tmp_path, 16, resume=str(tmp_path / "checkpoint-14"))
    assert numbers_left(model) == 2 * len(layers(model))


def test_trainers_logs_show_the_penalty(tmp_path):
    model = get_peft_model(bert(), SubspaceConfig(method="lora", r=2, mpc="o"))
    made, seen, terms = trainer(model, tmp_path, 6, logging_steps=3, learning_rate=0.1), [], []
    made.add_callback(Watch(model, lambda m: None))
    made.add_callback(Logged(seen))
    made.optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    made.optimizer.register_step_pre_hook(lambda *_: terms.append(quiet(model)))
    made.train()
    want = [sum(terms[:3]) / 3, sum(terms[3:]) / 3]
    assert terms[0] != terms[-1]
    assert [log["penalty"] for log in seen if "loss" in log] == pytest.approx(want, rel=1e-5)
    assert [log["penalty"] for log in made.state.log_history if "loss" in log] == pytest.approx(want, rel=1e-5)
    assert not any("penalty" in log for log in seen if "loss" not in log)


class Logged(TrainerCallback):
    def __init__(self, seen):
        self.seen = seen

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(dict(logs))


@torch.no_grad()
def quiet(model):
    return penalty(model).item()


def test_an_engine_with_an_optimiser_of_its_own_is_named(tmp_path):
    """As DeepSpeed's: nobody steps an optimiser of torch's that holds the parameters."""
    model = get_peft_model(bert(), SubspaceConfig(method="lora", r=2, mpc="o"))
    made = trainer(model, tmp_path, 2)
    made.optimizer = torch.optim.SGD([p.detach().clone() for p in adapter_parameters(model).values()], lr=0.1)
    with pytest.warns(UserWarning, match="'default' acts at steps of torch's optimisers, and none has been taken"):
        made.train()


def test_adalora_keeps_what_matters_most():
    """Two allocations by hand: the sensitivity and its uncertainty, smoothed, as in the paper."""
    method = AdaLoRA(r=1, init_r=3, tinit=0, tfinal=1, delta_t=1, beta1=0.6, beta2=0.7, orthogonality=0.0)
    model = get_peft_model(bert(num_hidden_layers=1), SubspaceConfig(method=method, init_weights=False, total_steps=3))
    params, data = adapter_parameters(model), batch()
    optimiser = torch.optim.SGD(params.values(), lr=0.1)
    smooth = {k: (torch.zeros_like(p), torch.zeros_like(p)) for k, p in params.items()}
    for step in (1, 2):
        model(**data).loss.backward()
        for k, p in params.items():
            now, (mean, doubt) = (p * p.grad).abs().detach(), smooth[k]
            mean = 0.6 * mean + 0.4 * now
            smooth[k] = (mean, 0.7 * doubt + 0.3 * (now - mean).abs())
        optimiser.step()
        model.zero_grad()
        scores = {}
        for k in values(model, "d"):
            own, A, B = (torch.mul(*smooth[k[:-1] + name]) for name in "dAB")
            scores[k] = own + A.mean(0) + B.mean(1)
        wanted = round(len(scores) * (1 + 2 * (1 - step / 2) ** 3))
        threshold = torch.cat(list(scores.values())).sort(descending=True).values[wanted - 1]
        for k, score in scores.items():
            assert torch.equal(params[k] != 0, score >= threshold)


def test_adalora_says_when_there_are_too_few_steps(tmp_path):
    with pytest.raises(ValueError, match="6 steps of training leave none"):
        train(adalora(), tmp_path, 6)
    with pytest.raises(ValueError, match="falls from init_r to r"):
        AdaLoRA(r=8, init_r=4)


# --- LoRA-Dash -------------------------------------------------------------------------------------------------------


def test_lora_dash_finds_its_directions_then_trains_them(tmp_path):
    model = get_peft_model(bert(), SubspaceConfig(method=LoRADash(r=2, directions=3, launch=4)))
    watch = Watch(
        model, lambda m: {k: v.detach().clone() for k, v in (adapter_parameters(m) | stored_numbers(m)).items()}
    )
    train(model, tmp_path, 7, [watch])
    for name, layer in layers(model).items():
        at = [{k.rpartition(".")[2]: v for k, v in seen.items() if k.startswith(name + ".")} for seen in watch.seen]
        assert not any(seen["d"].any() for seen in at[:4])
        assert at[4]["d"].all()
        W = layer.frozen.dense().double()
        U, S, Vt = torch.linalg.svd(W, full_matrices=False)
        dW = layer.methods["default"].s * at[3]["A"].double() @ at[3]["B"].double()
        rate = torch.einsum("ni,nm,im->i", U, dW, Vt).abs() / S
        for i, best in enumerate(rate.argsort(descending=True)[:3]):
            found = torch.outer(at[3]["U"][:, i], at[3]["Vt"][i]).double()
            torch.testing.assert_close(found, torch.outer(U[:, best], Vt[best]), rtol=1e-4, atol=1e-5)
        assert torch.equal(at[6]["U"], at[3]["U"])


def test_lora_dash_says_when_training_ends_before_it_launches(tmp_path):
    model = get_peft_model(bert(), SubspaceConfig(method=LoRADash(r=2, launch=3)))
    with pytest.warns(UserWarning, match="launch = 3 leaves none of 3 steps"):
        train(model, tmp_path, 3)
    assert numbers_left(model) == 0


# --- diff pruning ----------------------------------------------------------------------------------------------------


@each(structured=[False, True])
def test_diff_pruning_ends_sparse_and_is_stored_sparse(structured, tmp_path):
    method = DiffPruning(share=0.02, fixed=0.5, structured=structured)
    model = get_peft_model(bert(), SubspaceConfig(method=method))
    size = sum(p.numel() for p in values(model, "V").values())
    k = round(0.02 * size)

    def delta(m):
        return torch.cat(
            [(x.tuned(["default"]).E.dense() - x.frozen.dense()).detach().flatten() for x in layers(m).values()]
        )

    watch = Watch(model, delta)
    train(model, tmp_path / "run", 8, [watch])
    assert int((watch.seen[2] != 0).sum()) > 10 * k
    exact = watch.seen[3] != 0
    assert abs(int(exact.sum()) - k) <= 2  # W + v may round to W
    assert not torch.equal(watch.seen[3][exact], watch.seen[7][exact])  # and it trains on
    assert not watch.seen[7][~exact].any()
    model.eval().save_pretrained(tmp_path / "end")
    bytes_of = (tmp_path / "end" / "adapter_model.safetensors").stat().st_size
    assert bytes_of < 12 * k + 12_000 < 4 * size  # 4 for the number, 8 for its place; names and shapes
    base = model.unload()
    again = PeftModel.from_pretrained(base, tmp_path / "end")
    assert torch.equal(delta(again), watch.seen[7])
    assert len(adapter_parameters(again)) == (3 if structured else 2) * len(layers(again))
    with pytest.raises(RuntimeError, match="only PEFT's loading reads"):
        load_by_transformers(tmp_path / "end")(**batch())


@each(second=[1.0, 30.0])
def test_fixing_the_mask_leaves_what_is_kept_as_it_was(second):
    model = get_peft_model(bert(), SubspaceConfig(method=DiffPruning(share=0.1, fixed=0.5, second=second)))
    generator = torch.Generator().manual_seed(0)
    for V in values(model, "V").values():
        V.data.copy_(torch.randn(V.shape, generator=generator))
    seats = layers(model).values()

    def delta():
        return torch.cat([(x.tuned(["default"]).E.dense() - x.frozen.dense()).detach().flatten() for x in seats])

    set_total_steps(model.eval(), 2)
    before = delta()
    params = adapter_parameters(model).values()
    for p in params:
        p.grad = torch.zeros_like(p)
    torch.optim.SGD(params, lr=0.0).step()
    kept = delta() != 0
    assert int(kept.sum()) == pytest.approx(0.1 * before.numel(), rel=0.01)
    assert torch.allclose(delta()[kept], before[kept], atol=1e-5)
    assert before[kept].abs().min() >= before[~kept].abs().max() - 1e-5


def load_by_transformers(path, **values):
    model = bert()
    model.load_adapter(str(path), **values)
    return model


def test_pruned_differences_come_back_by_transformers_own_loading_and_by_resuming(tmp_path):
    method, plain = DiffPruning(share=0.02, fixed=0.5), bert()
    plain.add_adapter(SubspaceConfig(method=method))
    train(plain, tmp_path / "a", 4)
    plain.save_pretrained(tmp_path / "b")
    again = load_by_transformers(tmp_path / "b")
    assert all(torch.equal(adapter_parameters(again)[k], p) for k, p in adapter_parameters(plain).items())
    config = SubspaceConfig(method=method)
    train(get_peft_model(bert(), config), tmp_path / "c", 8, save_strategy="steps", save_steps=6)
    model = get_peft_model(bert(), SubspaceConfig(method=method))
    train(model, tmp_path / "c", 8, resume=str(tmp_path / "c" / "checkpoint-6"))
    size = sum(p.numel() for p in values(model, "V").values())
    assert sum(int((a > 0).sum()) for a in values(model, "a").values()) == round(0.02 * size)


def test_diff_pruning_gates_are_random_in_training_only():
    model, data = get_peft_model(bert(), SubspaceConfig(method="diff_pruning", gate=0.0, init_weights=False)), batch()
    calm = model.eval()(**data).logits
    assert torch.equal(model(**data).logits, calm)
    assert not torch.equal(model.train()(**data).logits, model(**data).logits)
