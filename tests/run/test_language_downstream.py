"""What is done with a run of a language model afterwards: judged along its strength, exported, merged, looked into."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny_lm
import tiny_sft
from command import subspace
from subspace_tuning.errors import BadInput
from subspace_tuning.run.curve import measure
from subspace_tuning.run.folder import RunFolder
from subspace_tuning.run.predict import Predictor
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.testing.law import relative

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of LoRA, one of full fine-tuning, one of the base, on one tiny model."""
    folder = tmp_path_factory.mktemp("downstream")
    kept = str(tiny_sft.write(folder / "texts.jsonl", [{"text": f"the cat sat on {n}"} for n in range(6)]))
    for name, method in {"lora": {"name": "lora", "r": 2}, "full": "full", "none": "none"}.items():
        retention = [{"judge": "bits_per_byte", "data": kept, "name": "texts"}]
        values = {"method": method, "retention": retention, "output": str(folder / "runs" / name), "save_every": 2}
        run(make(tiny_sft.recipe(folder, **values)))
    return folder


@pytest.fixture
def lora(runs, tmp_path):
    return shutil.copytree(runs / "runs" / "lora", tmp_path / "lora")


def ok(*words):
    code, out, err = subspace(*words)
    assert code == 0, err
    return out


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 13).unsqueeze(0)).logits


def test_a_curve_is_judged_by_the_run_s_own_retention(lora):
    curve = measure(lora, (0, 0.5, 1))
    result = RunFolder(lora).result()
    change = result.retention["texts"]
    assert [point.kept["texts"] for point in curve.points][::2] == pytest.approx([change["before"], change["after"]])
    assert curve.score(curve.points[-1]) == pytest.approx(result.score)
    assert curve.less == ("texts",)
    assert "the best trade-off of 3 strengths" in curve.says()
    again = []
    measure(lora, (0, 0.5, 1), say=again.append)
    assert again == []
    assert (lora / "curve.png").stat().st_size > 1000


def test_results_and_a_report_have_what_was_kept(runs, tmp_path):
    shown = ok("results", runs / "runs", "--by", "method")
    assert "kept_texts" in shown.splitlines()[0]
    assert ok("results", runs / "runs", "--sql", "select count(kept_texts) as n from runs").split() == ["n", "3"]
    ok("report", runs / "runs", "-o", tmp_path / "report.html")
    assert "Beside the base, texts" in (tmp_path / "report.html").read_text()


def test_merged_is_what_was_trained(lora, tmp_path):
    ok("merge", lora, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert relative(logits(merged), logits(Predictor(lora).model)) < 1e-5


@pytest.mark.parametrize("to", ["lora", "peft", "merged"])
def test_an_adapter_is_exported(lora, tmp_path, to):
    ok("export", lora, tmp_path / "out", "--to", to)
    assert list((tmp_path / "out").glob("*.safetensors"))


def test_two_runs_are_combined(lora, tmp_path):
    ok("combine", lora, lora, "--out", tmp_path / "both")
    assert (tmp_path / "both" / "adapter_config.json").is_file()


def test_what_training_did_is_analyzed_and_fitted(runs, lora, tmp_path):
    ok("analyze", lora, "-o", tmp_path / "looks")
    ok("fit", runs / "model", runs / "runs" / "full" / "model", "--methods", "lora", "--output", tmp_path / "fit")


def test_packed_runs_are_refused(runs, tmp_path):
    recipes = []
    for seed in (0, 1):
        values = tiny_sft.recipe(runs, seed=seed, output=str(tmp_path / f"run{seed}"))
        (path := tmp_path / f"{seed}.yaml").write_text(json.dumps(values))
        recipes.append(path)
    code, _, err = subspace("pack", *recipes)
    assert code == 2
    assert "not with task: sft; train it alone" in err


def test_a_search_has_a_score_to_go_by(runs, tmp_path):
    own = tiny_sft.recipe(runs)
    base = {k: v for k, v in own.items() if k not in ("task", "method", "output", "model", "learning_rate")}
    search = {"seeds": [17], "search": {"optuna": {"trials": 2}}}
    sweep = {"output": str(tmp_path / "sweep"), "base": base, "models": [own["model"]], "tasks": ["sft"]}
    (tmp_path / "s.yaml").write_text(json.dumps(sweep | {"methods": ["ssb"], "seeds": [0], "tuning": search}))
    ok("sweep", tmp_path / "s.yaml", "--jobs", "1")
    assert "neg_bits_per_byte" in ok("results", tmp_path / "sweep", "--where", "kind = 'final'")


def test_retention_without_a_target_is_refused(runs, tmp_path):
    data = str(tiny_sft.data(tmp_path / "pairs", tiny_sft.preferences))
    values = {"task": "dpo", "data": data, "retention": [{"judge": "bits_per_byte", "data": data, "name": "kept"}]}
    with pytest.raises(BadInput, match="retention needs evaluate"):
        make(tiny_sft.recipe(runs, **values)).resolved()


def test_a_tokenizer_without_pad_trains_and_one_without_eos_is_refused(tmp_path):
    for special, said in (
        ({"pad_token": None}, None),
        ({"eos_token": None}, "no eos token, with which an answer ends"),
    ):
        (folder := tmp_path / next(iter(special))).mkdir()
        tiny_sft.model(folder / "model")
        tiny_lm.tokenizer(**special).save_pretrained(folder / "model")
        recipe = make(tiny_sft.recipe(folder, max_steps=1))
        if said is None:
            assert run(recipe).steps == 1
            continue
        with pytest.raises(BadInput, match=said):
            run(recipe)


def test_a_prompt_that_the_model_cannot_read_is_refused(lora):
    with pytest.raises(BadInput, match=r"has 3\d\d tokens; with max_new_tokens=128 that is more than the 256"):
        Predictor(lora)(["z" * 300])


def test_empty_training_rows_are_refused(runs, tmp_path):
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(BadInput, match=r"train\.jsonl is empty"):
        run(make(tiny_sft.recipe(runs, data=str(tmp_path), output=str(tmp_path / "run"))))
