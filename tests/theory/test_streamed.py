"""Exports, layer by layer, of a base in shards: what an export of the model in memory writes, and where it was."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file

import tiny_sft
from command import subspace
from models import batch, bert, llama
from subspace_tuning import SSB, LoRA, SubspaceConfig
from subspace_tuning.convert.combine import combine
from subspace_tuning.convert.export import export
from subspace_tuning.errors import BadInput
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.methods import BitFit, DoRA
from subspace_tuning.run.merged import merge
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from subspace_tuning.theory import streamed_work
from subspace_tuning.theory.streamed import written

METHODS = {"lora": LoRA(r=2), "dora": DoRA(r=2), "ssb": SSB(), "after": SSB() | LoRA(r=2)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base in shards, in half precision, and adapters."""
    folder = tmp_path_factory.mktemp("streamed")
    torch.manual_seed(0)
    llama().to(torch.bfloat16).save_pretrained(folder / "base", max_shard_size="3KB")
    assert len(list((folder / "base").glob("*.safetensors"))) > 3
    for name, method in METHODS.items():
        torch.manual_seed(len(name))
        model = type(llama()).from_pretrained(folder / "base")
        config = SubspaceConfig(method=method, init_weights=False, task_type="CAUSAL_LM")
        get_peft_model(model, config).save_pretrained(folder / name)
    return folder


def tensors(folder):
    return {key: Checkpoint(folder).stored(key) for key in Checkpoint(folder).keys()}  # noqa: SIM118


