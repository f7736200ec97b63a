"""Fills a small disk while queries are stored, makes room and resumes; nothing may be lost.

    python tests/faults/full_disk.py

Linux only: mounts a tmpfs of 64 KiB in its own namespace, which needs no privileges. Prints each
error with the shards stored so far, and finally whether the artifact equals one from a larger disk.
"""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from writer import files, index

from pyterrier_inpars import SyntheticQueries


def documents():
    noise = random.Random(0)  # incompressible
    for n in range(200):
        yield {"docno": str(n), "text": noise.randbytes(500).hex()}


def main() -> int:
    if os.environ.get("IN_NAMESPACE") is None:
        command = ["unshare", "-Urm", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {"IN_NAMESPACE": "1"}).returncode
    with tempfile.TemporaryDirectory() as folder:
        whole = files(index(f"{folder}/whole", documents(), shard_size=20).path)
        disk = Path(folder, "disk")
        disk.mkdir()
        size, errors = 64, 0
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", disk], check=True)
        path = disk / "queries"
        while True:
            try:
                index(path, documents(), shard_size=20)
                break
            except OSError as error:
                errors += 1
                queries = SyntheticQueries(path)
                stored = sum(name.endswith(".gz") for name in files(path))
                print(f"{size} KiB: {error}\n  {stored} shards stored, damaged: {queries.verify()}")
                if "No space left" not in str(error) or queries.verify():
                    return 1
            size += 32
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
        equal = files(path) == whole
        print(f"full {errors} times, {size} KiB at the end, equal byte for byte: {equal}")
        subprocess.run(["umount", disk], check=True)
        return 0 if equal and errors else 1


if __name__ == "__main__":
    sys.exit(main())
