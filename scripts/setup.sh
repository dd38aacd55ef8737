#!/usr/bin/env bash
# Makes libtorch 2.11.0 available as target/libtorch, a link that .cargo/config.toml names, so that plain cargo finds it too.
#
# Which libtorch, in this order:
#   LIBTORCH=DIR           the `torch` folder of an installed PyTorch 2.11 (or a folder that this script made);
#   CAPSTAN_LIBTORCH=cpu   or gpu: that set, whatever the machine has;
#   target/libtorch        what it links to already, if that is complete: delete the link to choose again;
#   otherwise              the GPU set where an NVIDIA driver and card can run it, else the CPU set.
#
# Both sets are unpacked from PyTorch's own wheels into $XDG_CACHE_HOME/capstan (~/.cache/capstan), shared by all clones.
# A wheel is fetched whole or not at all and a set is renamed into place when it is complete, so after an interruption the
# script goes on from the last complete file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH=2.11.0
readonly CUDA=13.0
readonly MIN_DRIVER=580        # of CUDA 13
readonly MIN_COMPUTE_CAP=75    # sm_75 is the oldest architecture that CUDA 13 compiles for
readonly MIN_GLIBC=28          # glibc 2.28, from the wheel's tag manylinux_2_28
readonly LINK=target/libtorch
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/capstan
readonly WHEELS=$CACHE/wheels

# Wheels: package, version, platform tag. The tag is pinned, so that every Python fetches the same files.
# libtorch_cpu.so of this wheel needs libcudart and libcupti when it is loaded, GPU or not.
readonly CPU_SET=(
  "torch $TORCH manylinux_2_28_x86_64"
  "nvidia-cuda-runtime 13.0.96 manylinux2014_x86_64"
  "nvidia-cuda-cupti 13.0.85 manylinux_2_25_x86_64"
)
# What libtorch_cuda.so needs at run time, and NVRTC. torch's Python dependencies (triton, sympy, ...) are left out.
readonly GPU_SET=(
  "${CPU_SET[@]}"
  "nvidia-cublas 13.1.0.3 manylinux_2_27_x86_64"
  "nvidia-cuda-nvrtc 13.0.88 manylinux2010_x86_64"
  "nvidia-cudnn-cu13 9.19.0.56 manylinux_2_27_x86_64"
  "nvidia-cufft 12.0.0.61 manylinux2014_x86_64"
  "nvidia-cufile 1.15.1.6 manylinux2014_x86_64"
  "nvidia-curand 10.4.0.35 manylinux_2_27_x86_64"
  "nvidia-cusolver 12.0.4.66 manylinux_2_27_x86_64"
  "nvidia-cusparse 12.6.3.3 manylinux2014_x86_64"
  "nvidia-cusparselt-cu13 0.8.0 manylinux2014_x86_64"
  "nvidia-nccl-cu13 2.28.9 manylinux_2_18_x86_64"
  "nvidia-nvjitlink 13.0.88 manylinux2010_x86_64"
  "nvidia-nvshmem-cu13 3.4.5 manylinux2014_x86_64"
  "nvidia-nvtx 13.0.85 manylinux1_x86_64"
)

main() {
  check_machine
  mkdir -p target
  local current="" wanted
  if is_complete "$LINK"; then current=$(readlink -f "$LINK"); fi

  if [[ -n ${LIBTORCH:-} ]]; then
    check_own_torch "$LIBTORCH"
    wanted=$(readlink -f "$LIBTORCH")
  elif [[ -n ${CAPSTAN_LIBTORCH:-} ]]; then
    case $CAPSTAN_LIBTORCH in
      cpu | gpu) wanted=$(set_folder "$CAPSTAN_LIBTORCH") ;;
      *) fail "CAPSTAN_LIBTORCH is \"$CAPSTAN_LIBTORCH\": it can be cpu or gpu" ;;
    esac
    is_complete "$wanted" || fetch_set "$CAPSTAN_LIBTORCH"
  elif [[ -n $current ]]; then
    wanted=$current
    if [[ ! -e $wanted/lib/libtorch_cuda.so ]] && gpu_is_usable; then
      say "$GPU_FOUND, but $LINK is a CPU build of libtorch: \`rm $LINK && make setup\` fetches the GPU set"
    fi
  else
    local set=cpu
    if gpu_is_usable; then set=gpu; fi
    say "$GPU_FOUND; taking the ${set^^} set"
    wanted=$(set_folder $set)
    is_complete "$wanted" || fetch_set $set
  fi

  link_to "$wanted"
  say "$LINK is libtorch $(torch_version "$LINK") in $wanted"
  if [[ ! -x target/release/capstan-worker ]]; then
    say "the first build compiles libtorch's bindings: about four minutes on two cores"
  fi
}

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