def assert_as_in_memory(mine, theirs, base):
    """Both round what is exact; the same but where a half fell to another side."""
    ours, other, before = tensors(mine), tensors(theirs), tensors(base)
    assert ours.keys() == other.keys()
    assert any(not torch.equal(ours[key], before[key]) for key in before)
    for key, value in ours.items():
        assert value.dtype == other[key].dtype
        torch.testing.assert_close(value.float(), other[key].float(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_model_is_that_of_the_model_in_memory(home, tmp_path, method):
    told = written([home / method], tmp_path / "streamed", "merged")
    known = export(home / method, tmp_path / "known", "merged")
    assert_as_in_memory(tmp_path / "streamed", tmp_path / "known", home / "base")
    assert told.layers.keys() == known.layers.keys()
    assert told.largest_error == pytest.approx(known.largest_error, rel=1e-2, abs=1e-6)
    shards = {path.name: safe_open(path, "pt").keys() for path in (home / "base").glob("*.safetensors")}
    assert shards == {path.name: safe_open(path, "pt").keys() for path in (tmp_path / "streamed").glob("*.safetensors")}
    again = type(llama()).from_pretrained(tmp_path / "streamed")
    assert again(**batch(llama)).logits.isfinite().all()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_lora_is_that_of_the_model_in_memory(home, tmp_path):
    for name, more in (("lora", []), ("after", ["lora"])):
        folders = [home / name, *(home / other for other in more)]
        told = written(folders, tmp_path / f"{name}-s", "lora", weights=[0.5, 2.0][: len(folders)])
        if more:
            known = combine(folders, tmp_path / f"{name}-k", "lora", [0.5, 2.0])
            ours, theirs = (load_file(tmp_path / f"{name}-{end}" / "adapter_model.safetensors") for end in ("s", "k"))
            assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
            for layer in [key for key in ours if "lora_A" in key]:
                b = layer.replace("lora_A", "lora_B")
                torch.testing.assert_close(ours[b] @ ours[layer], theirs[b] @ theirs[layer], rtol=1e-4, atol=1e-6)
            assert told.layers.keys() == known.layers.keys()
        base = type(llama()).from_pretrained(home / "base")
        PeftModel.from_pretrained(base, tmp_path / f"{name}-s")


def test_composed_adapters_are_merged_one_on_the_other(home, tmp_path):
    both = [home / "ssb", home / "lora"]
    written(both, tmp_path / "streamed", "merged", how="compose")
    combine(both, tmp_path / "known", "merged", how="compose")
    assert_as_in_memory(tmp_path / "streamed", tmp_path / "known", home / "base")


@pytest.mark.parametrize("to", ["merged", "lora"])
def test_interrupted_work_goes_on(home, tmp_path, monkeypatch, to):
    known = written([home / "lora"], tmp_path / "known", to)
    begun = []
    change = streamed_work.Work.change

    def cut(self, name):
        if len(begun) == 5:
            raise KeyboardInterrupt
        begun.append(name)
        return change(self, name)

    monkeypatch.setattr(streamed_work.Work, "change", cut)
    with pytest.raises(KeyboardInterrupt):
        written([home / "lora"], tmp_path / "again", to)
    assert not (tmp_path / "again").exists()
    left = []
    monkeypatch.setattr(streamed_work.Work, "change", lambda self, name: left.append(name) or change(self, name))
    assert written([home / "lora"], tmp_path / "again", to).to_json() == known.to_json()
    assert len(left) < len(known.layers)
    ours, theirs = tensors(tmp_path / "again"), tensors(tmp_path / "known")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_unfinished_work_that_is_damaged_is_begun_anew(home, tmp_path):
    known = written([home / "lora"], tmp_path / "known")
    damaged = tmp_path / ".again.unfinished"
    damaged.mkdir()
    (damaged / "work").write_bytes(b"\xff{")
    assert written([home / "lora"], tmp_path / "again").to_json() == known.to_json()
    assert not damaged.exists()


def test_what_takes_more_than_a_layer_is_refused(home, tmp_path):
    bert().save_pretrained(tmp_path / "bert")
    model = type(bert()).from_pretrained(tmp_path / "bert")
    config = SubspaceConfig(method=BitFit(), target_modules=["query"], init_weights=False, task_type="SEQ_CLS")
    get_peft_model(model, config).save_pretrained(tmp_path / "bias")
    with pytest.raises(BadInput, match=r"nothing that a LoRA could hold|lose more"):
        written([tmp_path / "bias"], tmp_path / "out", "lora")
    written([tmp_path / "bias"], tmp_path / "out", "merged")
    export(tmp_path / "bias", tmp_path / "known", "merged")
    assert_as_in_memory(tmp_path / "out", tmp_path / "known", tmp_path / "bert")


def test_the_commands_say_what_was_kept(home, tmp_path):
    words = ("--to", "merged", "--streamed")
    code, out, _ = subspace("export", home / "lora", tmp_path / "one", *words)
    assert code == 0
    assert "exact but for rounding" in out
    assert "logits" not in out
    code, out, _ = subspace("combine", home / "lora", home / "ssb", "-o", tmp_path / "both", *words, "--json")
    assert code == 0
    assert json.loads(out)["logits"]["largest"] is None
    code, _, err = subspace("export", home / "lora", tmp_path / "half", *words, "--strength", "0.5")
    assert code == 2
    assert "none of --scales, --strength" in err


def test_a_run_is_merged_layer_by_layer(tmp_path):
    run(make(tiny_sft.recipe(tmp_path, method={"name": "lora", "r": 2}, max_steps=1, output=str(tmp_path / "run"))))
    code, said, error = subspace("merge", tmp_path / "run", tmp_path / "streamed", "--streamed")
    assert code == 0, error
    assert "written to" in said
    merge(tmp_path / "run", tmp_path / "known")
    ours, known = (load_file(tmp_path / name / "model.safetensors") for name in ("streamed", "known"))
    assert ours.keys() == known.keys()
    for key, value in known.items():
        torch.testing.assert_close(ours[key], value)
    cards = [(tmp_path / name / "README.md").read_text() for name in ("streamed", "known")]
    assert cards[0] == cards[1]
    code, _, error = subspace("merge", tmp_path / "run", tmp_path / "half", "--streamed", "--strength", "0.5")
    assert code == 2
    assert "leave one of them out" in error
