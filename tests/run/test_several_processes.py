"""Two processes on a recipe, sharing out its batches (DDP) or its weights too (FSDP2), come to what one comes to.

accelerate shards models on accelerators only; here it is told that the processes on the CPU are some.
"""

import json
import os
import signal
import socket
from multiprocessing import get_context
from unittest.mock import patch

import pytest
import torch
from accelerate.state import AcceleratorState, DistributedType
from safetensors.torch import load_file
from test_resume import Cut
from torch.distributed.fsdp import CPUOffloadPolicy
from transformers import TrainerCallback

import tiny_sft
from subspace_tuning.errors import BadInput, Interrupted
from subspace_tuning.run.processes import Even
from subspace_tuning.run.recipe import make
from subspace_tuning.run.train import run
from tiny import data, model, recipe

RANKS = 2
ONE = None
DDP: dict = {}
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
CHECKPOINTED = FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}
OFFLOADED = FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}
LORA = {"method": {"name": "lora", "r": 2}}
ACCUMULATED = LORA | {"batch_size": 10, "gradient_accumulation": 3, "save_every": 2}  # 96 rows: at last one batch of 6
# 23 rows to train on and 10 to judge by: in the last batch one has a row less, in that which is judged none of its own
ANSWERS = LORA | {"task": "sft", "labels": None, "model": "lm", "data": "chats", "batch_size": 4, "eval_batch_size": 4}
PREFERENCES = ANSWERS | {"task": "dpo", "data": "pairs", "beta": 1.0}
RUNS = {  # name -> changes of the recipe, and by whom it is trained, from cut to cut
    "accumulated": (ACCUMULATED, [DDP]),
    "the best": ({"method": "ssb", "checkpoint": "best", "evaluate_every": 2}, [FSDP2]),
    "adalora, mpc": ({"method": {"name": "adalora", "r": 2}, "mpc": "o", "batch_size": 20}, [FSDP2]),
    "full": ({"method": "full", "learning_rate": 1e-3}, [OFFLOADED]),
    "from one to two": (ACCUMULATED, [ONE, DDP]),
    "from two to one": (LORA | {"save_every": 2}, [CHECKPOINTED, ONE]),
    "from one to two, sharded": ({"method": {"name": "adalora", "r": 2}, "save_every": 2}, [ONE, FSDP2]),
    "bf16": (LORA | {"bf16": True}, [FSDP2]),
    "answers": (ANSWERS, [DDP]),
    "preferences": (PREFERENCES, [DDP]),
}
LOOSE = {"bf16": 3e-2}
REFUSED = {
    "riemannian": (LORA | {"optimizer": "riemannian"}, FSDP2, "multiplies whole factors"),
    "first version": (LORA, FSDP2 | {"FSDP_VERSION": "1"}, "take fsdp_version: 2"),
    "odd": (LORA | {"batch_size": 15}, DDP, "15 rows cannot be shared out among 2 processes"),
    "unused": (LORA, {"ACCELERATE_USE_FSDP": "true"}, "there is none; leave FSDP out"),
}


class Sharding(AcceleratorState):
    def __init__(self, *args, fsdp_plugin=None, **kwargs):
        super().__init__(*args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and "FSDP_VERSION" in os.environ:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            if fsdp_plugin.cpu_offload:
                fsdp_plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)  # only an accelerator could pin it


class Asked(TrainerCallback):
    """The second process is asked to end in its second step."""

    def __init__(self, rank):
        self.rank = rank

    def on_step_begin(self, args, state, control, **kwargs):
        if self.rank == 1 and state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def made(home, name, **changes):
    usual = {"log_every": 1, "epochs": 1, "group_by_length": False, "output": str(home / name)}
    changes |= {key: str(home / changes[key]) for key in ("model", "data") if key in changes}
    return make(recipe(home, **usual | changes))


def trained(home, name, cut, **changes):
    """A run to its end, or until it is cut."""
    if not cut:
        return run(made(home, name, **changes))
    with pytest.raises(KeyboardInterrupt):
        run(made(home, name, **changes), callbacks=[Cut("on_step_end", 3)])
    return None


