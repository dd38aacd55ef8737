"""`make gpu-check`: what can only be checked on an NVIDIA GPU, the most telling first. It runs on a build machine and in an unpacked bundle.

    make gpu-check ARGS="--budget 9m"
    scripts/gpu-check.sh --budget 9m --results /mnt/results     in the folder of a bundle (`make gpu-bundle`)

Every step's result is written as soon as it is there: steps/NN-name.json, then summary.json and index.html over all so far, and
logs/ of what failed, all in the folder of results (benches/results/gpu-CARD-DATE unless --results names another).
A step that no longer fits the budget is skipped, one that is over its own limit is cut, and what it had started ends with it.
"""

import argparse
import collections
import dataclasses
import datetime
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import bench
import gpu_check_machine as machine
import gpu_check_speed as speed
import gpu_check_training as training
from gpu_check_page import as_html
from gpu_check_place import Place, cards, has_gpu, prepare
from gpu_check_runner import (
    DIFFERENT, EXIT_CODES, INTERRUPTED, MISSING, PASSED, Budget, Refusal, Report, Runner, Step, StepFailed, chosen, exit_code, in_words,
    parse_duration, say, write_whole,
)

# In order of value: what comes later means little where an earlier one fails. Limits are for a card; the stand-in is slower
# and its models are smaller.
STEPS = (
    Step("machine", "driver, loader's cache, doctor", machine.machine, 5, 240, MISSING),
    Step("self-test", "streams, events, NCCL with a world of one", machine.self_test, 5, 120, MISSING),
    Step("hello-fp32", "hello in fp32, losses against the CPU's", training.hello_fp32, 15, 180),
    Step("hello-bf16", "hello in bf16: as it is, built-ins preloaded, without cuDNN's attention", training.hello_bf16, 20, 240),
    Step("gpt2-124m", "GPT-2 124M: a round of capstan, eager, compiled", speed.round_of("gpt2-124m"), 45, 480),
    Step("kernels", "kernel times of one micro-batch", speed.kernels, 20, 180),
    Step("parity", "two ranks on the card against one", training.parity, 25, 300, DIFFERENT),
    Step("sanitizer", "three steps under compute-sanitizer", training.sanitizer, 30, 300),
    Step("memory", "memory at two micro-batches and at an absurd one", training.memory, 30, 300),
    Step("resume", "kill -9, and on from the checkpoint", training.resume, 20, 240),
    Step("sensors", "sensors against nvidia-smi", machine.sensors, 45, 150, DIFFERENT),
    Step("parity-cards", "ranks on cards of their own, over NCCL, against one", training.parity_cards, 40, 600, DIFFERENT),
    Step("gpt2-350m", "GPT-2 350M: a round of capstan, eager, compiled", speed.round_of("gpt2-350m"), 60, 600),
    Step("llama-1b", "Llama 1B: a round of capstan, eager, compiled", speed.round_of("llama-1b"), 60, 720),
    Step("recompute", "the same with every layer computed again", speed.with_recompute, 120, 1800),
    Step("parity-more", "every other split on the card against one rank", training.parity_more, 60, 900, DIFFERENT),
    Step("ui", "throughput with the terminal UI and without", speed.ui, 60, 400),
    Step("more-rounds", "further rounds of each comparison", speed.more_rounds, 90, 7200),
)


@dataclasses.dataclass
class Context:
    """What a step is called with."""

    place: Place
    step: Step
    report: Report
    budget: Budget
    results: list


