"""The bridge to PEFT: one new type, a supported range of versions, a folder that explains itself."""

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


def test_an_import_beside_another_peft_gets_that_sentence():
    script = "import peft; peft.__version__ = '0.30.0'; import subspace_tuning"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "ImportError: subspace-tuning plugs into PEFT >= 0.21.0, < 0.22.0, but PEFT 0.30.0" in done.stderr


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


def test_a_folder_opened_without_the_import_explains_itself(tmp_path):
    model = bert()
    model.save_pretrained(tmp_path / "base")
    get_peft_model(model, SubspaceConfig(method="ssb")).save_pretrained(tmp_path / "adapter")
    opening = f"""
from peft import PeftModel
from transformers import BertForSequenceClassification
base = BertForSequenceClassification.from_pretrained({str(tmp_path / "base")!r})
PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r})
"""
    bare = subprocess.run([sys.executable, "-c", opening], capture_output=True, text=True, timeout=300)
    assert bare.returncode == 1
    assert "KeyError: 'SUBSPACE'" in bare.stderr
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "pip install subspace-tuning" in card
    assert "import subspace_tuning" in card
    assert "KeyError: 'SUBSPACE'" in card
    assert "pip install subspace-tuning" in (tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    told = subprocess.run(
        [sys.executable, "-c", "import subspace_tuning\n" + opening], capture_output=True, text=True, timeout=300
    )
    assert told.returncode == 0, told.stderr[-2000:]


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


def test_a_program_that_never_imports_us_is_started_through_us(tmp_path):
    (tmp_path / "other_program.py").write_text(
        "import sys\nfrom peft.utils.peft_types import PeftType\nprint(PeftType('SUBSPACE').value, sys.argv[1:])\n"
    )
    start = "import subspace_tuning, runpy; runpy.run_module('other_program', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", start, "--model", "x"], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.stdout.strip() == "SUBSPACE ['--model', 'x']", done.stderr
