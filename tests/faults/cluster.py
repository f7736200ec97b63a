"""Kills nodes and drivers of a Ray cluster during generation; no query may be lost or doubled.

    python tests/faults/cluster.py [--nodes 3] [--drivers 3] [--documents 2000] [--seed 0]

A cluster of two nodes besides the driver's, on this machine, generates queries with a tiny random
model. The given numbers of nodes and drivers are killed with all their processes, in random order,
each after a random number of shards. Each lost node is replaced by a new one, each lost driver by a
new process, and the last driver finishes the run. The artifact must then equal that of a local run
byte for byte. Prints the progress at each kill. Takes two minutes on two free cores.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

import psutil
import ray
import tiny_llm
from kill import content, documents, done
from ray.cluster_utils import Cluster

from pyterrier_inpars import CopyFilter, QueryGenerator, SyntheticQueries, distributed


def pipeline(folder):
    generator = QueryGenerator(
        f"{folder}/model", prompt="zero-shot", max_new_tokens=16, dtype="float32", device="cpu"
    )
    return generator >> CopyFilter()


def drive(address, folder, n):
    ray.init(address=address, log_to_driver=False)
    queries = SyntheticQueries(f"{folder}/ray", shard_size=16)
    distributed.index(pipeline(folder), documents(n), queries, batch_size=8, workers=2)


def kill(node):
    """Kills the Ray processes of a node and their workers, as if the machine were lost."""
    (raylet,) = node.all_processes["raylet"]
    processes = psutil.Process(raylet.process.pid).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in processes:
        if process.is_running():
            process.kill()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--nodes", type=int, default=3)
    options.add_argument("--drivers", type=int, default=3)
    options.add_argument("--documents", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--drive", nargs=2, metavar=("ADDRESS", "FOLDER"), help="run as a driver")
    options = options.parse_args()
    if options.drive:
        drive(*options.drive, options.documents)
        sys.exit()

    draw = random.Random(options.seed)
    kills = ["node"] * options.nodes + ["driver"] * options.drivers
    draw.shuffle(kills)
    small = {"object_store_memory": 10**8}
    with tempfile.TemporaryDirectory() as folder:
        tiny_llm.save(Path(folder, "model"))
        whole = SyntheticQueries(f"{folder}/whole", shard_size=16)
        (pipeline(folder) >> whole).index(documents(options.documents), batch_size=8)
        cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
        nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
        more = ["--documents", str(options.documents), "--drive", cluster.address, folder]
        command = [sys.executable, __file__, *more]
        driver, path = subprocess.Popen(command), f"{folder}/ray"
        step = options.documents // (len(kills) + 1)
        for what in kills:
            goal = done(path) + draw.randint(16, step)
            while done(path) < goal and driver.poll() is None:
                time.sleep(0.02)
            if driver.poll() is not None:
                sys.exit(f"a driver exited with status {driver.returncode}: give more --documents")
            print(f"{done(path)} documents done: killing a {what}", flush=True)
            if what == "node":
                kill(nodes.pop(draw.randrange(2)))
                nodes.append(cluster.add_node(num_cpus=1, **small))
            else:
                driver.kill()
                driver.wait()
                driver = subprocess.Popen(command)
        code = driver.wait()
        equal = content(path) == content(whole.path)
        got, expected = (
            [row["qid"] for row in SyntheticQueries(p).iter_results()] for p in (path, whole.path)
        )
        print(
            f"nodes killed: {options.nodes}, drivers killed: {options.drivers}, rows: {len(got)}, "
            f"lost: {len(set(expected) - set(got))}, doubled: {len(got) - len(set(got))}, "
            f"equal byte for byte: {equal}"
        )
        cluster.shutdown()
    sys.exit(code or not equal)