def main():
    options = parse_args()
    if options.list:
        print("\n".join(f"{step.name:<13} {step.title}" for step in STEPS))
        return PASSED
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        steps = chosen(STEPS, options.only, options.begin)
        if not options.simulated and not has_gpu():
            say("no GPU: nothing checked")
            return PASSED
        with tempfile.TemporaryDirectory(prefix="capstan-gpu-check-") as scratch:
            return check(options, steps, Path(scratch))
    except Refusal as refusal:
        print(f"gpu-check: error: {refusal}", file=sys.stderr)
        return refusal.code
    except KeyboardInterrupt:
        say("interrupted before the first step")
        return INTERRUPTED


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--budget", type=duration, default=None, metavar="TIME", help="wall-clock time for all steps: 9m, 90s, 1h30m (default: none)")
    add("--results", type=Path, metavar="DIR", help="folder for what is found (default: benches/results/gpu-CARD-DATE)")
    add("--only", type=lambda text: text.split(","), metavar="STEP,…", help="these steps alone")
    add("--from", dest="begin", metavar="STEP", help="this step and those after it")
    add("--rounds", type=int, default=3, help="rounds of each comparison with PyTorch, the first in its step, the others at the end")
    add("--python", metavar="PROGRAM", help="a Python with PyTorch 2.11 (default: CAPSTAN_BENCH_PYTHON, else the one that runs this)")
    add("--simulated", type=lambda text: Path(text).resolve(), metavar="DIR", help="the tests' stand-ins for CUDA, NCCL and NVML instead of a card")
    add("--list", action="store_true", help="print the steps")
    return parser.parse_args()


def duration(text):
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def check(options, steps, scratch):
    """Runs the steps and gives the exit code. The budget begins here."""
    budget = Budget(options.budget)
    place = prepare(options, scratch)
    card = card_name(place)
    place.results = (options.results or bench.RESULTS / f"gpu-{slug(card)}-{datetime.date.today()}").resolve()
    runner = Runner(place.results, budget, STEPS, f"{place.build['commit']} on {card}")
    summarize = lambda code=None: write_summary(runner, place, card, code)  # noqa: E731
    code = None
    try:
        runner.run(steps, lambda step, report: Context(place, step, report, budget, runner.all_results()), summarize)
    except KeyboardInterrupt:
        code = INTERRUPTED
        say("interrupted")
    summary = summarize(code)
    tell(summary)
    say(f"{place.results}/index.html and summary.json")
    return summary["exit_code"]


def card_name(place):
    """The cards in words. The first step says what is wrong where there is none."""
    try:
        names = collections.Counter(card["name"] for card in cards(place))
    except StepFailed:
        names = {}
    words = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in names.items())
    return (words or "no card that capstan can use") + (" (simulated)" if place.simulated else "")


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write_summary(runner, place, card, code):
    counts = collections.Counter(result["status"] for result in runner.all_results())
    version = subprocess.run([place.capstan, "--version"], capture_output=True, text=True).stdout.strip()
    summary = {
        "date": datetime.date.today().isoformat(), "card": card, "simulated": bool(place.simulated),
        "exit_code": exit_code(runner.all_results()) if code is None else code,
        "counts": {name: counts[name] for name in ("passed", "failed", "skipped")},
        "seconds": round(sum(result["seconds"] for result in runner.all_results()), 1),
        "budget": "none" if runner.budget.total_s is None else in_words(runner.budget.total_s),
        "machine": bench.describe_machine(), "torch": place.torch, "capstan": version, "commit": place.build["commit"], "steps": runner.all_results(),
    }
    write_whole(place.results / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_whole(place.results / "index.html", as_html(summary))
    return summary


def tell(summary):
    """The last lines: what failed, what was skipped and why, and how it ended."""
    for status in ("skipped", "failed"):
        for step in summary["steps"]:
            if step["status"] == status:
                say(f"{status}{' earlier' * step.get('earlier', False)}: {step['name']}: {in_short(step)}")
    counts = summary["counts"]
    say(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped in {in_words(summary['seconds'])}; exit code {summary['exit_code']}")


def in_short(step):
    """Why a step was skipped, or its first failure and how many more there are."""
    if step["status"] == "skipped":
        return step["line"]
    first, *more = (failure["text"] for failure in step["failures"])
    return first + (f" (and {len(more)} more)" if more else "")


if __name__ == "__main__":
    sys.exit(main())
