"""`make gpu-bundle`: what `make gpu-check` needs on a machine that can't build, as a folder and a .tar.gz of it.

Stripped programs, scripts, configs and a small file of tokens, at most 40 MB. There only Python with PyTorch 2.11 is needed,
whose `torch` folder gives libtorch:

    tar xf capstan-gpu-check.tar.gz && capstan-gpu-check/scripts/gpu-check.sh --budget 9m
"""

import argparse
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "capstan-gpu-check"
PROGRAMS = ("capstan", "capstan-worker")
FILES = (
    "scripts/gpu-check.sh", "benches/bench.py", "benches/pytorch_lm.py", "benches/ui.py", "benches/gpu_check.py", "benches/gpu_check_machine.py",
    "benches/gpu_check_page.py", "benches/gpu_check_place.py", "benches/gpu_check_runner.py", "benches/gpu_check_speed.py",
    "benches/gpu_check_training.py", "configs/hello.json", "configs/gpt2-124m.json", "configs/workstation/gpt2-medium.json",
    "configs/workstation/llama-1b-1gpu.json", "LICENSE",
)
LARGEST_MB = 40
DT_STRTAB, DT_RPATH, DT_RUNPATH, PT_LOAD, PT_DYNAMIC = 5, 15, 29, 1, 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, default=ROOT / "target" / "release", help="folder of the built programs")
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "gpu-bundle", help="folder for the bundle and its archive")
    parser.add_argument("--largest-mb", type=float, default=LARGEST_MB, help="refuse a folder with more (%(default)s)")
    options = parser.parse_args()
    try:
        folder = make(options.release, options.out / NAME, options.largest_mb)
        archive = pack(folder)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"gpu-bundle: error: {error}")
    print(f"gpu-bundle: {archive}, {archive.stat().st_size / 1e6:.1f} MB, unpacked {size_of(folder) / 1e6:.1f} MB")


def make(release, folder, largest_mb=LARGEST_MB):
    """Fills the folder anew. Raises ValueError where the bundle is too large or a program can't be taken along."""
    if folder.exists():
        shutil.rmtree(folder)
    for name in FILES:
        copy(ROOT / name, folder / name)
    for name in PROGRAMS:
        program = folder / "target" / "release" / name
        copy(release / name, program)
        subprocess.run(["strip", program], check=True)
        program.write_bytes(only_relative_paths(program.read_bytes()))
    write_tokens(folder / "data" / "tokens.bin")
    write_index(folder)
    if size_of(folder) > 1e6 * largest_mb:
        raise ValueError(f"{folder} has {size_of(folder) / 1e6:.1f} MB, more than {largest_mb:g}: were the programs built without optimisation?")
    return folder


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def write_tokens(path):
    sys.path.insert(0, str(ROOT / "benches"))
    import gpu_check_speed as speed

    path.parent.mkdir(parents=True, exist_ok=True)
    speed.write_tokens(path, speed.tokens_of(speed.source_text(ROOT), speed.N_TOKEN_IDS))


def write_index(folder):
    """bundle.json: what this is, of which commit, and each file with its size and hash. The check knows a bundle by it."""
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()  # noqa: E731
    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.rglob("*")) if path.is_file()
    }
    index = {"commit": (git("rev-parse", "--short", "HEAD") or "no commit") + changed, "torch": "2.11", "files": files}
    (folder / "bundle.json").write_text(json.dumps(index, indent=1) + "\n")


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pack(folder):
    archive = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        tar.add(folder, folder.name, filter=nobodys)
    return archive


def nobodys(entry):
    """An archive tells nothing of who made it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


# Where programs look for libtorch -----------------------------------------------------------------------------------------


def only_relative_paths(program):
    """An ELF program whose list of library folders has only those relative to itself: the build machine's own mean nothing elsewhere."""
    found = runpath(program)
    if found is None:
        return program
    start, end = found
    kept = b":".join(part for part in program[start:end].split(b":") if part.startswith(b"$ORIGIN"))
    if not kept:
        return program
    return program[:start] + kept.ljust(end - start, b"\0") + program[end:]


def runpath(program):
    """Where the list of library folders lies in a program's file; None where it has none."""
    if program[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no ELF program of 64 bits, little-endian")
    segments = segments_of(program)
    _, offset, _, size = next(segment for segment in segments if segment[0] == PT_DYNAMIC)
    entries = dict(struct.unpack_from("<QQ", program, at) for at in range(offset, offset + size, 16))
    name = entries.get(DT_RUNPATH, entries.get(DT_RPATH))
    if name is None:
        return None
    strings = entries[DT_STRTAB]
    place = next(offset + strings - address for kind, offset, address, size in segments if kind == PT_LOAD and address <= strings < address + size)
    return place + name, program.index(b"\0", place + name)


def segments_of(program):
    """Kind, offset, address and size in the file of each segment."""
    (table,), (entry_size, count) = struct.unpack_from("<Q", program, 32), struct.unpack_from("<HH", program, 54)
    headers = (struct.unpack_from("<IIQQQQ", program, table + entry_size * index) for index in range(count))
    return [(kind, offset, address, size) for kind, _, offset, address, _, size in headers]


if __name__ == "__main__":
    main()
