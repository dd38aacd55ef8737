"""`make bench`: capstan against PyTorch 2.11 on the same work, side by side on this machine's CPU.

The work is configs/shakespeare-char.json (GPT, 4 layers, d_model 128, 64 tokens, batch 12, fp32) on a text given by --data. Both
sides run in turn, A B A B, in one go, and what is reported are ratios within a round: their median and their spread. Absolute
times of a shared machine say little.

    make bench                        speed, time to the first step, memory
    make bench ARGS=--full            also 2 000 steps with three seeds on both sides: validation losses
    make bench ARGS="--rounds 9 --data FILE"

Needs a Python with PyTorch 2.11, made once in the cache folder (CAPSTAN_BENCH_PYTHON names another one).
Writes benches/results/cpu-<date>.json, all numbers, and .md, the table.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"
CONFIG = "configs/shakespeare-char.json"
PYTORCH_SCRIPT = ROOT / "benches" / "pytorch_lm.py"
TORCH_VERSION = "2.11.0"

GLOBAL_BATCH, SEQ_LEN = 12, 64  # of CONFIG
WARMUP_STEPS = 20  # left out of step times, as in pytorch_lm.py
SPEED_STEPS, START_STEPS, FULL_STEPS = 300, 20, 2000
SEEDS = (1337, 1338, 1339)
RUN_LIMIT_S = 3600
NEVER = 100_000  # steps: no evaluation, no checkpoint while timing
VENV_DISK_BYTES = 10e9


class BenchError(Exception):
    """A message for the user; the benchmark can't go on."""


def main():
    args = parse_args()
    try:
        bench = Bench(args)
        bench.measure()
        print(f"\n{bench.write()}\nwritten to benches/results/")
    except BenchError as error:
        sys.exit(f"bench: {error}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a UTF-8 text (default: CAPSTAN_BENCH_TEXT, else ../shared/data/text/…)")
    parser.add_argument("--rounds", type=int, default=5, help="alternations of each comparison")
    parser.add_argument("--full", action="store_true", help=f"also train {FULL_STEPS} steps with {len(SEEDS)} seeds on both sides")
    parser.add_argument("--capstan", type=Path, default=ROOT / "target" / "release" / "capstan", help=argparse.SUPPRESS)
    return parser.parse_args()


# What to compare ----------------------------------------------------------------------------------------------------------


