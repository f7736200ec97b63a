#!/usr/bin/env bash
# Queries through llama.cpp's server, with log-probabilities, by chat and by completions:
#   tests/servers/llama_cpp.sh [MODEL.gguf]
# The model is Qwen2.5-Coder 0.5B Instruct by default, whose packages take 490 MB. Needs a C++
# compiler: llama-cpp-python is built in an environment of its own, which takes minutes. VENV is
# such an environment that is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."

model=${1:-$(python -c "from pyterrier_inpars import demo; print(demo.instruct_gguf())" | tail -n 1)}
work=$(mktemp -d)
venv=${VENV:-$work/venv}
if [ ! -d "$venv" ]; then
    if grep -q amx /proc/cpuinfo; then # native builds crash there
        export CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON"
    fi
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q "llama-cpp-python[server]"
fi
# Log-probabilities need the logits of all tokens, a buffer of n_ctx times the vocabulary.
"$venv/bin/python" -m llama_cpp.server --model "$model" --host 127.0.0.1 --port 8123 \
    --n_ctx 512 --logits_all true >"$work/log" 2>&1 &
server=$!
trap 'kill $server; rm -rf "$work"' EXIT
for endpoint in chat completions; do
    python tests/servers/check_server.py http://127.0.0.1:8123/v1 "$endpoint" --documents 2 --log-probs
done
