"""Every test starts from the same seed, on one thread, without a network."""

import gc
import os
import shutil
import tempfile
from functools import cache

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, too: two threads add up in another order
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # threads cost more than they save where models are tiny
os.environ["SUBSPACE_SVD_GB"] = "0"  # nothing in the user's cache: see test_svd_store.py

import jinja2
import pytest
import torch
from transformers.utils import logging

jinja2.Template = cache(jinja2.Template)  # PEFT's model card is compiled anew at every save, which takes 50 ms
if not torch.cuda.is_available():  # each torch.manual_seed notes the whole stack, for a card that may come: 1.5 ms
    torch.cuda.manual_seed_all = torch.xpu.manual_seed_all = torch.mtia.manual_seed_all = lambda seed: None


MEMORY = "/dev/shm"


def pytest_configure(config):
    if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > 4 << 30:  # a disk is waited for at every checkpoint
        tempfile.tempdir = os.environ.setdefault("TMPDIR", MEMORY)
    config.addinivalue_line("filterwarnings", "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
    config.addinivalue_line("filterwarnings", "ignore:.*acts between steps of training:UserWarning")


@pytest.fixture(autouse=True, scope="module")
def _settled():
    """accelerate collects garbage after every training, and would look at all that earlier modules have left."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _repeatable():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
