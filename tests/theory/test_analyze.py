"""Analyses of adapters and fine-tuned models with known changes."""

import json

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from typer.testing import CliRunner

import tiny
from cases import each
from models import bert, gpt2, vit
from subspace_tuning import METHODS, SSB, SSL, BitFit, LoRA, SubspaceConfig
from subspace_tuning.cli import app
from subspace_tuning.convert.export import export
from subspace_tuning.convert.layers import changes_of, seats
from subspace_tuning.convert.probe import answers, differences, probe
from subspace_tuning.convert.source import opened
from subspace_tuning.errors import BadInput
from subspace_tuning.run.skeleton import split
from subspace_tuning.theory.analyze import Look, analyze, between_layers, save
from subspace_tuning.theory.trained import trained

QUERY = "bert.encoder.layer.1.attention.self.query"


@pytest.fixture
def made(tmp_path):
    """Makes a base model and an adapter with random values on it, on disk."""

    def make(method, model=bert, name="adapter", seed=0, **values):
        base = tmp_path / "base"
        if not base.exists():
            model().save_pretrained(base)
        torch.manual_seed(seed)
        config = SubspaceConfig(method=method, init_weights=False, **values)
        get_peft_model(type(model()).from_pretrained(base), config).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def test_a_lora_has_its_rank_and_its_patterns(made):
    data = analyze(made(LoRA(r=3)), look=Look(r=4))
    told = data["layers"][QUERY]
    assert len(told["singular_values"]["change"]) == 3
    assert 1 <= told["stable_rank"]["change"] <= told["effective_rank"]["change"] + 1 <= 4.01
    assert len(told["angles"]["left"]) == 4
    assert 0 < told["patterns"]["A_tilt"] < 1
    assert data["methods"] == [LoRA(r=3).describe()]
    assert data["summary"]["layers"] == len(data["layers"]) == 12


def test_a_scaling_stays_inside_more_than_an_extension(made):
    """W of low rank: what a reconstruction does on one side stays within its span on the other."""
    inside = analyze(made(SSL(), name="a"), look=Look(scales=()))["summary"]
    outside = analyze(made(LoRA(r=2), name="b"), look=Look(scales=()))["summary"]
    assert inside["inside"] > outside["inside"]
    assert outside["inside"] == pytest.approx(outside["inside_by_chance"], abs=0.2)


def test_a_fine_tuned_model_says_the_same_as_its_adapter(made, tmp_path):
    folder = made(LoRA(r=2) | BitFit(), target_modules=["query", "value"])
    export(folder, tmp_path / "merged", "merged")
    one, two = analyze(folder), analyze(tmp_path / "merged", base=str(tmp_path / "base"))
    assert set(one["layers"]) == set(two["layers"])
    for name, told in one["layers"].items():
        other = two["layers"][name]
        assert other["relative_change"] == pytest.approx(told["relative_change"], rel=1e-4)
        assert other["stable_rank"]["after"] == pytest.approx(told["stable_rank"]["after"], rel=1e-4)
        assert other["angles"]["left"] == pytest.approx(told["angles"]["left"], abs=0.05)
    with pytest.raises(BadInput, match="say with --base"):
        analyze(tmp_path / "merged")


ALONE = [
    SSB() | LoRA(r=2),  # a composition
    METHODS["pissa"](r=2),  # constants of W
    METHODS["diff_pruning"](),  # stored in another form
    METHODS["fishmask"](share=0.1),  # with places that are stored
    METHODS["vera"](r=2),  # random constants
]


@each(method=ALONE, model=[bert, vit])
def test_a_layer_read_alone_is_what_the_whole_model_makes_of_it(method, model, made):
    folder = made(method, model, rank_pattern={"value": 3} if model is bert and "pissa" in method.describe() else {})
    held = opened(folder).load()
    changes = changes_of(held, held.active_adapters)
    with trained(folder) as subject:
        assert list(changes) == subject.names
        for name, change in changes.items():
            layer = subject.read(name)
            assert torch.equal(layer.W, seats(held)[name].frozen.dense().double())
            torch.testing.assert_close(layer.change.dense(), change.dense(), rtol=0, atol=1e-12)


def test_no_whole_model_is_loaded_for_figures_of_layers(made, tmp_path, monkeypatch):
    folder = made(LoRA(r=2))
    export(folder, tmp_path / "merged", "merged")
    said = [analyze(folder, look=Look(scales=()))["summary"]]
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    said.append(analyze(folder, look=Look(scales=()))["summary"])
    said.append(analyze(tmp_path / "merged", base=str(tmp_path / "base"), look=Look(scales=()))["summary"])
    assert said[0] == said[1]
    assert said[2]["relative_change"] == pytest.approx(said[0]["relative_change"], rel=1e-4)


def test_a_fine_tuned_model_answers_as_itself_and_its_base_as_the_base(tmp_path):
    """With the head as trained, and whatever else training moved (norms)."""
    torch.manual_seed(0)
    model = bert()
    model.bert.save_pretrained(tmp_path / "base")
    base = type(model)(model.config)
    base.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        base.classifier.load_state_dict(model.classifier.state_dict())
    model.save_pretrained(tmp_path / "fine")
    with trained(tmp_path / "fine", str(tmp_path / "base")) as subject:
        said = subject.answers()
        inputs = probe(model)
        for ours, theirs in ((said.base(), answers(base, inputs)), (said.trained({}), answers(model, inputs))):
            assert differences(ours, theirs).largest < 1e-6


