#!/usr/bin/env bash
# Queries through llama.cpp's server, which gives log-probabilities, for a GGUF model:
#   tests/servers/llama_cpp.sh MODEL.gguf [chat|completions]
# Builds llama-cpp-python in an environment of its own, which takes minutes. Native builds crash on
# processors with AMX, hence the flags.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
python3 -m venv "$work/venv"
CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON" \
    "$work/venv/bin/pip" install -q "llama-cpp-python[server]"
"$work/venv/bin/python" -m llama_cpp.server --model "$1" --host 127.0.0.1 --port 8123 \
    --n_ctx 2048 --logits_all true >"$work/log" 2>&1 &
server=$!
trap 'kill $server; rm -rf "$work"' EXIT
python tests/servers/check_server.py http://127.0.0.1:8123/v1 "${2:-chat}"
