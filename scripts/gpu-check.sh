#!/usr/bin/env bash
# `make gpu-check`: what can only be checked on an NVIDIA GPU. Without one it says so and succeeds.
#
#   1 capstan doctor, topology  4 sensors = nvidia-smi's            7 GPT-2 and Llama in bf16 against PyTorch
#   2 hello on CUDA             5 two ranks on one GPU = one rank   8 throughput with and without the UI (benches/ui.py)
#   3 streams, events, NCCL     6 fp32 on the GPU = fp32 on the CPU   4 to 7: benches/gpu_check.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU'; then
  echo "gpu-check: no GPU: nothing checked"
  exit 0
fi
nvidia-smi --list-gpus

make build
readonly CAPSTAN=target/release/capstan
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

step() { printf '\ngpu-check: %s\n' "$*"; }

step "1. capstan doctor, and the topology as nvidia-smi tells it"
"$CAPSTAN" doctor
nvidia-smi topo --matrix

step "2. hello on CUDA"
"$CAPSTAN" train configs/hello.json --layout dp=1 --set 'devices=[0]' --plain --runs-dir "$scratch"

step "3. streams, events, NCCL with a world of one"
target/release/capstan-worker self-test

# 4 to 7, which compare numbers.
python3 benches/gpu_check.py "$@"

step "8. throughput with and without the UI"
python3 benches/ui.py --devices '[0]' --steps 2000 --rounds 5 --at-least 0.995
