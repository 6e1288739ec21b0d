"""A sweep on a Ray cluster of two nodes ends as one on this machine does; skipped where Ray is missing."""

import os
import signal
from pathlib import Path

import pytest

import trivial
from subspace_tuning.errors import BadInput
from subspace_tuning.sweep.recipe import make
from subspace_tuning.sweep.sweep import Sweep

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'subspace-tuning[ray]'")

from subspace_tuning.sweep.ray import RayPool, _room  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=small)
    made.add_node(num_cpus=1, object_store_memory=80 << 20)
    yield made
    ray.shutdown()
    made.shutdown()
    signal.signal(signal.SIGTERM, handler)  # Ray leaves its own


def test_two_nodes_perform_a_sweep_also_when_workers_die(cluster, tmp_path):
    given = make({"output": str(tmp_path), "methods": ["ssb"], "tasks": ["rte"], "seeds": [0, 1, 3, 4, 5, 6]})
    with pytest.raises(BadInput, match="has room for a worker of 2 cores"):
        RayPool(tmp_path, cluster.address, cpus=2)
    jobs = []

    def pool(runner):
        made = RayPool(Path(given.output), cluster.address, runner=f"trivial:{runner}")
        jobs.append(made.jobs)
        return made

    summary = Sweep(given).run(lambda: pool("with_accidents"))
    assert [(s.total, s.finished) for s in summary.stages] == [(6, 5)]  # seed 1 kills its worker each time
    assert ["the worker was lost" in said for said in summary.failed.values()] == [True]
    assert Sweep(given).run(lambda: pool("nothing")).is_complete
    assert jobs == [2, 2]  # one of each node
    names = [line.split()[0] for line in (tmp_path / trivial.LOG).read_text().splitlines()]
    assert len(names) == len(set(names)) == 6


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"), [(1, 0, 8), (2, 0, 4), (1, 0.5, 4), (4, 0.25, 2), (1, 0.3, 6), (9, 0, 0), (1, 3, 0)]
)
def test_workers_fit_into_what_the_machine_has(cpus, gpus, room):
    assert _room({"CPU": 8.0, "GPU": 2.0}, cpus, gpus) == room