class Bench:
    """The comparisons, in the order in which they run; `runs` keeps every number."""

    def __init__(self, args):
        self.rounds, self.full = args.rounds, args.full
        data = find_data(args.data)
        python = find_python()
        if not args.capstan.exists():
            raise BenchError(f"{args.capstan} is missing: run `make build`")
        RESULTS.mkdir(parents=True, exist_ok=True)
        self.capstan, self.pytorch = Capstan(args.capstan, data), Pytorch(python, data)
        self.machine = describe_machine()
        self.runs, self.notes = {}, []

    def measure(self):
        if self.machine["load_average"] > 0.5:
            self.notes.append(f"other programs were running: load average {self.machine['load_average']:.1f} at the start")
        one_rank = ["--layout", "dp=1", "--set", 'devices=["cpu"]', "--set", f"batch.micro={GLOBAL_BATCH}", "--set", "threads_per_rank=2"]
        two_ranks = ["--layout", "dp=2", "--set", f"batch.micro={GLOBAL_BATCH // 2}", "--set", "threads_per_rank=1"]
        speed = lambda layout: lambda: self.capstan.run(SPEED_STEPS, layout)  # noqa: E731
        torch = lambda *options: lambda: self.pytorch.run(SPEED_STEPS, *options)  # noqa: E731

        say("warming up: page cache, token cache, compiled kernels")
        self.capstan.run(START_STEPS, one_rank)
        self.pytorch.run(START_STEPS, "--threads", "2")
        self.alternate("one_rank", {
            "capstan": speed(one_rank),
            "eager": torch("--threads", "2"),
            "compiled": optional(torch("--threads", "2", "--compile"), self.notes),
        })
        self.alternate("two_ranks", {"capstan": speed(two_ranks), "gloo": torch("--ddp", "2")})
        self.alternate("start", {
            "capstan": lambda: self.capstan.run(START_STEPS, one_rank),
            "eager": lambda: self.pytorch.run(START_STEPS, "--threads", "2"),
        })
        self.alternate("memory", {
            "capstan": lambda: self.capstan.run(START_STEPS, one_rank, sample_memory=True),
            "capstan_two_ranks": lambda: self.capstan.run(START_STEPS, two_ranks, sample_memory=True),
            "eager": lambda: self.pytorch.run(START_STEPS, "--threads", "2"),
            "gloo": lambda: self.pytorch.run(START_STEPS, "--ddp", "2"),
        })
        if self.full:
            self.train_fully(two_ranks)

    def alternate(self, name, sides):
        """Runs each side once a round, the first side of a round moving on by one each time; then writes what there is."""
        runs = self.runs[name] = {side: [] for side in sides}
        order = list(sides)
        for round_idx in range(self.rounds):
            for side in order:
                result = self.attempt(name, side, sides[side])
                runs[side].append(result)
                say(f"{name}, round {round_idx + 1} of {self.rounds}, {side}: {one_line(result)}")
            order = order[1:] + order[:1]
        self.write()

    def attempt(self, name, side, run):
        """One run; a failed one is repeated once and noted, since it may cost an hour's numbers."""
        try:
            return run()
        except BenchError as error:
            self.notes.append(f"a run of {name}, {side} failed and was repeated: {error}")
            say(self.notes[-1])
            return run()

    def train_fully(self, layout):
        runs = self.runs["full"] = {"capstan": [], "eager": []}
        for seed in SEEDS:
            runs["capstan"].append(self.capstan.run(FULL_STEPS, [*layout, "--set", f"seed={seed}"]))
            runs["eager"].append(self.pytorch.run(FULL_STEPS, "--threads", "2", "--seed", str(seed), "--final-eval"))
            losses = ", ".join(f"{side} {done[-1]['val_loss']:.4f}" for side, done in runs.items())
            say(f"full, seed {seed}: validation loss {losses}")
            self.write()

    def write(self):
        """Writes all numbers so far, so that a bench cut short keeps what it measured; gives the table."""
        rows = table_rows(self.runs)
        date = datetime.date.today().isoformat()
        document = {
            "date": date, "machine": self.machine, "torch": TORCH_VERSION, "capstan": self.capstan.version(),
            "config": CONFIG, "data_bytes": self.capstan.data.stat().st_size, "rounds": self.rounds,
            "notes": self.notes, "table": rows, "runs": self.runs,
        }
        text = as_markdown(document)
        (RESULTS / f"cpu-{date}.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / f"cpu-{date}.md").write_text(text)
        return text


def optional(run, notes):
    """A side that may fail (torch.compile needs a C++ compiler and Python's headers): then it is left out, and that is noted."""
    def attempt():
        try:
            return run()
        except BenchError as error:
            note = f"torch.compile failed, so the better of the two is eager: {error}"
            if note not in notes:
                notes.append(note)
            return None
    return attempt


def say(text):
    print(f"bench: {text}", flush=True)


def one_line(result):
    if result is None:
        return "failed"
    parts = [f"{result['tokens_per_sec']:,.0f} tokens/s"] if result["tokens_per_sec"] else []
    parts.append(f"first step after {result['first_step_s']:.2f} s")
    if result["peak_rss_bytes"]:
        parts.append(f"{result['peak_rss_bytes'] / 1e6:.0f} MB")
    return ", ".join(parts)


# The two sides: each run gives the same keys ------------------------------------------------------------------------------


class Capstan:
    def __init__(self, program, data):
        self.program, self.data = program, data

    def version(self):
        return subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.strip()

    def run(self, steps, layout, sample_memory=False):
        options = [
            *layout, "--set", f"data.text.path={self.data}", "--set", f"stop.steps={steps}",
            "--set", f"eval.every={NEVER}", "--set", f"checkpoint.every={NEVER}",
        ]
        return summarize_events(*run_capstan(self.program, CONFIG, options, sample_memory))


def run_capstan(program, config, options, sample_memory=False):
    """Trains `config`: its events, the seconds until the first step's event arrived, and the peak memory if that is sampled."""
    with contextlib.ExitStack() as stack:
        runs_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="capstan-bench-"))
        errors = stack.enter_context(tempfile.TemporaryFile("w+"))
        command = [program, "train", config, "--json", "--runs-dir", runs_dir, *options]
        start_unix = time.time()
        process = stack.enter_context(started(command, stdout=subprocess.PIPE, stderr=errors))
        memory = MemorySampler(process.pid, runs_dir) if sample_memory else contextlib.nullcontext()
        with memory, watchdog(process):
            first_step_s, events = read_events(process.stdout, start_unix)
        code = process.wait()
        errors.seek(0)
        if code != 0:
            raise BenchError(f"capstan ended with exit code {code}: {last_lines(errors.read())}")
        if first_step_s is None:
            raise BenchError("capstan ended without a step")
    return events, first_step_s, memory.peak_bytes() if sample_memory else None


