#!/bin/sh
# Measures and checks the package on one GPU in at most 10 minutes, without a network: generation,
# reranking and training beside their peers, memory beside its estimate, results on the GPU beside
# those on the CPU, and what does not fit into memory. Models have random weights. Prints a table,
# and fails if a line does; see gpu.py.
#
# Without --wheels, Python is the one that is active. With it, wheels are installed into a new
# environment over the machine's own Python and torch. On a machine with a network and the same
# version of Python, they are made by
#     pip wheel -w wheels -c examples/constraints.txt ".[lora,test]"
#     rm -f wheels/torch-* wheels/nvidia_* wheels/triton-*
# Usage: tests/devices/gpu.sh [--wheels FOLDER] [arguments of gpu.py]
#        tests/devices/gpu.sh --device cpu --shapes tiny     tests the script
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
# One GPU: a Trainer would train on all that it sees, with as many times the batch.
CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES%%,*}" HF_HUB_OFFLINE=1 PYTHONPATH="$root"
if [ "${1:-}" = --wheels ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    python3 -m venv --system-site-packages "$folder/env"
    "$folder/env/bin/pip" install -q --no-index --no-deps "$2"/*.whl
    PATH="$folder/env/bin:$PATH"
    shift 2
fi
python "$here/gpu.py" "$@"