def work(rank, port, home):
    """One of the processes, as torchrun starts them."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    told = {}
    with patch("accelerate.accelerator.AcceleratorState", Sharding):
        for name, (changes, among) in RUNS.items():
            with patch.dict(os.environ, next(wrap for wrap in among if wrap is not ONE)):
                AcceleratorState._reset_state()
                done = trained(home, name, cut=among[-1] is ONE, **changes)
                told[name] = done and [done.score, done.trainable, done.resumed_from_step]
        AcceleratorState._reset_state()
        with pytest.raises(Interrupted, match=r"saved as .*checkpoint-2"):
            run(made(home, "asked", **LORA), callbacks=[Asked(rank)])
        for name, (changes, wrap, _) in REFUSED.items():
            with patch.dict(os.environ, wrap):
                AcceleratorState._reset_state()
                try:
                    trained(home, name, cut=False, **changes)
                except BadInput as error:
                    told[name] = str(error)
    (home / f"told{rank}.json").write_text(json.dumps(told))
    os._exit(0)


def both(home):
    """Let two processes do their part; one that fails ends the other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [get_context("fork").Process(target=work, args=(rank, port, home)) for rank in range(RANKS)]
    for process in started:
        process.start()
    while any(process.is_alive() for process in started):
        for process in started:
            process.join(0.2)
            if process.exitcode:
                for other in started:
                    other.kill()
    return [json.loads((home / f"told{rank}.json").read_text()) for rank in range(RANKS)]


def noted(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    (path,) = [*folder.glob("adapter/*.safetensors"), *folder.glob("model/*.safetensors")]
    return load_file(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    model(folder / "model", num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data(folder / "data")
    tiny_sft.model(folder / "lm")
    for name, rows in {"chats": tiny_sft.chats, "pairs": tiny_sft.disputed}.items():
        tiny_sft.data(folder / name, rows, train=23, test=10)
    return folder


@pytest.fixture(scope="module")
def told(home):
    for name, (changes, among) in RUNS.items():
        if among[0] is ONE:
            trained(home, name, cut=True, **changes)
    found = both(home)
    for name, (changes, among) in RUNS.items():
        if among[-1] is ONE:
            trained(home, name, cut=False, **changes)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_come_to_what_one_comes_to(home, told, name):
    changes, among = RUNS[name]
    alone = trained(home, f"{name}, alone", cut=False, **changes)
    near = LOOSE.get(name, 1e-4)
    ours, theirs = noted(home / name), noted(home / f"{name}, alone")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]  # each noted once
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for key in ("loss", "eval_loss", "eval_accuracy", "penalty"):
            assert mine.get(key, 0) == pytest.approx(other.get(key, 0), abs=near)
    got, want = weights(home / name), weights(home / f"{name}, alone")
    torch.testing.assert_close(got, want, rtol=0, atol=10 * near)
    if among[-1] is not ONE:
        resumed = 2 if len(among) > 1 else 0
        assert told[0][name] == told[1][name] == [pytest.approx(alone.score, abs=near), alone.trainable, resumed]
    assert not (home / name / "checkpoints").exists()


def test_a_signal_to_one_ends_all_with_one_checkpoint(home, told):
    done = trained(home, "asked", cut=False, **LORA)
    trained(home, "never asked", cut=False, **LORA)
    assert done.resumed_from_step == 2
    torch.testing.assert_close(weights(home / "asked"), weights(home / "never asked"), rtol=0, atol=1e-3)


def test_files_are_the_same(home, told):
    for kind in ("adalora, mpc", "full"):
        files = {str(p.relative_to(home / kind)) for p in (home / kind).rglob("*")}
        trained(home, f"{kind}, alone", cut=False, **RUNS[kind][0])
        assert files == {str(p.relative_to(home / f"{kind}, alone")) for p in (home / f"{kind}, alone").rglob("*")}


@pytest.mark.parametrize("name", REFUSED)
def test_what_several_processes_cannot_do_is_refused_by_all(home, told, name):
    assert REFUSED[name][2] in told[0][name]
    assert told[1][name] == told[0][name]


@pytest.mark.parametrize(("rows", "lengths"), [(12, [3, 3, 3, 3]), (9, [3, 3, 1, 2]), (7, [3, 3, 1, 1])])
def test_each_process_has_a_batch_of_every_step(rows, lengths):
    batches = list(Even(range(rows), 3, 2))
    assert [len(batch) for batch in batches] == lengths
    assert sorted({row for batch in batches for row in batch}) == list(range(rows))
    assert len(Even(range(rows), 3, 2)) == len(batches)