def read_events(stream, start_unix):
    """All events, and the seconds from `start_unix` until the first step's event arrived."""
    first_step_s, events = None, []
    for line in stream:
        if first_step_s is None and '"event":"step"' in line.replace(" ", ""):
            first_step_s = time.time() - start_unix
        if line.startswith("{"):
            events.append(line)
    return first_step_s, [json.loads(line) for line in events]


def summarize_events(events, first_step_s, peak_rss_bytes):
    steps = [event for event in events if event["event"] == "step"]
    final = [event["loss"] for event in events if event["event"] == "eval" and event.get("final")]
    steady = steps[WARMUP_STEPS + 1:]
    times = [event["step_time_s"] for event in steady]
    phases = steps[0]["phases"].keys()
    return {
        "tokens_per_sec": GLOBAL_BATCH * SEQ_LEN / statistics.median(times) if times else None,
        "wall_tokens_per_sec": wall_rate(steps[WARMUP_STEPS]["time"], steps[-1]["time"], len(steady)) if steady else None,
        "step_time_s": spread(times),
        "phases_s": {phase: statistics.median(event["phases"][phase] for event in steady) for phase in phases} if steady else None,
        "first_step_s": first_step_s,
        "peak_rss_bytes": peak_rss_bytes,
        "losses": [[event["step"], event["loss"]] for event in steps if event["step"] % 100 == 1 or event is steps[-1]],
        "val_loss": final[-1] if final else None,
    }


class Pytorch:
    def __init__(self, python, data):
        self.python, self.data = python, data

    def run(self, steps, *options):
        result = run_pytorch(self.python, [
            "--data", self.data, "--steps", str(steps), "--batch", str(GLOBAL_BATCH), "--seq-len", str(SEQ_LEN), *options,
        ])
        steady = result["steady"]
        return {
            "tokens_per_sec": result["tokens_per_sec"],
            "wall_tokens_per_sec": steady and steady["tokens"] / (steady["to_unix"] - steady["from_unix"]),
            "step_time_s": result["step_time_s"],
            "phases_s": None,
            "first_step_s": result["first_step_s"],
            "peak_rss_bytes": result["peak_rss_bytes"],
            "losses": result["losses"],
            "val_loss": result["val_loss"],
        }


def run_pytorch(python, options):
    """What pytorch_lm.py reports."""
    environment = {**os.environ, "CAPSTAN_BENCH_T0": repr(time.time())}
    command = [python, PYTORCH_SCRIPT, *options]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process, watchdog(process):
        output, errors = process.communicate()
    if process.returncode != 0:
        raise BenchError(f"PyTorch ended with exit code {process.returncode}: {last_lines(errors)}")
    return json.loads(output.strip().splitlines()[-1])


@contextlib.contextmanager
def started(command, **options):
    """A child process that does not outlive the block."""
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def watchdog(process):
    timer = threading.Timer(RUN_LIMIT_S, process.terminate)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def last_lines(text):
    return " | ".join(text.strip().splitlines()[-3:]) or "no message"


def wall_rate(from_unix, to_unix, n_steps):
    return n_steps * GLOBAL_BATCH * SEQ_LEN / (to_unix - from_unix)


def spread(values):
    if not values:
        return None
    deciles = statistics.quantiles(values, n=10) if len(values) > 1 else [values[0]] * 9
    return {"median": statistics.median(values), "p10": deciles[0], "p90": deciles[-1], "n": len(values)}


