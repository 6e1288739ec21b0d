"""Soft prompts are PEFT's own under our names: in configs, budgets, training, checkpoints and errors."""

import json

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

import tiny
from cases import each
from models import batch, bert, llama
from papers import FIXTURES, config_of
from subspace_tuning import METHODS, SSB, SubspaceConfig
from subspace_tuning.errors import BadInput
from subspace_tuning.methods import Prefix, Prompt, PTuning
from subspace_tuning.run.merged import merge
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.tuner.adapter import read
from subspace_tuning.tuner.budget import budget

OF_PEFT = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig, "p_tuning": PromptEncoderConfig}
NAMES = sorted(OF_PEFT)


def test_they_are_all_the_methods_that_sit_on_tokens():
    assert sorted(name for name, cls in METHODS.items() if cls.sits_on == "tokens") == NAMES


@each(name=NAMES)
def test_a_config_hands_over_to_pefts(name):
    config = SubspaceConfig(method=name, tokens=5, task_type="SEQ_CLS").handed_over()
    assert type(config) is OF_PEFT[name]
    assert (config.num_virtual_tokens, config.task_type) == (5, "SEQ_CLS")
    ours = SubspaceConfig(method="ssb")
    assert ours.handed_over() is ours


@each(name=NAMES, make=[bert, llama])
def test_it_trains_only_its_tokens_and_the_head(name, make):
    task = "SEQ_CLS" if make is bert else "CAUSAL_LM"
    model = get_peft_model(make(), SubspaceConfig(method=name, tokens=3, task_type=task).handed_over())
    model(**batch(make)).loss.backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("prompt_encoder" in key or "modules_to_save" in key), key


@each(name=["roberta-base", "roberta-large", "deberta-v3-base"])
def test_the_budget_is_the_formula(name):
    path, shape = str(FIXTURES / name / "config.json"), config_of(name)
    d, layers = shape.hidden_size, shape.num_hidden_layers
    for method, numbers in (
        (Prefix(tokens=30), 2 * 30 * d * layers),
        (Prompt(tokens=30), 30 * d),
        (PTuning(tokens=30, h=64), 30 * d + 2 * d * 64 + 64 * 64 + 2 * 64 + d),
    ):
        counts = budget(path, SubspaceConfig(method=method))
        assert counts.trainable == numbers
        assert counts.total == budget(path, None).total


@each(name=NAMES)
def test_a_run_trains_predicts_and_refuses_to_merge(name, tmp_path):
    recipe = make(tiny.recipe(tmp_path, method={"name": name, "tokens": 4}, epochs=1))
    result = run(recipe)
    whole = {"prefix": 4 * 2 * 2 * 16, "prompt": 4 * 16, "p_tuning": 4 * 16 + 2 * 16 * 128 + 128**2 + 2 * 128 + 16}
    assert (result.trainable, result.trainable_with_head) == (whole[name], whole[name] + 34)
    stored = {"prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING", "p_tuning": "P_TUNING"}
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert config["peft_type"] == stored[name]
    (judged,) = Predictor(tmp_path / "run")([("the film was good",)])
    assert judged.answer in ("good", "bad")
    with pytest.raises(BadInput, match=f"{name}.* is not a map of the weight alone and cannot be merged"):
        merge(tmp_path / "run", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_checkpoint_is_plain_peft(tmp_path):
    weights, inputs = bert().state_dict(), batch()

    def base():
        model = bert()
        model.load_state_dict(weights)
        return model

    model = get_peft_model(base(), SubspaceConfig(method="prefix", task_type="SEQ_CLS").handed_over()).eval()
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base(), tmp_path).eval()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_a_checkpoint_without_its_task_is_refused(tmp_path):
    get_peft_model(bert(), SubspaceConfig(method="prefix").handed_over()).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": None}))
    with pytest.raises(BadInput, match="has no task_type, which a soft prompt needs: one of SEQ_CLS"):
        read(tmp_path)


def test_wrong_uses_end_in_one_sentence():
    model, data = bert(), batch()
    want = model(**data).logits
    with pytest.raises(ValueError, match=r"prefix sits on tokens.* get_peft_model\(model, config.handed_over\(\)\)"):
        get_peft_model(model, SubspaceConfig(method="prefix"))
    with pytest.raises(ValueError, match="prompt sits on tokens"):
        model.add_adapter(SubspaceConfig(method="prompt"))
    assert torch.equal(model(**data).logits, want)
    with pytest.raises(ValueError, match="prefix sits on tokens, not on a weight: it composes with nothing"):
        SSB() | Prefix()
    with pytest.raises(ValueError, match="takes no MPC"):
        SubspaceConfig(method="prefix", mpc="o")
    with pytest.raises(ValueError, match="prefix sits on tokens, not on modules: leave out target_modules"):
        SubspaceConfig(method="prefix", target_modules=["query"]).handed_over()
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="tokens is a whole number above 0"):
            SubspaceConfig(method="prompt", tokens=wrong)
    with pytest.raises(ValueError, match="the width h is a whole number above 0"):
        SubspaceConfig(method="p_tuning", h=0)
