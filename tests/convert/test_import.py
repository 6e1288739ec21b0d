"""Adapters that PEFT trained compute the same when imported."""

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import models
from subspace_tuning import SubspaceConfig
from subspace_tuning.cli import app
from subspace_tuning.convert import import_peft, read_peft
from subspace_tuning.errors import BadInput
from subspace_tuning.testing.law import relative

BERT = ["query", "value", "output.dense"]
LORA = {"r": 3, "lora_alpha": 5, "target_modules": BERT, "task_type": "SEQ_CLS"}
SEQ = {"target_modules": BERT, "task_type": "SEQ_CLS"}


def lora(**values):
    return peft.LoraConfig(**{**LORA, **values})


def adalora(**values):
    shape = {"init_r": 4, "target_r": 2, "lora_alpha": 5, "total_step": 6, "tinit": 1, "tfinal": 1, "deltaT": 1}
    return peft.AdaLoraConfig(**{**shape, "target_modules": BERT, "task_type": "SEQ_CLS", **values})


def vera(targets, **values):
    return peft.VeraConfig(r=5, target_modules=targets, **values)


def ia3(targets, inputs, **values):
    return peft.IA3Config(target_modules=targets, feedforward_modules=inputs, **values)


ADAPTERS = {
    "lora": (models.bert, lora()),
    "lora_head": (models.bert, lora(modules_to_save=["pooler"])),
    "rslora": (models.bert, lora(use_rslora=True)),
    "rslora_patterns": (
        models.bert,
        lora(use_rslora=True, rank_pattern={"value": 2, r"layer\.1\..*query": 5}, alpha_pattern={"query": 7}),
    ),
    "lora_pattern": (models.bert, lora(target_modules=r".*layer\.[01]\..*(query|key)")),
    "lora_layers": (models.bert, lora(layers_to_transform=[1], exclude_modules=["value"])),
    "lora_embedding": (models.bert, lora(target_modules=["word_embeddings", "query"])),
    "lora_llama_embedding": (models.llama, lora(target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")),
    "lora_llama_head": (models.llama, lora(target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM")),
    "lora_convolution": (models.vit, lora(target_modules=["projection", "fc1"], task_type=None)),
    "lora_conv1d": (models.gpt2, lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")),
    "lora_orthogonal": (models.bert, lora(init_lora_weights="orthogonal", r=4)),
    "pissa": (models.bert, lora(init_lora_weights="pissa")),
    "olora": (models.bert, lora(init_lora_weights="olora")),
    "dora": (models.bert, lora(use_dora=True, rank_pattern={"value": 2})),
    "kasa": (models.bert, lora(kasa_config=peft.KasaConfig(beta=1e-3), rank_pattern={"value": 2})),
    "dora_embedding": (models.bert, lora(use_dora=True, target_modules=["word_embeddings", "query"])),
    "dora_convolution": (models.vit, lora(use_dora=True, target_modules=["projection", "fc1"], task_type=None)),
    "dora_conv1d": (
        models.gpt2,
        lora(use_dora=True, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"),
    ),
    "adalora": (models.bert, adalora()),
    "adalora_convolution": (models.vit, adalora(target_modules=["projection", "fc1"], task_type=None)),
    "vera": (models.bert, vera(["query", "value"])),
    "vera_of_many_shapes": (models.bert, vera(["query", "intermediate.dense", "output.dense"], projection_prng_key=7)),
    "vera_conv1d": (models.gpt2, vera(["c_attn"], fan_in_fan_out=True)),
    "ia3_bias": (models.bert, ia3(["key", "value", "intermediate.dense"], ["intermediate.dense"])),
    "ia3_ends": (models.bert, ia3(["key", "value", "output.dense"], ["output.dense"], task_type="SEQ_CLS")),
    "ia3_pattern": (models.llama, ia3(r".*\.(k_proj|v_proj|down_proj)", r".*\.down_proj")),
    "ia3_conv1d": (models.gpt2, ia3(["c_attn", "mlp.c_proj"], ["mlp.c_proj"], fan_in_fan_out=True)),
    "loha": (models.bert, peft.LoHaConfig(r=3, alpha=5, rank_pattern={"value": 2}, alpha_pattern={"query": 7}, **SEQ)),
    "loha_convolution": (models.vit, peft.LoHaConfig(r=3, alpha=5, target_modules=["projection", "fc1"])),
    "lokr": (models.bert, peft.LoKrConfig(r=1, alpha=5, rank_pattern={"value": 9}, **SEQ)),
    "hira": (models.bert, peft.HiraConfig(r=3, **SEQ)),
    "hira_embedding": (models.bert, peft.HiraConfig(r=3, target_modules=["word_embeddings", "query"])),
    "hira_conv1d": (models.gpt2, peft.HiraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True)),
    "oft": (models.bert, peft.OFTConfig(r=0, oft_block_size=8, use_cayley_neumann=False, **SEQ)),
    "c3a": (models.bert, peft.C3AConfig(block_size=8, block_size_pattern={"value": 4}, init_weights=True, **SEQ)),
    "miss": (models.bert, peft.MissConfig(r=4, **SEQ)),
    "gralora": (models.bert, peft.GraloraConfig(r=4, alpha=5, **SEQ)),
    "fourierft": (models.bert, peft.FourierFTConfig(n_frequency=50, n_frequency_pattern={"value": 30}, **SEQ)),
    "waveft": (models.bert, peft.WaveFTConfig(n_frequency=50, **SEQ)),
    "oft_by_terms": (models.bert, peft.OFTConfig(r=0, oft_block_size=8, num_cayley_neumann_terms=6, **SEQ)),
    "boft": (models.bert, peft.BOFTConfig(boft_block_size=8, **SEQ)),
    "hra": (models.bert, peft.HRAConfig(r=4, **SEQ)),
    "road": (models.bert, peft.RoadConfig(variant="road_4", group_size=8, **SEQ)),
    "delora": (models.bert, peft.DeloraConfig(r=3, delora_lambda=4, rank_pattern={"value": 2}, **SEQ)),
}
BANK, FILLED = {"r": 3, "num_vectors": 6, "vector_length": 2}, {"r": 2, "theta_d_length": 48}
AS_LORA = {
    "vblora": (models.bert, peft.VBLoRAConfig(**BANK, **SEQ)),
    "vblora_topk": (models.bert, peft.VBLoRAConfig(**BANK, save_only_topk_weights=True, **SEQ)),
    "vblora_conv1d": (models.gpt2, peft.VBLoRAConfig(**BANK, target_modules=["c_attn"], fan_in_fan_out=True)),
    "unilora": (models.bert, peft.UniLoraConfig(**FILLED, save_indices=True, **SEQ)),
    "tinylora": (models.bert, peft.TinyLoraConfig(r=3, u=5, weight_tying=1.0, **SEQ)),
    "tinylora_groups": (models.bert, peft.TinyLoraConfig(r=3, u=5, weight_tying=0.5, **SEQ)),
    "tinylora_apart": (models.bert, peft.TinyLoraConfig(r=3, u=5, **SEQ)),
}
ADAPTERS |= AS_LORA


def inputs(make=models.bert):
    """A batch without labels: PEFT's AdaLoRA wants none once it is loaded."""
    return {key: value for key, value in models.batch(make).items() if key != "labels"}


class Made:
    """An adapter trained by PEFT on a tiny model: its folder, the base model and what the two compute."""

    def __init__(self, make, config, folder: Path):
        self.batch = inputs(make)
        self.base = make()
        model = get_peft_model(copy.deepcopy(self.base), copy.deepcopy(config)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
        model.save_pretrained(folder, save_embedding_layers=False)
        self.folder = folder
        self.logits = self.outputs(PeftModel.from_pretrained(copy.deepcopy(self.base), folder))
        assert relative(self.outputs(model), self.logits) < 1e-5  # PEFT agrees with itself

    @torch.no_grad()
    def outputs(self, model: nn.Module) -> torch.Tensor:
        return model.eval()(**self.batch).logits

    def imported_to(self, out: Path):
        """The config of the import, with the base model at hand."""
        self.base.save_pretrained(self.folder.parent / "base")
        return import_peft(self.folder, out, base=str(self.folder.parent / "base")).config

    def imported(self, folder: Path) -> nn.Module:
        return PeftModel.from_pretrained(copy.deepcopy(self.base), folder)


@pytest.fixture
def made(tmp_path):
    return lambda name: Made(*ADAPTERS[name], tmp_path / "theirs")


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_imported_adapter_computes_what_pefts_does(made, tmp_path, name):
    theirs = made(name)
    config = theirs.imported_to(tmp_path / "ours")
    ours = theirs.imported(tmp_path / "ours")
    assert relative(theirs.outputs(ours), theirs.outputs(theirs.base)) > 1e-3
    assert relative(theirs.outputs(ours), theirs.logits) < 1e-5
    assert ours.peft_config["default"].method == config.method
    assert SubspaceConfig.from_peft(theirs.folder).to_dict() == {**config.to_dict(), "packed": False}
    ours.merge_adapter(safe_merge=True)
    assert relative(theirs.outputs(ours), theirs.logits) < 1e-5


@pytest.mark.parametrize("name", sorted({*ADAPTERS} - {*AS_LORA, "boft"}))  # PEFT holds each of BOFT's angles twice
def test_as_many_numbers_are_trained(made, tmp_path, name):
    theirs = made(name)
    count = {
        config.peft_type: get_peft_model(copy.deepcopy(theirs.base), config).get_nb_trainable_parameters()[0]
        for config in (ADAPTERS[name][1], SubspaceConfig.from_peft(theirs.folder))
    }
    assert len(set(count.values())) == 1, count


def test_a_config_alone_reads_too():
    config = SubspaceConfig.from_peft(lora(use_rslora=True, lora_dropout=0.1))
    assert config.method.describe() == "lora(r=3, alpha=5, rank_stabilized=True, dropout=0.1, init='kaiming')"
    assert config.target_modules == set(BERT)


def test_a_pissa_adapter_converted_to_lora(tmp_path):
    """What PEFT writes when asked to express trained minus initial factors as a LoRA of twice the rank."""
    base, batch = models.bert(), models.batch()
    model = get_peft_model(copy.deepcopy(base), lora(init_lora_weights="pissa", task_type=None)).eval()
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start", save_embedding_layers=False)
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        want = model(**batch).logits
        start = str(tmp_path / "start")
        model.save_pretrained(
            tmp_path / "theirs", path_initial_model_for_weight_conversion=start, save_embedding_layers=False
        )
        config, _ = import_peft(tmp_path / "theirs", tmp_path / "ours")
        ours = PeftModel.from_pretrained(base, tmp_path / "ours").eval()
        assert relative(ours(**batch).logits, want) < 1e-5
    assert (config.method.r, config.method.init) == (6, "kaiming")


def test_an_adalora_adapter_that_gave_up_ranks(tmp_path):
    """Trained to the end of its schedule, so that PEFT stores fewer rows than it began with."""
    base, batch = models.bert(), models.batch()
    model = get_peft_model(copy.deepcopy(base), adalora())
    steps = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for step in range(6):
        steps.zero_grad()
        model(**batch).loss.backward()
        steps.step()
        model.base_model.update_and_allocate(step)
    ranks = {sum(kept) for kept in model.peft_config["default"].rank_pattern.values()}
    assert len(ranks) > 1  # the budget moved between layers
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    config, _ = import_peft(tmp_path / "theirs", tmp_path / "ours")
    assert (config.method.init_r, config.method.r) == (4, 2)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "theirs").eval()
        ours = PeftModel.from_pretrained(base, tmp_path / "ours").eval()
        x = inputs()
        assert relative(ours(**x).logits, theirs(**x).logits) < 1e-5


REFUSED = {
    "bias": (lora(bias="all"), "bias='all'"),
    "lora_bias": (lora(lora_bias=True), "lora_bias=True"),
    "replication": (lora(layer_replication=[(0, 2), (1, 2)]), "layer_replication"),
    "tokens": (lora(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "parameters": (lora(target_parameters=["weight"]), "target_parameters"),
    "corda": (lora(init_lora_weights="corda", corda_config=CordaConfig()), "init_lora_weights='corda'"),
    "pissa_niter": (lora(init_lora_weights="pissa_niter_4"), "init_lora_weights='pissa_niter_4'"),
    "poly": (peft.PolyConfig(), "POLY"),
    "boft_of_blocks": (peft.BOFTConfig(boft_block_size=0, boft_block_num=4), "number of blocks"),
    "hra_orthogonal": (peft.HRAConfig(apply_GS=True), "apply_GS=True"),
    "oft_of_blocks": (peft.OFTConfig(r=4, oft_block_size=0, use_cayley_neumann=False), "number of blocks"),
    "loha_effective": (peft.LoHaConfig(use_effective_conv2d=True), "use_effective_conv2d"),
    "lokr_factor": (peft.LoKrConfig(decompose_factor=4), "decompose_factor"),
    "ours": (SubspaceConfig(), "ours already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_without_a_counterpart_are_refused_by_name(name):
    config, told = REFUSED[name]
    with pytest.raises(BadInput, match=told):
        SubspaceConfig.from_peft(config)


def test_an_option_of_a_later_peft_is_refused_by_name(made):
    theirs = made("lora")
    path = theirs.folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_next_idea": True}))
    with pytest.raises(BadInput, match="use_next_idea=True"):
        read_peft(theirs.folder)


def test_vera_projections_that_cannot_be_told_are_refused(tmp_path):
    with pytest.raises(BadInput, match="save_projection=True"):
        read_peft(Made(models.bert, vera(["query"], save_projection=False), tmp_path / "left_out").folder)
    theirs = Made(models.bert, vera(["query"]), tmp_path / "theirs")
    path = theirs.folder / "adapter_model.safetensors"
    save_file({k: v + 1 if "vera_A" in k else v for k, v in load_file(path).items()}, path)
    with pytest.raises(BadInput, match="do not follow from its projection_prng_key"):
        read_peft(theirs.folder)
    with pytest.raises(BadInput, match="give the adapter's folder"):
        SubspaceConfig.from_peft(vera(["query"]))


UNTOLD = {
    "unilora": (peft.UniLoraConfig(**FILLED, **SEQ), "save_indices=True"),
    "tinylora": (peft.TinyLoraConfig(r=3, u=5, save_projection=False, **SEQ), "save_projection=True"),
}


@pytest.mark.filterwarnings("ignore:Specified to not load tinylora_P:UserWarning")
@pytest.mark.parametrize("name", UNTOLD)
def test_what_layers_take_out_of_shared_numbers_must_be_in_the_file(name, tmp_path):
    config, told = UNTOLD[name]
    with pytest.raises(BadInput, match=told):
        read_peft(Made(models.bert, config, tmp_path / "theirs").folder)
    with pytest.raises(BadInput, match="give the adapter's folder"):
        SubspaceConfig.from_peft(config)


def test_projections_of_another_seed_tell_no_order(made):
    theirs = made("tinylora_groups")
    path = theirs.folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "projection_seed": 7}))
    with pytest.raises(BadInput, match="do not follow from projection_seed"):
        read_peft(theirs.folder)


def test_a_scaled_convolution_input_is_refused(tmp_path):
    config = ia3(["projection", "k_proj"], ["projection"])
    with pytest.raises(BadInput, match="channels that enter a convolution"):
        import_peft(Made(models.vit, config, tmp_path / "theirs").folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", ["oft", "lokr"])
def test_a_type_that_is_ours_on_some_layers_wants_to_see_them(name, made, tmp_path):
    theirs = made(name)
    path = theirs.folder / "adapter_config.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "base_model_name_or_path": None}))
    with pytest.raises(BadInput, match=r"Linear alone.* --base"):
        import_peft(theirs.folder, tmp_path / "ours")
    on_patches = {
        "oft": peft.OFTConfig(r=0, oft_block_size=8, use_cayley_neumann=False, target_modules=["projection"]),
        "lokr": peft.LoKrConfig(r=1, target_modules=["projection"]),
    }
    other = Made(models.vit, on_patches[name], tmp_path / "conv")
    other.base.save_pretrained(tmp_path / "vit")
    with pytest.raises(BadInput, match=r"Linear alone.*Conv2d|for no weight"):
        import_peft(other.folder, tmp_path / "ours", base=str(tmp_path / "vit"))
    assert not (tmp_path / "ours").exists()


def test_pickles_are_never_opened(made, tmp_path):
    theirs = made("lora")
    (theirs.folder / "adapter_model.safetensors").rename(theirs.folder / "adapter_model.bin")
    with pytest.raises(BadInput, match="never opened"):
        import_peft(theirs.folder, tmp_path / "ours")


def test_damaged_and_incomplete_weights_say_so(made, tmp_path):
    theirs = made("lora")
    path = theirs.folder / "adapter_model.safetensors"
    weights = load_file(path)
    key = next(k for k in weights if "lora_B" in k)
    save_file({k: v for k, v in weights.items() if k != key}, path)
    with pytest.raises(BadInput, match=r"lacks B of base_model"):
        read_peft(theirs.folder)
    save_file({k: v for k, v in weights.items() if "lora" not in k}, path)
    with pytest.raises(BadInput, match="no weights of its method"):
        read_peft(theirs.folder)
    save_file({**weights, key.replace("lora_B", "lora_C"): weights[key].clone()}, path)
    with pytest.raises(BadInput, match="lora_C"):
        read_peft(theirs.folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="damaged"):
        read_peft(theirs.folder)


def subspace(*words):
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "NO_COLOR": "1"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_import_command(made, tmp_path):
    theirs = made("rslora")
    code, out, _ = subspace("import", theirs.folder, tmp_path / "ours")
    assert code == 0
    assert "lora(r=3, alpha=5, rank_stabilized=True" in out
    assert {p.name for p in (tmp_path / "ours").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert "import subspace_tuning" in (tmp_path / "ours" / "README.md").read_text()
    assert relative(theirs.outputs(theirs.imported(tmp_path / "ours")), theirs.logits) < 1e-5
    code, out, _ = subspace("import", theirs.folder, tmp_path / "again", "--json")
    assert json.loads(out)["method"]["name"] == "lora"
    code, _, err = subspace("import", theirs.folder, tmp_path / "ours")
    assert code == 2
    assert "exists already" in err
    code, _, err = subspace("import", tmp_path / "nothing", tmp_path / "third")
    assert code == 2
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "ours", "theirs"]
    code, out, _ = subspace("import", "--help")
    assert code == 0
    assert "subspace import path/to/peft-adapter" in out


@pytest.mark.parametrize("module", ["key", "output.dense"])
def test_scales_that_lie_the_other_way_are_refused(module, tmp_path):
    base = models.bert()
    get_peft_model(base, ia3(["key", "output.dense"], ["output.dense"])).save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "adapter_model.safetensors"
    held = load_file(path)
    name = next(key for key in held if f"{module}.ia3_l" in key)
    save_file(held | {name: held[name].T.contiguous()}, path)
    with pytest.raises(BadInput, match="is it transposed"):
        import_peft(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
