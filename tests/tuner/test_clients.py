"""Libraries that train PEFT models in loops and with losses of their own: methods act exactly once a step in each."""

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModel, LlamaForSequenceClassification, Trainer, TrainingArguments

import tiny
import tiny_lm
from loops import rows
from models import bert
from subspace_tuning import SSB, SubspaceConfig
from subspace_tuning.methods import AdaLoRA
from subspace_tuning.tuner import penalty as penalties
from subspace_tuning.tuner import steps

STEPS = 3
HOW = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
}


def config(**values):
    """A method that acts before and after steps, by a number of all steps; with a penalty of its own, and MPC's."""
    method = SSB() | AdaLoRA(r=1, init_r=2, tinit=0, tfinal=1, delta_t=1)
    return SubspaceConfig(method=method, mpc="o", mpc_weight=0.1, **values)


class Spy:
    """What is done at steps: (what, number of the step, number of all steps)."""

    def __init__(self):
        self.calls = []

    def acted_once_a_step(self, total=STEPS):
        for what in ("before_step", "after_step"):
            assert [c[1:] for c in self.calls if c[0] == what] == [(n, total) for n in range(1, total + 1)]
        assert sum(c[0] == "charge" for c in self.calls) == total


@pytest.fixture
def spy(monkeypatch):
    found = Spy()
    for what in ("before_step", "after_step"):
        monkeypatch.setattr(AdaLoRA, what, _told(found, what, getattr(AdaLoRA, what)))

    def charge(clock, moved):
        held = [p for p in clock.parameters() if id(p) in moved]
        before = [0 if p.grad is None else p.grad.clone() for p in held]
        term = penalties.charge(clock, moved)
        added = [0 if p.grad is None else p.grad - old for p, old in zip(held, before, strict=True)]
        assert sum(bool(torch.as_tensor(g).any()) for g in added) == 2 * len(clock.layers())  # A and B of each
        found.calls.append(("charge",))
        return term

    monkeypatch.setattr(steps, "charge", charge)
    return found


def _told(spy, what, act):
    def told(method, seats, step, total):
        spy.calls.append((what, step, total))
        return act(method, seats, step, total)

    return told


# --- transformers ----------------------------------------------------------------------------------------------------


def own_loss(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits, labels)


@pytest.mark.parametrize("how", ["label_smoothing", "compute_loss_func", "fused", "adafactor"])
def test_trainer_with_a_loss_and_an_optimiser_of_its_own(how, spy, tmp_path):
    values = {
        "label_smoothing": {"label_smoothing_factor": 0.1},
        "compute_loss_func": {},
        "fused": {"optim": "adamw_torch_fused"},
        "adafactor": {"optim": "adafactor"},
    }[how]
    trainer = Trainer(
        model=get_peft_model(bert(), config()),
        args=TrainingArguments(output_dir=str(tmp_path), **HOW, **values),
        train_dataset=rows(),
        compute_loss_func=own_loss if how == "compute_loss_func" else None,
    )
    trainer.train()
    spy.acted_once_a_step()


# --- TRL -------------------------------------------------------------------------------------------------------------

PROMPTS = ["Question the cat", "Answer the cat", "Question yes", "Answer no"] * 2
PAIRS = {"prompt": PROMPTS, "chosen": [" yes"] * 8, "rejected": [" no"] * 8}


def _rewarded():
    lm = tiny_lm.model()
    lm.config.num_labels = 1
    return LlamaForSequenceClassification(lm.config)


def sft(trl, how):
    return trl.SFTTrainer, tiny_lm.model(), {"text": PROMPTS}, trl.SFTConfig(max_length=16, **how), {}


def dpo(trl, how):
    return trl.DPOTrainer, tiny_lm.model(), PAIRS, trl.DPOConfig(max_length=16, **how), {}


def reward(trl, how):
    return trl.RewardTrainer, _rewarded(), PAIRS, trl.RewardConfig(max_length=16, **how), {}


def kto(trl, how):
    data = {"prompt": PROMPTS, "completion": [" yes", " no"] * 4, "label": [True, False] * 4}
    return trl.KTOTrainer, tiny_lm.model(), data, trl.KTOConfig(max_length=16, **how), {}


def grpo(trl, how):
    made = trl.GRPOConfig(num_generations=2, max_completion_length=4, **how)
    by = {"reward_funcs": lambda completions, **_: [float(len(c)) for c in completions]}
    return trl.GRPOTrainer, tiny_lm.model(), {"prompt": PROMPTS}, made, by


@pytest.mark.parametrize("kind", [sft, dpo, reward, kto, grpo], ids=lambda kind: kind.__name__)
def test_trl(kind, spy, tmp_path):
    trl = pytest.importorskip("trl")
    how = {"output_dir": str(tmp_path), "bf16": False, "gradient_checkpointing": False, **HOW}
    trainer, model, data, args, more = kind(trl, how)
    made = trainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(data),
        processing_class=tiny_lm.tokenizer(),
        peft_config=config(),
        **more,
    )
    made.train()
    spy.acted_once_a_step()
    assert all("penalty" in log for log in made.state.log_history if "loss" in log)


# --- sentence-transformers -------------------------------------------------------------------------------------------


def test_sentence_transformers(spy, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    folder = tiny.model(tmp_path / "model")
    model = st.SentenceTransformer(str(folder), device="cpu")
    model.add_adapter(config(target_modules=["query", "value"]))
    data = Dataset.from_dict({k: [row[k] for row in tiny.rows(8)] for k in ("text", "other")})
    args = st.SentenceTransformerTrainingArguments(output_dir=str(tmp_path / "out"), **HOW)
    loss = MultipleNegativesRankingLoss(model)
    st.SentenceTransformerTrainer(model=model, args=args, train_dataset=data, loss=loss).train()
    spy.acted_once_a_step()


# --- Lightning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manual", [False, True])
def test_lightning(manual, spy, tmp_path):
    lightning = pytest.importorskip("lightning")
    model = get_peft_model(AutoModel.from_config(bert().config), config(total_steps=STEPS))

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual
            self.model = model

        def training_step(self, data, i):
            loss = self.model(input_ids=data["input_ids"]).last_hidden_state.square().mean()
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)

    size = 1 if manual else 2
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    if not manual:
        quiet |= {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    trainer = lightning.Trainer(max_steps=STEPS, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(Module(), torch.utils.data.DataLoader(rows(STEPS * 2 * size), batch_size=2))
    spy.acted_once_a_step()