def test_an_adapter_of_another_model_is_refused(made, tmp_path):
    folder = made(LoRA(r=2))
    gpt2().save_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match="has no module"):
        analyze(folder, base=str(tmp_path / "other"))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({k: v[:1].contiguous() for k, v in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(BadInput, match="does not fit this model"):
        analyze(folder)


def test_a_head_that_the_base_has_not_is_left_out(tmp_path):
    from transformers import BertForSequenceClassification

    base = tiny.model(tmp_path / "base")
    fine = BertForSequenceClassification.from_pretrained(base)
    with torch.no_grad():
        fine.bert.encoder.layer[0].output.dense.weight.add_(0.01 * torch.randn(16, 24))
    fine.save_pretrained(tmp_path / "fine")
    data = analyze(tmp_path / "fine", base=str(base))
    assert list(data["layers"]) == ["bert.encoder.layer.0.output.dense"]


def test_layouts_of_weights_do_not_matter(made):
    """GPT-2 keeps W the other way round."""
    told = analyze(made(LoRA(r=2), gpt2, target_modules=["c_attn"]))["layers"]["transformer.h.0.attn.c_attn"]
    assert told["shape"] == [16, 48]


@each(factor=[1.0, 0.5])
def test_the_optimal_scale_of_a_fraction(factor, made, tmp_path):
    """W* is the whole of what half an adapter does: s* = 2."""
    folder = made(LoRA(r=2), target_modules=["query"])
    export(folder, tmp_path / "star", "merged")
    half = made(LoRA(r=2, alpha=16.0 * factor), name="half", target_modules=["query"])
    data = analyze(half, target=tmp_path / "star", look=Look(scales=()))
    assert data["summary"]["optimal_scale"] == pytest.approx(1 / factor, rel=1e-4)


def test_the_same_training_is_alike_and_another_seed_is_chance(made):
    a, b = made(LoRA(r=2), name="a"), made(LoRA(r=2), name="b", seed=1)
    same = analyze(a, versus=a, look=Look(r=2, scales=()))["versus"]
    other = analyze(a, versus=b, look=Look(r=2, scales=()))["versus"]
    assert same["layers"][QUERY]["left"] == pytest.approx(1.0)
    assert torch.tensor(same["mean"]["right"]).shape == (2, 2)
    mean = sum(x["left"] for x in other["layers"].values()) / len(other["layers"])
    chance = sum(x["chance"]["left"] for x in other["layers"].values()) / len(other["layers"])
    assert mean == pytest.approx(chance, abs=0.15)


def test_strong_changes_intrude_and_scaling_them_down_leads_back(made):
    data = analyze(made(LoRA(r=2, alpha=60.0), target_modules=["query", "value", "dense"]))
    assert data["summary"]["intruders"] > 0
    points = data["scaling_intruders"]
    assert [p["scale"] for p in points] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert points[-1]["to_trained"] < 1e-6
    assert points[0]["to_base"] < points[-1]["to_base"]
    assert points[0]["to_trained"] > points[3]["to_trained"]


def test_layers_are_found_by_name_and_compared_by_kind(made):
    folder = made(SSB())
    data = analyze(folder, look=Look(layers="key|value", scales=()))
    assert set(data["between_layers"]) == {"attention.self.key", "attention.self.value"}
    assert all("key" in name or "value" in name for name in data["layers"])
    with pytest.raises(BadInput, match="'nothing' finds"):
        analyze(folder, look=Look(layers="nothing"))
    with pytest.raises(BadInput, match="changes no weight matrix"):
        analyze(made(BitFit(), name="biases"))


def test_layers_that_are_no_regular_expression(made):
    with pytest.raises(BadInput, match="--layers is a regular expression, got '\\('"):
        analyze(made(LoRA(r=2)), look=Look(layers="("))


def test_between_layers_compares_what_has_one_shape():
    from subspace_tuning.linalg.svd import svd

    change = svd(torch.randn(9, 7).double(), 2)
    data = between_layers({"h.0.q": change, "h.1.q": change, "h.2.k": change})
    assert set(data) == {"q"}
    assert data["q"]["layers"] == ["0", "1"]
    assert torch.tensor(data["q"]["left"]).flatten().tolist() == pytest.approx([1.0] * 4)


def test_names_split_at_their_number():
    assert split("bert.encoder.layer.3.attention.self.query") == ("3", "attention.self.query")
    assert split("classifier.dense") == ("", "classifier.dense")


def test_everything_is_written(made, tmp_path):
    a = made(LoRA(r=2, alpha=60.0), name="a")
    data = analyze(a, versus=made(LoRA(r=2), name="b", seed=1), look=Look(r=2))
    written = save(data, tmp_path / "looks")
    assert json.loads((tmp_path / "looks" / "analysis.json").read_text())["summary"] == data["summary"]
    stems = {path.stem for path in written}
    assert stems == {"analysis", "heatmaps", "spectra", "angles", "between-layers", "versus", "intruders"}
    assert all(path.stat().st_size > 1000 for path in written)
    assert {path.suffix for path in written} == {".json", ".png", ".svg"}


def test_the_command_line(made, tmp_path):
    folder, run = made(LoRA(r=2)), CliRunner().invoke
    done = run(app, ["analyze", str(folder), "-o", str(tmp_path / "looks"), "--layers", "query", "--rank", "2"])
    assert done.exit_code == 0, done.output
    assert QUERY in done.stdout
    assert (tmp_path / "looks" / "heatmaps.png").is_file()
    done = run(app, ["analyze", str(folder), "--json", "--scales", ""])
    assert json.loads(done.stdout)["summary"]["layers"] == 12
    assert run(app, ["analyze", str(folder), "--scales", "x"]).exit_code == 2
    assert run(app, ["analyze", str(tmp_path / "none")]).exit_code == 2