# The folder that $LINK points to for the set $1 (cpu or gpu).
set_folder() {
  case $1 in
    cpu) readlink -m "$CACHE/libtorch-$TORCH-cpu" ;;
    gpu) readlink -m "$CACHE/torch-$TORCH-cu${CUDA%%.*}/torch" ;;
  esac
}

# The version that a libtorch folder states: PyTorch's own version.py, or the VERSION that this script writes.
torch_version() {
  if [[ -f $1/version.py ]]; then
    sed -n "s/^__version__ = ['\"]\([^'\"]*\)['\"].*/\1/p" "$1/version.py"
  elif [[ -f $1/VERSION ]]; then
    head -n 1 "$1/VERSION"
  fi
}

is_right_version() { [[ $1 =~ ^${TORCH%.*}\.[0-9]+(\+.*)?$ ]]; }

is_complete() {
  [[ -f $1/lib/libtorch_cpu.so && -d $1/include ]] && is_right_version "$(torch_version "$1")"
}

# What the build needs, whichever libtorch it is. Every problem is reported, not just the first.
check_machine() {
  local problems=() wanted_rust rust glibc
  if [[ $(uname -sm) != "Linux x86_64" ]]; then
    fail "this is $(uname -sm): capstan's libtorch is for Linux x86_64 only"
  fi
  glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
  if [[ ! $glibc =~ ^glibc\ 2\.([0-9]+) ]] || ((BASH_REMATCH[1] < MIN_GLIBC)); then
    problems+=("the C library is ${glibc:-not glibc}: libtorch needs glibc 2.$MIN_GLIBC or later, use a newer distribution or a container")
  fi
  if ! rust=$(cargo --version 2>/dev/null); then
    problems+=("cargo is missing: install Rust from https://rustup.rs, or add ~/.cargo/bin to PATH")
  else
    wanted_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    rust=${rust#cargo } rust=${rust%% *}
    if [[ $(printf '%s\n%s\n' "$wanted_rust" "$rust" | sort -V | head -n 1) != "$wanted_rust" ]]; then
      problems+=("cargo is $rust, capstan needs $wanted_rust or later: run \`rustup update\`")
    fi
  fi
  command -v g++ >/dev/null || problems+=("g++ is missing: install it (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++)")
  command -v make >/dev/null || problems+=("make is missing: install it (apt install make; dnf install make)")
  report_problems "${problems[@]}"
}

report_problems() {
  (($#)) || return 0
  printf 'setup: error: %s\n' "$@" >&2
  exit 1
}

check_own_torch() {
  local own_version
  [[ -f $1/lib/libtorch_cpu.so && -d $1/include ]] ||
    fail "LIBTORCH=$1 has no lib/libtorch_cpu.so and include/: name the \`torch\` folder as pip laid it out (site-packages/torch)"
  own_version=$(torch_version "$1")
  is_right_version "$own_version" ||
    fail "LIBTORCH=$1 is PyTorch ${own_version:-of an unknown version}, capstan is built for ${TORCH%.*}: pip install torch==$TORCH, or unset LIBTORCH"
}

# Says in GPU_FOUND what the driver reports; succeeds if a card there can run the GPU set.
gpu_is_usable() {
  GPU_FOUND="no NVIDIA driver found"
  command -v nvidia-smi >/dev/null || return 1
  local found driver cap name best=0 best_name=""
  if ! found=$(timeout 30 nvidia-smi --query-gpu=driver_version,compute_cap,name --format=csv,noheader 2>&1); then
    GPU_FOUND="nvidia-smi says \"${found%%$'\n'*}\""
    return 1
  fi
  while IFS=, read -r driver cap name; do
    cap=${cap//[^0-9]/}
    if [[ -n $cap ]] && ((cap > best)); then best=$cap best_name=${name# }; fi
  done <<<"$found"
  if ((best == 0)); then
    GPU_FOUND="nvidia-smi lists no GPU"
    return 1
  fi
  driver=${found%%,*}
  GPU_FOUND="$best_name (sm_$best, driver $driver)"
  if [[ ! ${driver%%.*} =~ ^[0-9]+$ ]] || ((${driver%%.*} < MIN_DRIVER)); then
    GPU_FOUND+=" can't run CUDA $CUDA, which needs driver $MIN_DRIVER or later"
    return 1
  fi
  if ((best < MIN_COMPUTE_CAP)); then
    GPU_FOUND+=" is too old for CUDA $CUDA, which starts at sm_$MIN_COMPUTE_CAP"
    return 1
  fi
}

# Downloads and unpacks the set $1 (cpu or gpu).
fetch_set() {
  local set=$1 folder wheels=() attempt
  folder=$(set_folder "$set")
  [[ $set == cpu ]] || folder=$(dirname "$folder")
  check_fetch "$set"
  mkdir -p "$WHEELS"
  exec 9>"$CACHE/setup.lock"
  if command -v flock >/dev/null && ! flock -n 9; then
    say "another setup is fetching into $CACHE: waiting for it"
    flock 9
  fi
  is_complete "$(set_folder "$set")" && return

  for attempt in 1 2; do
    fetch_wheels "$set"
    if unpack "$set" "$folder.partial" "${wheels[@]}"; then break; fi
    ((attempt == 1)) || fail "the wheels in $WHEELS can't be unpacked: delete that folder and try again"
  done
  rm -rf "$folder"
  mv "$folder.partial" "$folder"
  rm -f "${wheels[@]}"
  rmdir "$WHEELS" 2>/dev/null || true
}

# What fetching needs, and how large it is.
check_fetch() {
  local problems=() download cache_mb build_mb=1000 pip_hint="or set LIBTORCH to the torch folder of an installed PyTorch $TORCH"
  case $1 in
    cpu) download="545 MB" cache_mb=1100 ;;
    gpu) download="2.5 GB" cache_mb=7500 ;;
  esac
  if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
    problems+=("python3 3.8 or later is missing: install it (apt install python3; dnf install python3), $pip_hint")
  elif ! python3 -m pip --version >/dev/null 2>&1; then
    problems+=("pip is missing (python3 -m pip): install it (apt install python3-pip; dnf install python3-pip), $pip_hint")
  fi
  mkdir -p "$CACHE" 2>/dev/null || problems+=("$CACHE can't be made: set XDG_CACHE_HOME to a folder that you may write to")
  report_problems "${problems[@]}"

  if [[ $(stat -c %d "$CACHE") == "$(stat -c %d target)" ]]; then
    check_disk "$CACHE" $((cache_mb + build_mb))
  else
    check_disk "$CACHE" $cache_mb
    check_disk target $build_mb
  fi
  say "fetching libtorch $TORCH, ${1^^} set: $download from PyPI, unpacked into $CACHE"
}

check_disk() {
  local free_mb
  free_mb=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1000) }')
  # Wheels that an earlier, interrupted set-up left are part of the need.
  if [[ $1 == "$CACHE" && -d $WHEELS ]]; then free_mb=$((free_mb + $(du -sk "$WHEELS" | cut -f 1) / 1000)); fi
  ((free_mb >= $2)) ||
    fail "$1 has $free_mb MB free, the set-up and the build need $2 MB: free some, or set XDG_CACHE_HOME to a larger disk"
}

# Fetches the wheels of the set $1 that are not there yet, one by one; their paths go into the caller's `wheels`.
fetch_wheels() {
  local -n pins=${1^^}_SET
  local pin package version tag found
  wheels=()
  for pin in "${pins[@]}"; do
    read -r package version tag <<<"$pin"
    found=$(find_wheel "$package" "$version")
    if [[ -z $found ]]; then
      fetch_wheel "$package" "$version" "$tag"
      found=$(find_wheel "$package" "$version")
    fi
    [[ -n $found ]] || fail "pip fetched no wheel of $package $version"
    wheels+=("$found")
  done
}

find_wheel() { find "$WHEELS" -maxdepth 1 -name "${1//-/_}-$2-*.whl" -print -quit; }

# pip writes into a folder of its own: a file in $WHEELS is whole.
fetch_wheel() {
  local package=$1 version=$2 tag=$3 part=$WHEELS/.part errors
  rm -rf "$part"
  mkdir -p "$part/tmp"
  # `===` takes the release on PyPI and no local build of it, which might have other libraries.
  # pip's progress goes to the screen; what it says on stderr is kept for the one line below.
  { errors=$(TMPDIR=$part/tmp python3 -m pip download --no-deps --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --platform "$tag" \
    --disable-pip-version-check --no-input --retries 3 --timeout 60 \
    -d "$part" "$package===$version" 2>&1 >&3); } 3>&1 || pip_failed "$package $version" "$errors"
  mv "$part"/*.whl "$WHEELS"/
  rm -rf "$part"
}

pip_failed() {
  local no_network='NewConnectionError|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|ProtocolError|IncompleteRead|Connection(Error| broken)|Network is unreachable'
  if grep -q 'No space left on device' <<<"$2"; then
    fail "the disk of $CACHE is full: free some, or set XDG_CACHE_HOME to a larger disk"
  elif grep -qE "$no_network" <<<"$2"; then
    fail "the package index can't be reached to fetch $1: check the network or the proxy, then run this again"
  fi
  fail "pip could not fetch $1: $(grep -m 1 '^ERROR' <<<"$2" || grep . <<<"$2" | tail -n 1)"
}

# Unpacks wheels (arguments from the third on) into the folder $2, as the set $1 needs it. A damaged wheel is deleted, and the result is 1.
unpack() {
  local set=$1 folder=$2 status=0
  shift 2
  rm -rf "$folder"
  mkdir -p "$folder"
  say "unpacking"
  python3 - "$set" "$folder" "$@" <<'PYTHON' || status=$?
import os, shutil, sys, zipfile, zlib

CPU_LIBRARIES = {"libc10.so", "libtorch_cpu.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}


def place(name, which):
    """Where a file of a wheel goes, relative to the set's folder; None: it isn't needed."""
    if which == "gpu":
        return name if name.startswith(("torch/", "nvidia/")) else None
    if name.startswith("torch/include/"):
        return name[len("torch/"):]
    folder, file = os.path.split(name)
    return "lib/" + file if folder in ("torch/lib", "nvidia/cu13/lib") and file in CPU_LIBRARIES else None


def unpack(wheel, which, folder):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            target = None if name.endswith("/") else place(name, which)
            if target is None:
                continue
            if ".." in target.split("/"):
                raise zipfile.BadZipFile("a path leads out of the folder: " + name)
            path = os.path.join(folder, target)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(name) as source, open(path, "wb") as out:  # reading to the end checks the CRC
                shutil.copyfileobj(source, out, 1 << 20)


which, folder, wheels = sys.argv[1], sys.argv[2], sys.argv[3:]
for wheel in wheels:
    try:
        unpack(wheel, which, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        print(f"setup: {os.path.basename(wheel)} is damaged ({error})", file=sys.stderr)
        os.remove(wheel)
        sys.exit(3)
    except OSError as error:
        sys.exit(f"setup: error: unpacking failed: {error}")
PYTHON
  ((status != 3)) || return 1
  if ((status)); then
    rm -rf "$folder"
    exit 1
  fi
  [[ $set == gpu ]] || finish_cpu_set "$folder"
}

finish_cpu_set() {
  ln -s libgomp.so.1 "$1/lib/libgomp.so"
  # torch-sys asks for -ltorch, which in the wheel is a shell that would pull in all of CUDA.
  g++ -shared -x c++ /dev/null -o "$1/lib/libtorch.so" || fail "g++ can't link an empty shared library: is it whole? (apt install g++)"
  echo "$TORCH+cpu" >"$1/VERSION"
}

# Points $LINK to the folder $1. torch-sys decides by the files in it what to link, and is not told when the link moves.
link_to() {
  local before=""
  if [[ -L $LINK ]]; then
    before=$(readlink "$LINK")
  elif [[ -e $LINK ]]; then
    [[ $(readlink -f "$LINK") == "$1" ]] && return
    fail "$LINK is a folder or a file, not a link: move it away, and run this again"
  fi
  [[ $before != "$1" ]] || return 0
  ln -sfn "$1" "$LINK.new"
  mv -T "$LINK.new" "$LINK"
  if [[ -n $before && $(readlink -m "$before") != "$1" ]]; then
    say "$LINK was $before: its bindings are compiled again"
    rm -rf target/*/.fingerprint/{torch-sys,capstan}-*
  fi
}

main