class MemorySampler:
    """Peak resident memory of a process, its descendants, and every process whose command line names `marker`, and theirs.

    The sum of each process's own peak (VmHWM), read every 20 ms until it is gone. Scanning /proc takes time from the run: a run
    that is sampled is not timed.
    """

    INTERVAL_S = 0.02

    def __init__(self, pid, marker):
        self.pid, self.marker = pid, marker.encode()
        self.peaks = {}  # the latest reading: it only grows, and starts again when a fork becomes another program
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.sample_until_done)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def peak_bytes(self):
        return sum(self.peaks.values())

    def sample_until_done(self):
        while not self.done.wait(self.INTERVAL_S):
            self.sample()

    def sample(self):
        parents, members = {}, {self.pid}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, IndexError, ValueError):
                pid = int(entry.name)
                parents[pid] = int(read_proc(pid, "stat").rsplit(b")", 1)[1].split()[1])
                if self.marker in read_proc(pid, "cmdline"):
                    members.add(pid)
        grew = True
        while grew:
            children = {pid for pid, parent in parents.items() if parent in members} - members
            members |= children
            grew = bool(children)
        for pid in members - {os.getpid()}:
            with contextlib.suppress(OSError, StopIteration):
                line = next(line for line in read_proc(pid, "status").splitlines() if line.startswith(b"VmHWM"))
                self.peaks[pid] = int(line.split()[1]) * 1024


def read_proc(pid, name):
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


# The table ----------------------------------------------------------------------------------------------------------------


def table_rows(runs):
    rows = []
    if "one_rank" in runs and "two_ranks" in runs:
        rows += speed_rows(runs["one_rank"], runs["two_ranks"])
    if "start" in runs:
        start = runs["start"]
        rows.append(compare("seconds to the first step", start["capstan"], start["eager"], "eager", "first_step_s", at_most=1 / 3))
    if "memory" in runs:
        memory, key = runs["memory"], "peak_rss_bytes"
        rows += [
            compare("peak memory, one rank, bytes", memory["capstan"], memory["eager"], "eager", key, at_most=0.6),
            compare("peak memory, two ranks, bytes", memory["capstan_two_ranks"], memory["gloo"], "DDP, gloo", key, at_most=0.6),
        ]
    if "full" in runs:
        rows += full_rows(runs["full"])
    return rows


def speed_rows(one, two):
    better = "compiled" if median_of(one["compiled"], "tokens_per_sec", 0) > median_of(one["eager"], "tokens_per_sec", 0) else "eager"
    return [
        compare("tokens/s, one rank of 2 threads", one["capstan"], one[better], better, "tokens_per_sec", at_least=1.05),
        compare("tokens/s, two ranks of 1 thread", two["capstan"], two["gloo"], "DDP, gloo", "tokens_per_sec", at_least=1.1),
        compare("tokens/s by the wall clock, one rank", one["capstan"], one[better], better, "wall_tokens_per_sec"),
        compare("tokens/s by the wall clock, two ranks", two["capstan"], two["gloo"], "DDP, gloo", "wall_tokens_per_sec"),
    ]


def compare(what, ours, theirs, side, key, at_least=None, at_most=None):
    """The ratio capstan / PyTorch of `key` within each round: a row of the table, with its target."""
    pairs = [(a[key], b[key]) for a, b in zip(ours, theirs) if a and b and a[key] and b[key]]
    if not pairs:
        return {"what": what, "against": side, "ratio": None, "target": None, "met": None}
    ratios = [a / b for a, b in pairs]
    ratio = statistics.median(ratios)
    target, met = None, None
    if at_least is not None:
        target, met = f">= {at_least:.2f}", ratio >= at_least
    if at_most is not None:
        target, met = f"<= {at_most:.2f}", ratio <= at_most
    return {
        "what": what, "against": side,
        "capstan": statistics.median(a for a, _ in pairs), "pytorch": statistics.median(b for _, b in pairs),
        "ratio": ratio, "ratio_min": min(ratios), "ratio_max": max(ratios), "target": target, "met": met,
    }


def full_rows(full):
    ours, theirs = ([run["val_loss"] for run in full[side]] for side in ("capstan", "eager"))
    if None in ours:
        raise BenchError("capstan gave no final evaluation")
    difference = statistics.mean(ours) - statistics.mean(theirs)
    common = {"against": f"eager, {len(ours)} seeds", "ratio": None}
    return [
        {**common, "what": "validation loss, the worst", "capstan": max(ours), "pytorch": max(theirs),
         "target": "<= 1.93", "met": max(ours) <= 1.93},
        {**common, "what": "validation loss, mean", "capstan": statistics.mean(ours), "pytorch": statistics.mean(theirs),
         "difference": difference, "target": "within 0.02", "met": abs(difference) <= 0.02},
    ]


def median_of(runs, key, default):
    values = [run[key] for run in runs if run and run[key]]
    return statistics.median(values) if values else default


