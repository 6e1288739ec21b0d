"""The bridge to PEFT: one new type, a supported range of versions, a folder that explains itself."""

import json
import pickle
import subprocess
import sys

import peft
import pytest
from peft import PeftConfig, get_peft_model
from peft.utils.peft_types import PeftType

from cases import each
from models import bert
from subspace_tuning import SubspaceConfig, SubspaceModel
from subspace_tuning.tuner.bridge import SUBSPACE, check_version, connect
from subspace_tuning.tuner.taken import guarded


@each(version=["0.21.0", "0.21.2", "0.21.9", "0.21.3.dev0"])
def test_the_supported_range_is_accepted(version):
    check_version(version)


@each(version=["0.20.9", "0.22.0", "0.22.0.dev0", "1.0.0"])
def test_other_versions_get_a_sentence_that_says_what_to_install(version):
    with pytest.raises(ImportError, match=rf"PEFT {version} is installed: run `pip install 'peft>=0.21.0,<0.22.0'`"):
        check_version(version)


def test_the_type_is_a_member_like_any_other():
    assert PeftType("SUBSPACE") is PeftType.SUBSPACE is PeftType["SUBSPACE"] is SUBSPACE
    assert (SUBSPACE.value, SUBSPACE.name, SUBSPACE) == ("SUBSPACE", "SUBSPACE", "SUBSPACE")
    assert SUBSPACE in list(PeftType)
    assert isinstance(SUBSPACE, PeftType)
    assert pickle.loads(pickle.dumps(SUBSPACE)) is SUBSPACE
    assert len({t.value for t in PeftType}) == len(PeftType)


def test_connecting_twice_changes_nothing():
    load = peft.PeftModel.load_adapter
    connect(SubspaceConfig, SubspaceModel, guarded)
    assert peft.PeftModel.load_adapter is load
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[SUBSPACE] is SubspaceConfig
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[SUBSPACE] is SubspaceModel
    assert peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING[SUBSPACE] == SubspaceModel.prefix


UNTOLD = """
import json, runpy, sys
import peft
from transformers import BertForSequenceClassification

def opened():
    return peft.PeftModel.from_pretrained(BertForSequenceClassification.from_pretrained("base"), "adapter")

def error_of(what):
    try:
        what()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

said = {"bare": error_of(opened)}
ours, peft.__version__ = peft.__version__, "0.30.0"
said["another"] = error_of(lambda: __import__("subspace_tuning"))
peft.__version__ = ours
import subspace_tuning
said["told"] = error_of(opened)
sys.argv = ["-", "--model", "x"]
said["program"] = runpy.run_module("other_program", run_name="__main__", alter_sys=True)["said"]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model, an adapter on it, and a program that never imports us."""
    path, model = tmp_path_factory.mktemp("bridge"), bert()
    model.save_pretrained(path / "base")
    get_peft_model(model, SubspaceConfig(method="ssb")).save_pretrained(path / "adapter")
    (path / "other_program.py").write_text(
        "import sys\nfrom peft.utils.peft_types import PeftType\nsaid = [PeftType('SUBSPACE').value, *sys.argv[1:]]\n"
    )
    return path


@pytest.fixture(scope="module")
def untold(folder):
    """What one fresh interpreter says: without us, of us beside another PEFT, then with us."""
    how = {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", UNTOLD], cwd=folder, **how)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_an_import_beside_another_peft_gets_that_sentence(untold):
    assert untold["another"].startswith(
        "ImportError: subspace-tuning plugs into PEFT >= 0.21.0, < 0.22.0, but PEFT 0.30.0"
    )


def test_a_folder_opened_without_the_import_explains_itself(folder, untold):
    assert untold["bare"] == "KeyError: 'SUBSPACE'"
    card = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "pip install subspace-tuning" in card
    assert "import subspace_tuning" in card
    assert "KeyError: 'SUBSPACE'" in card
    assert "pip install subspace-tuning" in (folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    assert untold["told"] is None


def test_saving_again_keeps_one_card(tmp_path):
    model = get_peft_model(bert(), SubspaceConfig(method="ssb"))
    for _ in range(3):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8").count("## Loading this adapter") == 1


def test_a_config_opens_by_its_type(tmp_path):
    SubspaceConfig(method="lora", r=3).save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert type(config) is SubspaceConfig
    assert config.method.r == 3


def test_a_program_that_never_imports_us_is_started_through_us(untold):
    assert untold["program"] == ["SUBSPACE", "--model", "x"]
