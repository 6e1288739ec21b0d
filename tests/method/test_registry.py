"""Methods are found by name, by decorator, by entry point and by path; a checkpoint never imports code."""

import json
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass

import pytest
import torch
from peft import PeftModel, get_peft_model

from cases import CASES, each
from models import batch, bert
from subspace_tuning import METHODS, SSB, LoRA, Method, SubspaceConfig, build, register
from subspace_tuning.method import registry
from subspace_tuning.method.registry import UnknownMethod, from_data, lookup, to_data

OUTSIDE = '''
from dataclasses import dataclass
from pathlib import Path

from subspace_tuning.algebra import Diag
from subspace_tuning.method import Method, ones
from subspace_tuning.method.registry import register

Path(__file__).with_name("imported").touch()


{decorator}
@dataclass(frozen=True)
class Twice(Method):
    """phi(W) = W D D."""

    category = "reconstruction"
    formula = "m"
    paper = "none"
    factor: int = 2

    def parameters(self, n, m):
        return {{"d": ones(m)}}

    def phi(self, W, p):
        return W @ Diag(p.d) @ Diag(p.d)
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A package beside ours: its name, and whether it has been imported."""
    before = dict(METHODS)

    def make(name, decorator=""):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "mine.py").write_text(OUTSIDE.format(decorator=decorator))
        return lambda: (folder / "imported").exists()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield make
    METHODS.clear()
    METHODS.update(before)
    for module in [m for m in sys.modules if m.split(".")[0].startswith("outside_")]:
        del sys.modules[module]


def forget(name):
    """As in a fresh process: the module is not imported, its methods are unknown."""
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]
    for known in [k for k, cls in METHODS.items() if cls.__module__.split(".")[0] == name]:
        del METHODS[known]


# --- what every registered method declares ---------------------------------------------------------------------------


@each(name=sorted(METHODS))
def test_a_method_declares_itself(name):
    cls = METHODS[name]
    assert cls.name == name
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert cls.equation().startswith("phi(") or cls.sits_on in ("output", "block")
    assert cls.category in ("reconstruction", "extension", "combination")
    assert cls.sits_on in ("weight", "bias", "output", "block", "tokens")
    assert cls.places
    assert cls.formula
    assert cls.paper
    assert cls.learning_rate > 0
    assert hash(cls()) == hash(cls())
    assert build(name) == cls() == from_data(name)


@each(case=CASES)
def test_data_reads_back_as_the_same_method(case):
    assert from_data(json.loads(json.dumps(to_data(case.method)))) == case.method


# --- names -----------------------------------------------------------------------------------------------------------


def test_unknown_names_suggest_the_nearest_and_list_all():
    for name, near in (("sbb", "ssb"), ("triloar", "trilora"), ("bit_fit", "bitfit")):
        with pytest.raises(UnknownMethod, match=f"did you mean '{near}'") as caught:
            build(name)
        assert all(known in str(caught.value) for known in METHODS)
    with pytest.raises(UnknownMethod, match="unknown method 'qqqq': known methods are"):
        build("qqqq")


def test_unknown_fields_suggest_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'alpha'"):
        build("lora", {"alhpa": 1})
    with pytest.raises(ValueError, match="did you mean 'dropout'"):
        build("ssb|lora", {"droput": 0.1})


def test_a_composition_hands_each_field_where_it_belongs():
    assert build("ssb|lora", {"r": 3}) == SSB() | LoRA(r=3)
    assert from_data(["ssb", {"name": "lora", "r": 3}]) == SSB() | LoRA(r=3)
    assert (SSB() | LoRA()) | SSB() == SSB() | (LoRA() | SSB())


# --- methods that live elsewhere -------------------------------------------------------------------------------------


def test_the_decorator_registers_and_refuses_a_taken_name(outside):
    @register("outside_local")
    @dataclass(frozen=True)
    class Local(SSB):
        """phi(W) = D1 W D2."""

    assert isinstance(build("outside_local"), Local)
    assert register("outside_local")(Local) is Local
    with pytest.raises(ValueError, match=r"'ssb' is taken by subspace_tuning\.methods\.reconstruct\.ssb:SSB"):
        register("ssb")(Local)
    assert METHODS["ssb"] is SSB


def test_a_path_names_a_method(outside):
    imported = outside("outside_path")
    config = SubspaceConfig(method=build("outside_path.mine:Twice", {"factor": 3}))
    assert imported()
    assert SubspaceConfig(method="outside_path.mine:Twice", factor=3).method == config.method
    assert config.method.factor == 3
    model, data = get_peft_model(bert(), config), batch()
    model(**data).loss.backward()
    for path, why in (("outside_path.mine:Nothing", "has no attribute"), ("outside_path.nowhere:Twice", "No module")):
        with pytest.raises(UnknownMethod, match=f"cannot load the method .*{why}"):
            build(path)
    with pytest.raises(UnknownMethod, match=r"is not a method: expected a subclass of subspace_tuning\.Method"):
        build("json:JSONDecoder")


def test_an_entry_point_names_a_method(outside, monkeypatch):
    imported = outside("outside_entry")

    class Entry:
        name, value = "twice", "outside_entry.mine:Twice"

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry] if group == registry.GROUP else [])
    assert not imported()
    method = build("twice", {"factor": 5})
    assert (type(method).__name__, method.factor) == ("Twice", 5)
    assert imported()
    assert lookup("twice") is type(method)


@each(decorator=["", '@register("outside_named")'])
def test_a_checkpoint_says_which_import_is_missing_and_imports_nothing(decorator, outside, tmp_path):
    imported = outside("outside_saved", decorator)
    base = bert()
    weights = {k: v.clone() for k, v in base.state_dict().items()}
    config = SubspaceConfig(method=build("outside_saved.mine:Twice"), init_weights=False, target_modules=["query"])
    model, data = get_peft_model(base, config).eval(), batch()
    want = model(**data).logits
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "outside_saved" / "imported").unlink()
    forget("outside_saved")

    fresh = bert()
    fresh.load_state_dict(weights)
    with pytest.raises(UnknownMethod, match=r"run `import outside_saved\.mine` first"):
        PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert not imported()
    assert "outside_saved" not in sys.modules

    import outside_saved.mine  # noqa: F401

    again = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert torch.equal(again(**data).logits, want)


READ = {  # what a config may hold or lack
    "as_saved": {"method": {"name": "outside_canary.mine:Twice", "import": "outside_canary.mine"}},
    "registered_name": {"method": {"name": "outside_named", "import": "outside_canary.mine"}},
    "bare": {"method": "outside_canary.mine:Twice"},
    "composition": {"method": "ssb|outside_canary.mine:Twice"},
    "list": {"method": ["ssb", {"name": "outside_canary.mine:Twice"}]},
    "with_a_field": {"method": "outside_canary.mine:Twice", "factor": 3},
    "pattern": {"method": "ssb", "method_pattern": {"query": "outside_canary.mine:Twice"}},
    "package": {"method": "outside_canary:mine"},
}


@each(lacks=[(), ("peft_version",), ("peft_version", "peft_type")])
@each(name=sorted(READ))
def test_reading_a_config_imports_nothing_whatever_it_holds_or_lacks(name, lacks, outside, tmp_path):
    imported = outside("outside_canary", '@register("outside_named")')
    SubspaceConfig(method="ssb").save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    data = {**json.loads(path.read_text()), **READ[name]}
    path.write_text(json.dumps({k: v for k, v in data.items() if k not in lacks}))
    for read in (SubspaceConfig.from_pretrained, lambda folder: SubspaceConfig(**json.loads(path.read_text()))):
        with pytest.raises(ValueError, match=r"`import outside_canary(\.mine)?` first|known methods"):
            read(tmp_path)
    assert not imported()
    assert "outside_canary" not in sys.modules


def test_a_module_that_loads_its_parts_when_asked_is_not_asked(outside):
    """As transformers does: its attributes are modules that are imported by looking at them."""
    imported = outside("outside_lazy")
    lazy = type(sys)("outside_shop")
    lazy.__getattr__ = lambda name: getattr(__import__("outside_lazy.mine", fromlist=["mine"]), name)
    sys.modules["outside_shop"] = lazy
    with pytest.raises(UnknownMethod, match="outside_shop holds no method"):
        from_data("outside_shop:Twice")
    assert not imported()
    with pytest.raises(UnknownMethod, match="holds no method"):
        from_data("subspace_tuning.method.method:Method")
    assert type(build("outside_shop:Twice")).__name__ == "Twice"


def test_values_of_another_type_than_a_field_declares_are_refused():
    for values in ({"r": "4"}, {"r": True}, {"alpha": None}, {"alpha": float("nan")}, {"dropout": [0]}, {"init": 3}):
        (name,) = values
        with pytest.raises(ValueError, match=f"lora.*{name}"):
            from_data({"name": "lora", **values})
    with pytest.raises(ValueError, match="2 to 16"):
        from_data(["ssb"] * 17)


def test_an_object_of_an_unregistered_class_saves_and_loads(outside, tmp_path):
    outside("outside_object")
    from outside_object.mine import Twice

    model = get_peft_model(bert(), SubspaceConfig(method=Twice(factor=7) | LoRA(r=2), target_modules=["query"]))
    model.save_pretrained(tmp_path)
    assert SubspaceConfig.from_pretrained(tmp_path).method == Twice(factor=7) | LoRA(r=2)


def test_loading_needs_no_more_than_the_import_it_asks_for(outside, tmp_path):
    """The error's own advice, followed word for word in a process that knows nothing."""
    outside("outside_fresh")
    base = bert()
    base.save_pretrained(tmp_path / "base")
    config = SubspaceConfig(method=build("outside_fresh.mine:Twice"), target_modules=["query"])
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    script = f"""
import sys, re
sys.path.insert(0, {str(tmp_path)!r})
import subspace_tuning
from peft import PeftModel
from transformers import BertForSequenceClassification
base = BertForSequenceClassification.from_pretrained({str(tmp_path / "base")!r})
try:
    PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r})
except ValueError as error:
    advice = re.search("`(.*?)`", str(error)).group(1)
assert not any(m.startswith("outside_fresh") for m in sys.modules)
exec(advice)
PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_fields_are_plain_data():
    """They go to adapter_config.json, recipes and the command line."""
    for cls in METHODS.values():
        for f in fields(cls):
            assert isinstance(getattr(cls(), f.name), int | float | str | bool | tuple | None), (cls, f.name)
            assert issubclass(cls, Method)
