"""`accelerate launch` starts two processes that come to what one comes to; what its FSDP2 says is what is tried."""

import json
import os
import socket
from multiprocessing import get_context

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from test_several_processes import CHECKPOINTED, FSDP2, OFFLOADED

from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import data, model, recipe

LAUNCH = ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
SHARDED = {"distributed_type": "FSDP", "compute_environment": "LOCAL_MACHINE", "num_processes": 2, "fsdp_config": {}}
SHARDED |= {"mixed_precision": "no", "machine_rank": 0, "num_machines": 1, "use_cpu": False}
WORDS = {"fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_reshard_after_forward": True}


def launched(folder, *words):
    """The launcher in a process of its own, which starts those of the run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    args = launch_command_parser().parse_args(["--multi_gpu", *LAUNCH, "--main_process_port", port, *words])

    def work():
        os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        os.chdir(folder)
        launch_command(args)

    process = get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def test_two_launched_processes_come_to_what_one_comes_to(tmp_path):
    model(tmp_path / "model", num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data(tmp_path / "data")
    usual = {"log_every": 1, "epochs": 1, "group_by_length": False, "method": {"name": "lora", "r": 2}}
    values = recipe(tmp_path, **usual, batch_size=10)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**values, "output": str(tmp_path / "two")}))
    assert launched(tmp_path, "-m", "subspace_tuning", "train", "recipe.yaml") == 0
    alone = run(make({**values, "output": str(tmp_path / "one")}))
    told = json.loads((tmp_path / "two/result.json").read_text())
    assert told["score"] == pytest.approx(alone.score, abs=1e-4)
    notes = [[json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("two", "one")]
    assert [x["step"] for x in notes[0]] == [x["step"] for x in notes[1]]
    assert [x.get("loss", 0) for x in notes[0]] == pytest.approx([x.get("loss", 0) for x in notes[1]], abs=1e-4)
    got, want = (load_file(next((tmp_path / n / "adapter").glob("*.safetensors"))) for n in ("two", "one"))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "environment"),
    [({}, FSDP2), ({"fsdp_activation_checkpointing": True}, CHECKPOINTED), ({"fsdp_offload_params": True}, OFFLOADED)],
)
def test_a_config_of_accelerate_says_what_is_tried(tmp_path, words, environment):
    """tests/run/test_several_processes.py trains under these environments."""
    path = tmp_path / "fsdp2.yaml"
    path.write_text(yaml.safe_dump({**SHARDED, "fsdp_config": WORDS | words}))
    args = launch_command_parser().parse_args(["--config_file", str(path), "-m", "subspace_tuning", "train", "x.yaml"])
    args, _, _ = _validate_launch_command(args)
    said = prepare_multi_gpu_env(args)
    assert {key: said.get(key) for key in environment} == environment
