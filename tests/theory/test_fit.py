"""How near families come to a fine-tuned weight: against full decompositions, special cases and checkpoints on disk."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from command import subspace
from models import bert, gpt2, vit
from subspace_tuning import METHODS, SSB, LoRA
from subspace_tuning.algebra import Weight
from subspace_tuning.files.checkpoint import Checkpoint
from subspace_tuning.theory import captured_energy, optimal_scale, project
from subspace_tuning.theory.fit import Fit, LayerFit, choose


@pytest.fixture
def pair():
    """W and a W* that no family reaches."""
    W = torch.randn(90, 70)
    return Weight(W), Weight(W + 0.1 * torch.randn(90, 70) + 0.05 * torch.randn(90, 3) @ torch.randn(3, 70))


def energy_of(name, pair, **fields):
    return project(METHODS[name](**fields), *pair).captured_energy


def test_low_rank_is_eckart_young(pair):
    D = (pair[1].dense() - pair[0].dense()).double()
    S = torch.linalg.svdvals(D).square()
    for r in (1, 4, 8):
        assert abs(energy_of("lora", pair, r=r) - S[:r].sum() / S.sum()) < 1e-5


def test_lora_trilora_and_flora_reach_the_same(pair):
    """Equation 22."""
    one, *others = (energy_of(name, pair, r=4) for name in ("lora", "trilora", "flora"))
    assert all(other == pytest.approx(one, abs=1e-9) for other in others)


def test_no_fit_loses_to_its_special_case(pair):
    assert energy_of("ssb", pair) >= max(energy_of("ssl", pair), energy_of("ia3", pair))
    assert energy_of("dora", pair, r=4) >= energy_of("lora", pair, r=4) - 1e-9
    both = project(SSB() | LoRA(r=4), *pair).captured_energy
    assert both >= max(energy_of("ssb", pair), energy_of("lora", pair, r=4))


def test_closed_forms_are_least_squares(pair):
    W, W_star = (w.dense() for w in pair)
    d = 1 + project(METHODS["ssl"](), *pair).values["delta"]
    torch.testing.assert_close(d, torch.stack([(w @ v) / (w @ w) for w, v in zip(W, W_star, strict=True)]))
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    s = S + project(METHODS["sam_parser"](), *pair).values["delta"]
    torch.testing.assert_close(s, torch.einsum("nk,nm,km->k", U, W_star, Vh), rtol=1e-4, atol=1e-4)


def test_optimal_scale_is_where_the_distance_is_least(pair):
    """Equation 20."""
    W, W_star = (w.dense() for w in pair)
    dW = torch.randn_like(W)
    s = optimal_scale(W, W_star, dW)
    best = captured_energy(W, W_star, W + s * dW)
    assert all(captured_energy(W, W_star, W + (s + step) * dW) < best for step in (-0.01, 0.01))
    assert optimal_scale(W, W + 0.3 * dW, dW) == pytest.approx(0.3, rel=1e-5)


def test_what_is_no_map_of_the_weight_is_refused(pair):
    with pytest.raises(ValueError, match="not a map of the weight"):
        project(METHODS["houlsby"](), *pair)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A base without a head, and a classifier fully fine-tuned from it."""
    folder = tmp_path_factory.mktemp("fit")
    torch.manual_seed(0)
    model = bert()
    model.bert.save_pretrained(folder / "base")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
        model.bert.encoder.layer[1].output.dense.load_state_dict(
            bert_of(folder).encoder.layer[1].output.dense.state_dict()
        )
    model.save_pretrained(folder / "tuned")
    return folder


def bert_of(folder):
    return type(bert().bert).from_pretrained(folder / "base")


def fitted(folder, *words, out="out"):
    code, printed, err = subspace("fit", folder / "base", folder / "tuned", "--output", folder / out, *words, "--json")
    assert code == 0, err
    return json.loads(printed)


