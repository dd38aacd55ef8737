#!/usr/bin/env bash
# `make gpu-check`: what can only be checked on an NVIDIA GPU. Without one it says so and succeeds.
#
# The same on a build machine, where it builds first, and in an unpacked bundle (`make gpu-bundle`), where nothing is built
# and only Python with PyTorch 2.11 is needed. Options and exit codes: scripts/gpu-check.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  printf 'gpu-check: error: %s\n' "$*" >&2
  exit 4
}

has_gpu() { timeout 60 nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU'; }

# Whether the options ask for anything that needs no card.
needs_no_card() {
  local option
  for option in "$@"; do
    case $option in --simulated | --simulated=* | --help | -h | --list) return 0 ;; esac
  done
  return 1
}

python=${CAPSTAN_BENCH_PYTHON:-$(command -v python3 || command -v python || true)}
[[ -n $python ]] || fail "there is no python3: name one that has PyTorch 2.11 in CAPSTAN_BENCH_PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
  fail "$python is no Python 3.10 or later: CAPSTAN_BENCH_PYTHON names another one"

if ! needs_no_card "$@" && ! has_gpu; then
  echo "gpu-check: no GPU: nothing checked"
  exit 0
fi
if [[ ! -e $root/bundle.json ]]; then make -C "$root" build; fi
exec "$python" "$root/benches/gpu_check.py" "$@"
