"""Where `make gpu-check` runs: a build machine or an unpacked bundle, its Python with PyTorch, its card, and the environment of every program.

In a bundle the link `target/libtorch` is made to the `torch` folder of that Python; another version than capstan was built
for is refused. With the tests' stand-ins for CUDA, NCCL and NVML (`--simulated DIR`) the same programs run without a card.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bench
from gpu_check_runner import Refusal, StepFailed, StepSkipped, say

TORCH = "2.11"  # as scripts/setup.sh and the bindings have it
QUERY_LIMIT_S = 60
TORCH_PROGRAM = "import json, os, torch; print(json.dumps([torch.__version__, os.path.dirname(torch.__file__), torch.version.cuda]))"
SIMULATED = {"FAKE_NVML": "hopper", "FAKE_NVML_CARDS": "2"}  # unless the environment says otherwise


@dataclasses.dataclass
class Place:
    """What every step needs to know of this machine. `python` is absent where no Python has PyTorch 2.11."""

    capstan: Path
    results: Path
    scratch: Path
    python: str | None
    torch: str
    site_packages: Path | None
    simulated: Path | None
    environment: dict
    build: dict
    rounds: int = 3

    @property
    def n_parity_steps(self):
        """Steps that are compared: as many as a card takes seconds for, fewer on the stand-in."""
        return 6 if self.simulated else 20

    @property
    def worker(self):
        return self.capstan.parent / "capstan-worker"

    def run(self, command, limit_s=QUERY_LIMIT_S, **options):
        """A program's end, its output as text. Raises StepFailed where it can't be run or does not end."""
        command = [str(word) for word in command]
        options = {"env": self.environment, "cwd": bench.ROOT, "stdin": subprocess.DEVNULL, **options}
        try:
            return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s, **options)
        except OSError as error:
            raise StepFailed(f"{command[0]} can't be run: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"{Path(command[0]).name} does not end within {limit_s} s") from error

    def only_on_a_card(self, why):
        if self.simulated:
            raise StepSkipped(f"the stand-in has no {why}")


def prepare(options, scratch):
    """The place of this check. Raises Refusal where something is missing."""
    root = bench.ROOT
    bundle = root / "bundle.json"
    capstan = root / "target" / "release" / "capstan"
    for program in (capstan, capstan.parent / "capstan-worker"):
        if not program.exists():
            raise Refusal(f"{program} is missing: " + ("unpack the bundle again" if bundle.exists() else "run `make build`"))
    python, facts = find_python(options.python or os.environ.get("CAPSTAN_BENCH_PYTHON"), bundle.exists(), options.simulated)
    if bundle.exists():
        link_libtorch(root / "target" / "libtorch", Path(facts[1]))
    environment = environment_of(scratch, options.simulated)
    build = json.loads(bundle.read_text()) if bundle.exists() else {"commit": bench.describe_machine()["commit"]}
    return Place(
        capstan=capstan, results=options.results, scratch=scratch, python=python, torch=facts[0] if facts else "none",
        site_packages=Path(facts[1]).parent if facts else None, simulated=options.simulated, environment=environment,
        build=build, rounds=options.rounds,
    )


def find_python(named, is_bundle, simulated):
    """A Python with PyTorch 2.11 and what it says of it. A bundle can't do without; a build machine fetches one, unless it simulates."""
    try:
        return named or sys.executable, torch_facts(named or sys.executable)
    except Refusal:
        if is_bundle or named:
            raise
    if simulated:
        return None, None
    try:
        python = str(bench.find_python())
    except bench.BenchError as error:
        say(f"no Python with PyTorch, so nothing is compared with it: {error}")
        return None, None
    return python, torch_facts(python)


def torch_facts(python):
    """Version, folder and CUDA version of a Python's PyTorch. Raises Refusal for another version than 2.11."""
    try:
        found = subprocess.run([python, "-c", TORCH_PROGRAM], capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(f"{python} can't be run: {error}; --python or CAPSTAN_BENCH_PYTHON names another one") from error
    if found.returncode != 0:
        raise Refusal(f"{python} has no PyTorch ({bench.last_lines(found.stderr)}): pip install torch=={TORCH}.0, or name another Python with --python")
    facts = json.loads(found.stdout.strip().splitlines()[-1])
    if not is_right_torch(facts[0]):
        raise Refusal(f"{python} has PyTorch {facts[0]}, capstan is built for {TORCH}: pip install torch=={TORCH}.0, or name another Python with --python")
    return facts


def is_right_torch(version):
    return re.fullmatch(re.escape(TORCH) + r"\.\d+(\+.*)?", version) is not None


def link_libtorch(link, torch):
    """Points the bundle's link to a `torch` folder."""
    if not (torch / "lib" / "libtorch_cpu.so").exists():
        raise Refusal(f"{torch} has no lib/libtorch_cpu.so: reinstall torch with pip")
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(torch)
    except OSError as error:
        raise Refusal(f"{link} can't be made ({error}): unpack the bundle where you may write") from error


def environment_of(scratch, simulated):
    """The environment of every program: caches and runs in the scratch folder, nvidia-smi's order of cards, the stand-ins where wanted."""
    environment = {name: value for name, value in os.environ.items() if name not in ("LIBTORCH", "CAPSTAN_WORKER")}
    environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CAPSTAN_RUNS_DIR": str(scratch / "runs"), "TERM": "xterm-256color"}
    environment |= {f"XDG_{kind}_HOME": str(scratch / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA", "STATE")}
    environment.setdefault("PATH", os.defpath)
    environment.setdefault("HOME", str(scratch))
    if simulated:
        own = {"CAPSTAN_CUDA": simulated, "LD_LIBRARY_PATH": simulated, "CAPSTAN_NVML": simulated / "libnvidia-ml.so"}
        environment = {**SIMULATED, **environment, **{name: str(value) for name, value in own.items()}}
    return environment


# Cards --------------------------------------------------------------------------------------------------------------------


def nvidia_smi(place, *arguments, limit_s=QUERY_LIMIT_S):
    """What nvidia-smi prints. Raises StepSkipped where it is absent and the card simulated, StepFailed where it fails."""
    if place.simulated and not shutil.which("nvidia-smi", path=place.environment["PATH"]):
        raise StepSkipped("there is no nvidia-smi beside the stand-in")
    said = place.run(["nvidia-smi", *arguments], limit_s)
    if said.returncode != 0:
        raise StepFailed(f"nvidia-smi {' '.join(arguments)} ended with exit code {said.returncode}: {bench.last_lines(said.stderr or said.stdout)}")
    return said.stdout


def has_gpu():
    """Whether nvidia-smi lists a card."""
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=QUERY_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and found.stdout.startswith("GPU")


def cards(place):
    """The usable cards as `capstan doctor` sees them."""
    return doctor(place)[0]["machine"]["gpus"]


def doctor(place):
    """What `capstan doctor --json` says, and its exit code."""
    said = place.run([place.capstan, "doctor", "--json"], 120)
    try:
        return json.loads(said.stdout), said.returncode
    except json.JSONDecodeError as error:
        raise StepFailed(f"doctor ended with exit code {said.returncode}: {bench.last_lines(said.stderr)}") from error


def first_card(place):
    found = cards(place)
    if not found:
        raise StepFailed("capstan sees no usable card")
    return found[0]