def test_the_command_agrees_with_matrices_in_memory(checkpoints):
    report = fitted(checkpoints, "--methods", "lora,ssl,bitfit,houlsby", "--rank", "2")
    found = {family["name"]: family for family in report["families"]}
    assert set(found) == {"lora", "ssl", "bitfit"}
    assert "houlsby" in report["refused"]
    assert report["unchanged"] == ["bert.encoder.layer.1.output.dense"]
    before, after = (
        load_file(checkpoints / "base/model.safetensors"),
        load_file(checkpoints / "tuned/model.safetensors"),
    )
    whole = kept = 0.0
    for name, layer in found["lora"]["layers"].items():
        D = (after[f"{name}.weight"] - before[f"{name.removeprefix('bert.')}.weight"]).double()
        S = torch.linalg.svdvals(D).square()
        assert abs(layer["captured_energy"] - S[:2].sum() / S.sum()) < 1e-5
        whole, kept = whole + S.sum(), kept + S[:2].sum()
    assert len(found["lora"]["layers"]) == 11
    assert abs(found["lora"]["captured_energy"] - kept / whole) < 1e-5
    assert found["lora"]["parameters"] == sum(f["parameters"] for f in found["lora"]["layers"].values())
    total = sum(t.numel() for t in before.values())
    assert found["lora"]["permille"] == pytest.approx(1000 * found["lora"]["parameters"] / total)
    assert any("LayerNorm" in name for name in found["bitfit"]["layers"])


def test_a_fit_goes_on_where_it_stopped(checkpoints, monkeypatch):
    first = fitted(checkpoints, "--methods", "ssl", out="twice")
    lines = (checkpoints / "twice/layers.jsonl").read_text().splitlines()
    (checkpoints / "twice/layers.jsonl").write_text("\n".join(lines[:5]) + '\n{"key": "cut of')
    seen = []
    monkeypatch.setattr("subspace_tuning.theory.layer_fit.project", lambda *a, **k: seen.append(1) or project(*a, **k))
    again = fitted(checkpoints, "--methods", "ssl", out="twice")
    assert again["families"] == first["families"]
    assert 0 < len(seen) < 8


def test_how_long_it_takes_is_told_of_one_layer_of_each_size(checkpoints, tmp_path, monkeypatch):
    base, tuned = Checkpoint(checkpoints / "base"), Checkpoint(checkpoints / "tuned")
    methods, told, done = choose(["ssl", "lora"], 2)[0], [], []
    monkeypatch.setattr("subspace_tuning.theory.layer_fit.project", lambda *a, **k: done.append(1) or project(*a, **k))
    work = Fit(base, tuned, tmp_path)
    report = work.run(methods, foretell=lambda seconds: told.append((seconds, len(done))))
    ((left, begun),) = told
    sizes = {place.size for place in report.places.places if place.size[0]}
    assert begun == 2 * len(sizes) < len(done) == sum(len(family.fitted) for family in report.families)
    assert left.keys() == {"ssl", "lora"}
    assert all(report.seconds[family.method.describe()] > 0 for family in report.families)
    again = Fit(base, tuned, tmp_path).run(methods, foretell=lambda seconds: told.append(seconds))
    assert told[-1] == {}
    assert again.seconds == {}
    assert again.families == report.families


def test_damaged_lines_are_computed_anew_and_said(checkpoints):
    first = fitted(checkpoints, "--methods", "ssl", out="damaged")
    path = checkpoints / "damaged/layers.jsonl"
    lines = path.read_bytes().splitlines()
    odd = [
        bytes(40),
        b"\xff\xfe",
        b"[]",
        b"{",
        b'{"whole": 1}',
        b'{"key": "a", "whole": "x"}',
        b'{"key": "a", "new": 1}',
    ]
    path.write_bytes(b"\n".join([*lines[:2], *odd, *lines[4:]]) + b"\n")
    words = ("--output", checkpoints / "damaged", "--methods", "ssl")
    _, _, err = subspace("fit", checkpoints / "base", checkpoints / "tuned", *words)
    assert f"{len(odd)} damaged lines" in err
    assert sorted(path.read_bytes().splitlines()) == sorted(lines)
    assert fitted(checkpoints, "--methods", "ssl", out="damaged")["families"] == first["families"]


@pytest.mark.parametrize(
    "words", [["ssb"], ["lora"], ["lora", "--energy", "0.6"], ["dora"], ["bitfit"], ["pafi"], ["sam_parser"]]
)
def test_a_saved_fit_is_an_adapter_that_peft_loads(checkpoints, tmp_path, words):
    name, *more = words
    report = fitted(checkpoints, "--save", name, tmp_path / "adapter", "--rank", "2", *more, out="_".join(words))
    (family,) = report["families"]
    model = AutoModelForSequenceClassification.from_pretrained(checkpoints / "base")
    model = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    before, after = (
        load_file(checkpoints / "base/model.safetensors"),
        load_file(checkpoints / "tuned/model.safetensors"),
    )
    assert torch.equal(model.classifier.weight, after["classifier.weight"])
    for layer, fit in family["layers"].items():
        if "LayerNorm" in layer:
            continue
        got, old = model.state_dict()[f"{layer}.weight"], before[f"{layer.removeprefix('bert.')}.weight"]
        if name == "bitfit":
            assert torch.equal(got, old)
            assert torch.equal(model.state_dict()[f"{layer}.bias"], after[f"{layer}.bias"])
        else:
            assert captured_energy(old, after[f"{layer}.weight"], got) == pytest.approx(
                fit["captured_energy"], abs=1e-4
            )
        if "--energy" in more:
            assert fit["captured_energy"] >= 0.6
    if "--energy" in more:
        assert len({fit["parameters"] for fit in family["layers"].values()}) > 1


