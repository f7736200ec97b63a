#!/bin/sh
# Trains each reranker in one process and in two (gloo, CPU) with the same effective batch.
# The last line has the largest difference between the loss curves. Fails if it is above the
# tolerance, if the two processes together do not see the same examples as the single one, or if
# the weights of the two differ.
# Usage: [LAUNCH="accelerate launch --multi_gpu --num_processes 2"] tests/devices/ddp.sh [tolerance]
# (With --cpu, Accelerate needs MPI for several processes; these rerankers set device="cpu" instead.)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
launch=${LAUNCH:-python -m torch.distributed.run --standalone --nproc-per-node 2}
python "$here/ddp.py" train "$folder" one 2> "$folder/one.log" || { cat "$folder/one.log"; exit 1; }
$launch "$here/ddp.py" train "$folder" two 2> "$folder/two.log" || { cat "$folder/two.log"; exit 1; }
grep --no-filename "steps of" "$folder"/*.log
python "$here/ddp.py" compare "$folder" "${1:-1e-5}"
