#!/bin/sh
# Trains tiny rerankers and reranks with them on XLA, on its CPU backend, and on the CPU without it.
# The last line has the largest difference between the scores of one checkpoint. Fails if it is above
# the tolerance, if XLA compiled programs for more than the few shapes that batches are padded to, or
# if a resumed training differs from an uninterrupted one.
# The environment takes 7 GB, and is reused if the folder holds it: torch_xla has no release for
# the torch of examples/constraints.txt. About 5 minutes without making it.
# Usage: tests/devices/xla.sh [folder of the environment [tolerance]]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
env=${1:-$folder/env}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="$root"
if ! [ -e "$env/ready" ]; then
    python3 -m venv "$env"
    grep -v '^torch' "$root/examples/constraints.txt" > "$folder/constraints.txt"
    "$env/bin/pip" install -q torch==2.9.0 torch_xla==2.9.0
    "$env/bin/pip" install -q -c "$folder/constraints.txt" -e "$root" pytest hypothesis
    touch "$env/ready"
fi
run() {
    "$env/bin/python" "$here/xla.py" "$1" "$folder" 2> "$folder/$1.log" || { cat "$folder/$1.log"; exit 1; }
}
USE_TORCH_XLA=0 run cpu
PJRT_DEVICE=CPU run xla
USE_TORCH_XLA=0 "$env/bin/python" "$here/xla.py" compare "$folder" "${2:-1e-3}"