def test_tied_weights_are_told(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    gpt2().save_pretrained(tmp_path / "tuned")
    report = fitted(tmp_path, "--methods", "ssl", "--layers", "lm_head|c_fc")
    assert report["tied"] == {"lm_head": "transformer.wte"}
    assert len(report["families"][0]["layers"]) == 2


def test_shards_dtypes_and_missing_weights(checkpoints, tmp_path):
    """Two shards with an index, one in bfloat16, one in double; a layer left out."""
    tensors = load_file(checkpoints / "tuned/model.safetensors")
    lost = "bert.encoder.layer.0.intermediate.dense.weight"
    keys = sorted(set(tensors) - {lost})
    shards = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for (shard, held), dtype in zip(shards.items(), (torch.bfloat16, torch.float64), strict=True):
        save_file({k: tensors[k].to(dtype) for k in held}, tmp_path / shard)
    index = {"weight_map": {k: shard for shard, held in shards.items() for k in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_bytes((checkpoints / "tuned/config.json").read_bytes())
    code, out, _ = subspace(
        "fit", checkpoints / "base", tmp_path, "--methods", "ssb", "--output", tmp_path / "out", "--json"
    )
    assert code == 0
    report = json.loads(out)
    assert list(report["missing"]) == [lost.removesuffix(".weight")]
    assert len(report["families"][0]["layers"]) >= 10


@pytest.mark.parametrize("make", [gpt2, vit])
def test_layers_of_every_kind_and_checkpoints_with_other_names(make, tmp_path):
    """Conv1D; convolutions; names that transformers changes on saving; a composition."""
    model = make()
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    model.save_pretrained(tmp_path / "tuned")
    report = fitted(tmp_path, "--save", "ssb|ssl", tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    old = type(model).from_pretrained(tmp_path / "base").state_dict()
    new = loaded.merge_and_unload().state_dict()
    assert len(report["families"][0]["layers"]) >= 8
    assert report["missing"] == {}
    for name, fit in report["families"][0]["layers"].items():
        key = f"{name}.weight"
        got = captured_energy(old[key], model.state_dict()[key], new[key])
        assert got == pytest.approx(fit["captured_energy"], abs=1e-4)


def test_a_bare_file_of_matrices_is_a_checkpoint(tmp_path):
    W = {f"block.{i}.{k}": torch.randn(12, 9) for i in range(2) for k in ("up.weight", "down.weight")}
    save_file(W, tmp_path / "base.safetensors")
    save_file({k: v + 0.1 * torch.randn_like(v) for k, v in W.items()}, tmp_path / "tuned.safetensors")
    words = ["--methods", "ssb", "--layers", "up", "--output", tmp_path / "out", "--json"]
    code, out, _ = subspace("fit", tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", *words)
    assert code == 0
    assert list(json.loads(out)["families"][0]["layers"]) == ["block.0.up", "block.1.up"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "lorra"], "did you mean 'lora'"),
        (["--methods", "houlsby"], "not a map of the weight"),
        (["--layers", "nothing-like-it"], "share no layer"),
        (["--layers", "("], "regular expression"),
        (["--energy", "2"], r"\(0, 1\]"),
    ],
)
def test_bad_input_ends_in_one_sentence(checkpoints, words, said, tmp_path):
    code, _, err = subspace("fit", checkpoints / "base", checkpoints / "tuned", "--output", tmp_path, *words)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert __import__("re").search(said, err)


def test_an_adapter_is_no_full_fine_tune(checkpoints, tmp_path):
    fitted(checkpoints, "--save", "ssl", tmp_path / "adapter", out="to-adapter")
    code, _, err = subspace("fit", checkpoints / "base", tmp_path / "adapter", "--output", tmp_path / "out")
    assert code == 2
    assert "holds an adapter" in err


def test_a_layer_without_a_change_counts_as_reached():
    assert LayerFit().captured_energy == 1.0