def as_markdown(document):
    machine = document["machine"]
    lines = [
        f"# capstan against PyTorch {document['torch']}, {document['date']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}. "
        f"{document['capstan']} at {machine['commit']}.",
        f"`{document['config']}`, text of {document['data_bytes']:,} bytes; rounds: {document['rounds']}, A B A B; "
        "medians; the ratio is capstan / PyTorch within a round, with its smallest and largest value.",
        "Page cache and capstan's token cache are warm. Memory is the sum of the processes' peaks.",
        "",
        "| | capstan | PyTorch | against | ratio | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [as_row(row) for row in document["table"]]
    if document["notes"]:
        lines += ["", *(f"- {note}" for note in document["notes"])]
    return "\n".join(lines) + "\n"


def as_row(row):
    if "capstan" not in row:
        return f"| {row['what']} | | | {row['against']} | not measured | | |"
    if row["ratio"] is not None:
        ratio = f"**{row['ratio']:.2f}** ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    else:
        ratio = f"{row['difference']:+.4f}" if "difference" in row else ""
    verdict = {True: "met", False: "MISSED", None: ""}[row["met"]]
    cells = [row["what"], number(row["capstan"]), number(row["pytorch"]), row["against"], ratio, row["target"] or "", verdict]
    return f"| {' | '.join(cells)} |"


def number(value):
    if value >= 1e6:
        return f"{value / 1e6:,.0f} M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"


# Surroundings -------------------------------------------------------------------------------------------------------------


def find_data(given):
    named = given or os.environ.get("CAPSTAN_BENCH_TEXT")
    path = Path(named) if named else ROOT.parent / "shared" / "data" / "text" / "tinyshakespeare.txt"
    if not path.is_file():
        missing = f"{path} is no file" if named else "no text to train on"
        raise BenchError(f"{missing}: give a UTF-8 text of about a megabyte (nanoGPT's is tinyshakespeare) "
                         'with `make bench ARGS="--data FILE"` or CAPSTAN_BENCH_TEXT=FILE')
    return path.resolve()


def find_python():
    """A Python with the right PyTorch: the one named by the user, else a virtual environment in the cache folder."""
    named = os.environ.get("CAPSTAN_BENCH_PYTHON")
    if named:
        return check_torch(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "capstan"
    venv = cache / f"bench-venv-torch-{TORCH_VERSION}"
    if not (venv / "complete").exists():
        make_venv(venv)
    return check_torch(venv / "bin" / "python")


def make_venv(venv):
    venv.parent.mkdir(parents=True, exist_ok=True)
    if sys.version_info < (3, 10):
        raise BenchError("PyTorch 2.11 needs Python 3.10 or later: run benches/bench.py with one, or set CAPSTAN_BENCH_PYTHON")
    if shutil.disk_usage(venv.parent).free < VENV_DISK_BYTES:
        raise BenchError(f"PyTorch needs {VENV_DISK_BYTES / 1e9:.0f} GB in {venv.parent}: free some, "
                         "or set CAPSTAN_BENCH_PYTHON to a Python that has it")
    say(f"installing PyTorch {TORCH_VERSION} into {venv}: 2.7 GB to download, 5 GB unpacked, once")
    for command in (
        [sys.executable, "-m", "venv", "--clear", venv],
        [venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", f"torch=={TORCH_VERSION}", "numpy"],
    ):
        if subprocess.run(command).returncode != 0:
            raise BenchError("PyTorch could not be installed: see above, or set CAPSTAN_BENCH_PYTHON to a Python that has it")
    (venv / "complete").touch()


def check_torch(python):
    try:
        found = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    except OSError as error:
        raise BenchError(f"{python} can't be run: {error}") from error
    if found.stdout.strip().split("+")[0] != TORCH_VERSION:
        raise BenchError(f"{python} has no PyTorch {TORCH_VERSION}: {found.stdout.strip() or last_lines(found.stderr)}")
    return python


def describe_machine():
    def first(path, key):
        with open(path) as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(key)), "unknown")

    def git(*command):
        with contextlib.suppress(OSError):  # a bundle's machine may have none
            return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        return ""

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "cpu": first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(first("/proc/meminfo", "MemTotal").split()[0]) * 1024,
        "system": f"Linux {platform.release().split('-')[0]}",
        "commit": (git("rev-parse", "--short", "HEAD") or "no commit") + changed,
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
