"""What the terminal UI costs a run that it watches: throughput with and without it, in turn, and the UI's own processor time.

Trains the same job again and again, every other time with `capstan tui` attached on a pseudo-terminal of 160x50, and compares the
medians of the steps' tokens per second. On CPU ranks the machine's noise is larger than the cost, so there the UI's own seconds
count; on a GPU the ratio does (`make gpu-check` runs it with --devices '[0]' --at-least 0.995).
"""

import argparse
import fcntl
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import bench
from bench import BenchError, say

COLUMNS, ROWS = 160, 50
NAME = "watched"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternations of watched and unwatched")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--devices", default='["cpu","cpu"]', help="the config's devices, JSON")
    parser.add_argument("--at-least", type=float, help="fail below this ratio of throughputs")
    parser.add_argument("--capstan", type=Path, default=bench.ROOT / "target" / "release" / "capstan", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        found = measured(args)
    except BenchError as error:
        sys.exit(f"ui: {error}")
    say(json.dumps(found))
    if args.at_least is not None and found["ratio"] < args.at_least:
        sys.exit(f"ui: with the UI attached {found['ratio']:.4f} of the throughput without it, {args.at_least} wanted")


def measured(args):
    """Medians of both sides over all rounds, their ratio, and the UI's share of a core."""
    rates, shares = {False: [], True: []}, []
    for index in range(args.rounds):
        for is_watched in (False, True):
            with tempfile.TemporaryDirectory(prefix="capstan-bench-") as runs_dir:
                rate, share = one_run(args, runs_dir, is_watched)
            say(f"   round {index + 1}, {'watched' if is_watched else 'alone'}: {rate:.0f} tok/s")
            rates[is_watched].append(rate)
            shares += [share] if is_watched else []
    alone, watched = statistics.median(rates[False]), statistics.median(rates[True])
    return {
        "devices": json.loads(args.devices), "steps": args.steps, "alone_tokens_per_sec": rates[False],
        "watched_tokens_per_sec": rates[True], "ratio": watched / alone, "ui_cpu_share": statistics.median(shares),
    }


def one_run(args, runs_dir, is_watched):
    """The steady steps' median of tokens per second, and the UI's processor seconds a second."""
    start = [
        args.capstan, "train", "configs/hello.json", "--name", NAME, "--detach", "--runs-dir", runs_dir,
        "--set", f"devices={args.devices}", "--set", f"stop.steps={args.steps}", "--set", f"eval.every={bench.NEVER}",
        "--set", "eval.at_start=false", "--set", f"checkpoint.every={bench.NEVER}",
    ]
    begun = subprocess.run(start, cwd=bench.ROOT, capture_output=True, text=True)
    if begun.returncode != 0:
        raise BenchError(f"the run does not start: {bench.last_lines(begun.stderr)}")
    events = Path(runs_dir) / NAME / "events.jsonl"
    viewer = Viewer(args.capstan, runs_dir) if is_watched else None
    try:
        steps = wait_for_end(events)
    finally:
        share = viewer.leave() if viewer else None
    steady = steps[bench.WARMUP_STEPS:]
    if len(steady) < bench.WARMUP_STEPS:
        raise BenchError(f"{len(steps)} steps are too few")
    return statistics.median(step["tokens_per_sec"] for step in steady), share


def wait_for_end(events):
    """The step events of a run that has completed."""
    until = time.monotonic() + bench.RUN_LIMIT_S
    while time.monotonic() < until:
        text = events.read_text() if events.exists() else ""
        records = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        ended = [record for record in records if record["event"] == "ended"]
        if ended:
            if ended[0]["outcome"] != "completed":
                raise BenchError(f"the run {ended[0]['outcome']}: {ended[0]['reason']}")
            return [record for record in records if record["event"] == "step"]
        time.sleep(0.5)
    raise BenchError("the run does not end")


class Viewer:
    """`capstan tui` on a pseudo-terminal that somebody reads."""

    def __init__(self, capstan, runs_dir):
        self.began = time.monotonic()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(capstan, [capstan, "tui", "--run", NAME, "--runs-dir", runs_dir])
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.n_bytes = 0
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while True:
            try:
                self.n_bytes += len(os.read(self.terminal, 65536))
            except OSError:
                return

    def leave(self):
        """Presses q; returns processor seconds a second."""
        if self.n_bytes == 0:
            raise BenchError("the UI drew nothing")
        os.write(self.terminal, b"q")
        _, status, usage = os.wait4(self.pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise BenchError("the UI failed")
        return (usage.ru_utime + usage.ru_stime) / (time.monotonic() - self.began)


if __name__ == "__main__":
    main()
