"""The live callback logs what an analysis says, and keeps within its share of the time."""

from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from cases import each
from models import batch, bert
from subspace_tuning import SSB, BitFit, LoRA, SubspaceConfig
from subspace_tuning.linalg.svd import svd
from subspace_tuning.theory import subspaces as s
from subspace_tuning.theory.live import SubspaceCallback


def tuned(method, **values):
    return get_peft_model(bert(), SubspaceConfig(method=method, init_weights=False, **values))


def test_it_logs_through_the_trainer(tmp_path):
    rows = [{k: v[0] for k, v in batch(size=1).items()} for _ in range(48)]
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_train_epochs=1, report_to=[], use_cpu=True
    )
    trainer = Trainer(model=tuned(LoRA(r=2)), args=args, train_dataset=rows)
    trainer.add_callback(SubspaceCallback(trainer.log, share=0.9, first=2))
    trainer.train()
    logged = [line for line in trainer.state.log_history if "subspace/relative_change" in line]
    assert logged
    assert set(logged[0]) >= {"subspace/stable_rank", "subspace/A_tilt", "subspace/B_tilt", "step"}


@each(method=[LoRA(r=2), SSB()])
def test_it_says_what_an_analysis_says(method):
    model = tuned(method, target_modules=["query"])
    values = SubspaceCallback(print, layers=99).look(model)
    layers = [m for m in model.modules() if hasattr(m, "subspace_params")]
    dWs = [(layer.tuned(["default"]).E.dense() - layer.frozen.dense()).detach() for layer in layers]
    Ws = [layer.frozen.dense() for layer in layers]
    change = sum((dW.norm() / W.norm()).item() for dW, W in zip(dWs, Ws, strict=True)) / len(dWs)
    rank = sum(s.stable_rank(svd(dW).S) for dW in dWs) / len(dWs)
    assert values["subspace/relative_change"] == pytest.approx(change, rel=1e-4)
    assert values["subspace/stable_rank"] == pytest.approx(rank, rel=0.05)
    assert ("subspace/A_tilt" in values) == isinstance(method, LoRA)


def test_it_looks_at_few_layers_and_skips_what_has_no_matrix():
    model = tuned(LoRA(r=2))
    assert len(SubspaceCallback(print, layers=3)._chosen(model)) == 3
    assert SubspaceCallback(print).look(tuned(BitFit(), target_modules=["LayerNorm"])) == {}
    assert SubspaceCallback(print).look(tuned(LoRA(r=2), mpc="n")) == {}


@each(cost=[0.001, 0.1, 3.0])
def test_its_cost_stays_within_its_share(cost):
    """By a clock of our own: a step takes a second, a look what it costs."""
    now = [0.0]
    looks = []

    class Dear(SubspaceCallback):
        def look(self, model):
            now[0] += cost
            looks.append(now[0])
            return {"subspace/x": 1.0}

    callback = Dear(lambda values: None, share=0.02, first=10, clock=lambda: now[0])
    for _ in range(1000):
        callback.on_step_begin(None, SimpleNamespace(), None)
        now[0] += 1.0
        callback.on_step_end(None, SimpleNamespace(), None, model=None)
    assert callback.trained == pytest.approx(1000.0)
    assert callback.looked <= 0.02 * callback.trained
    assert len(looks) >= min(0.02 * 1000 / cost * 0.8, 900) - 1


def test_it_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="unknown measures"):
        SubspaceCallback(print, measures=["colour"])
    with pytest.raises(ValueError, match="share"):
        SubspaceCallback(print, share=2.0)


def test_training_is_not_disturbed():
    model = tuned(LoRA(r=2))
    torch.manual_seed(3)
    SubspaceCallback(print).look(model)
    a = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(a, torch.rand(1))
    assert all(p.grad is None for p in model.parameters())
