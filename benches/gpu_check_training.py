"""The steps of `make gpu-check` that train: hello in fp32 and bf16, every split on the card, memory, compute-sanitizer, a killed worker.

Numbers are compared step by step with the CPU's or one rank's, and each comparison shows that it would notice another seed.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import bench
from gpu_check_place import cards
from gpu_check_runner import DIFFERENT, FAILED, StepFailed, StepSkipped, complaint, descendants

HELLO, GPT2 = "configs/hello.json", "configs/gpt2-124m.json"
# Relative differences of fp32 losses, at a learning rate where rounding does not grow: at the first step, and over all steps.
FIRST_STEP_TOLERANCE, LATER_TOLERANCE = 1e-5, 1e-4
# The same of bf16 against fp32: what bf16 costs by its 8 bits, and less than ten times the learning rate, the planted fault, makes.
BF16_FIRST_STEP_TOLERANCE, BF16_LATER_TOLERANCE = 2e-3, 1e-2

# Name, layout, ranks, sequences of a forward pass, which the global batch of 12 has to be a multiple of.
SPLITS = (
    ("dp=2", 2, 6), ("dp=2,zero=3", 2, 6), ("tp=2,sequence_parallel=true", 2, 12), ("pp=2", 2, 3), ("dp=2,recompute=full", 2, 6),
)
MORE_SPLITS = (
    ("dp=2,zero=1", 2, 6), ("dp=2,zero=2", 2, 6), ("dp=2,primary=true", 2, 6), ("tp=2", 2, 12), ("dp=1,recompute=selective", 1, 12),
    ("pp=2,schedule=gpipe", 2, 3), ("pp=2,schedule=interleaved,virtual_stages=2", 2, 3),
    ("dp=4,zero=3", 4, 3), ("tp=4", 4, 12), ("pp=4", 4, 3), ("pp=2,tp=2", 4, 3), ("dp=2,tp=2", 4, 6),
)


# One run ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Run:
    """What a run of capstan said; `code` is its exit code, and None where it was ended at the wanted step."""

    events: list
    code: int | None
    stderr: str
    first_step_s: float | None

    def named(self, name):
        return [event for event in self.events if event["event"] == name]

    @property
    def steps(self):
        return self.named("step")

    @property
    def losses(self):
        return [float(step["loss"]) for step in self.steps]

    def reason(self):
        """Why it ended, in capstan's words."""
        ended = self.named("ended")
        return ended[-1]["reason"] if ended else complaint(self.stderr)


def train(ctx, config, layout, settings, stop_at=None, environment=None, on_step=None, may_fail=False):
    """Trains `config` with settings by key; with `stop_at` the run is killed at that step, so that no checkpoint is written.

    Raises StepFailed where it ends otherwise than wanted; its log and events then lie in the folder of logs.
    """
    place = ctx.place
    name = f"run-{time.monotonic_ns()}"
    command = [place.capstan, "train", config, "--json", "--name", name, "--layout", layout]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value, default=str)}"]
    began = time.time()
    with open(place.scratch / "stderr.txt", "w+") as errors:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=bench.ROOT, env={**place.environment, **(environment or {})}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        )
        run = Run([], None, "", None)
        is_ended = follow(ctx, process, name, run, stop_at, on_step, began)
        code = process.wait()
        errors.seek(0)
        run.stderr = errors.read()
    run.code = None if is_ended else code
    folder = place.scratch / "runs" / name
    is_sound = run.steps and (run.code == 0 or is_ended)
    if not is_sound and not may_fail:
        kept = keep_logs(ctx, folder)
        raise StepFailed(f"capstan ended with exit code {code}: {run.reason()} (logs in {kept})", FAILED)
    shutil.rmtree(folder, ignore_errors=True)
    return run


def follow(ctx, process, name, run, stop_at, on_step, began):
    """Reads a run's events to the end, and kills it at step `stop_at`; whether it came to that."""
    is_ended = False
    for line in process.stdout:
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        if is_ended and event["event"] == "step":
            continue
        run.events.append(event)
        if event["event"] != "step":
            continue
        if run.first_step_s is None:
            run.first_step_s = time.time() - began
        if on_step:
            on_step(event, run)
        if stop_at is not None and event["step"] >= stop_at:
            is_ended = True
            ctx.place.run([ctx.place.capstan, "kill", name])
    return is_ended


def keep_logs(ctx, folder):
    """Copies what explains a failed run into the results; gives the folder's name there."""
    kept = ctx.place.results / "logs" / f"{ctx.step.name}-{folder.name}"
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("events.jsonl", "worker.log", "config.json", "plan.json"):
        with contextlib.suppress(OSError):
            shutil.copy(folder / name, kept / name)
    return kept.relative_to(ctx.place.results)


def hello(ctx, devices, layout="dp=1", micro=12, **changes):
    """hello on the given devices, a dozen sequences a step: comparable under every split."""
    settings = {
        "devices": devices, "batch.global": 12, "batch.micro": micro, "stop.steps": ctx.place.n_parity_steps, "optimizer.adamw.lr": 1e-4,
        "schedule": {"constant": {}}, "precision": "fp32", "sample": None, "eval.every": bench.NEVER, "eval.at_start": False,
        "checkpoint.every": bench.NEVER, "restart.max": 0, "restart.hang_after_s": 60,
    }
    environment = changes.pop("environment", None)
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return train(ctx, HELLO, layout, settings, stop_at=ctx.place.n_parity_steps, environment=environment)


# Parity -------------------------------------------------------------------------------------------------------------------


def differences(ours, theirs):
    """Relative differences of two runs' losses, step by step; infinite where one is NaN. Raises StepFailed where steps are missing."""
    if not ours or len(ours) != len(theirs):
        raise StepFailed(f"as many steps expected of both runs, {len(ours)} and {len(theirs)} seen")
    return [abs(a - b) / abs(b) if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in zip(ours, theirs)]


def holds(apart, first=FIRST_STEP_TOLERANCE, later=LATER_TOLERANCE):
    return apart[0] <= first and max(apart) <= later


def compare(report, table, what, ours, theirs, first=FIRST_STEP_TOLERANCE, later=LATER_TOLERANCE):
    """A row of the table, and a failure where the losses differ by more than the tolerances."""
    apart = differences(ours, theirs)
    is_same = holds(apart, first, later)
    report.row(table, run=what, at_step_1=apart[0], over_all=max(apart), within=f"{first:.0e}, {later:.0e}", same=is_same)
    if not is_same:
        report.fail(f"{what}: losses differ by {apart[0]:.1e} at step 1 and {max(apart):.1e} over {len(apart)} steps", DIFFERENT)
    return is_same


def expect_noticed(report, what, ours, theirs, first=FIRST_STEP_TOLERANCE, later=LATER_TOLERANCE):
    """That the comparison notices a run that is different on purpose."""
    if holds(differences(ours, theirs), first, later):
        report.fail(f"the comparison does not notice {what}: it checks nothing", DIFFERENT)


def hello_fp32(ctx):
    """fp32 on the card against the CPU."""
    report = ctx.report
    on_card, on_cpu = hello(ctx, [0]), hello(ctx, ["cpu"])
    report.fact("losses", {"card": on_card.losses, "cpu": on_cpu.losses})
    report.fact("first_step_s", on_card.first_step_s)
    is_same = compare(report, "fp32", "card against CPU", on_card.losses, on_cpu.losses)
    expect_noticed(report, "another seed", hello(ctx, [0], seed=1338).losses, on_cpu.losses)
    report.line(f"losses of the card are the CPU's; first step after {on_card.first_step_s:.1f} s" if is_same else "losses differ")


def hello_bf16(ctx):
    """bf16 as it is, with NVRTC's built-ins preloaded, and without cuDNN's attention, against fp32."""
    report = ctx.report
    fp32 = hello(ctx, [0]).losses
    builtins = nvrtc_builtins(ctx.place)
    variants = [("as it is", {})]
    variants += [("NVRTC's built-ins preloaded", {"environment": {"LD_PRELOAD": str(builtins)}})] if builtins else []
    variants += [("attention by flash", {"attention": "flash"}), ("attention by math", {"attention": "math"})]
    if not builtins:
        report.note("no libnvrtc-builtins beside this Python's torch, so nothing is preloaded")
    sound = [what for what, changes in variants if bf16_variant(ctx, what, changes, fp32)]
    if sound and "as it is" not in sound:
        report.note(f"bf16 fails as it is and works with: {', '.join(sound)}")
    expect_noticed(
        report, "ten times the learning rate", hello(ctx, [0], precision="bf16", optimizer__adamw__lr=1e-3).losses, fp32,
        BF16_FIRST_STEP_TOLERANCE, BF16_LATER_TOLERANCE,
    )
    report.line(f"{len(sound)} of {len(variants)} ways give fp32's losses within bf16's rounding")


def bf16_variant(ctx, what, changes, fp32):
    """Whether hello in bf16 trains this way, with losses near fp32's."""
    try:
        run = hello(ctx, [0], precision="bf16", **changes)
    except StepFailed as failure:
        ctx.report.fail(f"{what}: {failure}", failure.code)
        return False
    return compare(ctx.report, "bf16", what, run.losses, fp32, BF16_FIRST_STEP_TOLERANCE, BF16_LATER_TOLERANCE)


def nvrtc_builtins(place):
    """NVRTC's built-ins as pip laid them beside torch."""
    found = sorted(place.site_packages.glob("nvidia/cu13/lib/libnvrtc-builtins.so.*")) if place.site_packages else []
    return found[0] if found else None


def parity(ctx):
    """Two ranks on the card against one."""
    splits_against_one_rank(ctx, SPLITS, lambda n_ranks: [0] * n_ranks)


def parity_more(ctx):
    """Every other split, over two and four ranks on the card, against one."""
    splits_against_one_rank(ctx, MORE_SPLITS, lambda n_ranks: [0] * n_ranks)


def parity_cards(ctx):
    """Ranks on cards of their own, over NCCL, against one."""
    n_cards = len(cards(ctx.place))
    if n_cards < 2:
        raise StepSkipped("there is one card: NCCL between cards needs two")
    fitting = [split for split in (*SPLITS, *MORE_SPLITS) if 2 <= split[1] <= n_cards]
    splits_against_one_rank(ctx, fitting, lambda n_ranks: list(range(n_ranks)))


def splits_against_one_rank(ctx, splits, devices_of):
    one_rank = hello(ctx, [0]).losses
    n_same = 0
    for layout, n_ranks, micro in splits:
        try:
            losses = hello(ctx, devices_of(n_ranks), layout, micro).losses
        except StepFailed as failure:
            ctx.report.fail(f"{layout}: {failure}", failure.code)
            continue
        n_same += compare(ctx.report, "splits", layout, losses, one_rank)
    expect_noticed(ctx.report, "another seed", hello(ctx, [0], seed=1338).losses, one_rank)
    ctx.report.line(f"{n_same} of {len(splits)} splits give one rank's losses")


# Tools --------------------------------------------------------------------------------------------------------------------


def wrapped_worker(ctx, tool, *arguments):
    """The environment in which capstan starts its worker under a tool. Beside the worker, where it finds libtorch."""
    program = ctx.place.scratch / f"worker-under-{Path(tool).name}"
    words = " ".join(f"'{word}'" for word in (tool, *arguments, ctx.place.worker))
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    return {"CAPSTAN_WORKER": str(program), "LIBTORCH": str(ctx.place.capstan.parent.parent / "libtorch")}


def find_tool(place, name):
    """A tool of CUDA's: on PATH, in a toolkit, or as pip lays it. Raises StepSkipped where it is nowhere."""
    folders = [*place.environment["PATH"].split(":"), "/usr/local/cuda/bin", "/opt/nvidia/nsight-compute", "/opt/nvidia/nsight-systems/bin"]
    folders += [str(folder) for folder in (place.site_packages or Path("/nowhere")).glob("nvidia/cu13/bin")]
    found = shutil.which(name, path=":".join(folders))
    if not found:
        raise StepSkipped(f"{name} is not installed: it comes with the CUDA toolkit")
    return found


def sanitizer(ctx):
    """Three steps under compute-sanitizer: no access outside of an allocation, no leak of an error."""
    ctx.place.only_on_a_card("memory that compute-sanitizer could watch")
    tool = find_tool(ctx.place, "compute-sanitizer")
    log = ctx.place.results / "logs" / "compute-sanitizer.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = wrapped_worker(ctx, tool, "--tool", "memcheck", "--target-processes", "all", "--log-file", log)
    settings = {
        "devices": [0], "stop.steps": 3, "batch.global": 2, "batch.micro": 1, "precision": "bf16", "sample": None,
        "eval.every": bench.NEVER, "eval.at_start": False, "checkpoint.every": bench.NEVER, "restart.max": 0,
        "restart.hang_after_s": 600,
    }
    run = train(ctx, HELLO, "dp=1", settings, environment=environment)
    said = log.read_text(errors="replace") if log.exists() else ""
    errors = [line for line in said.splitlines() if "ERROR SUMMARY" in line]
    if not errors:
        raise StepFailed("compute-sanitizer gave no summary")
    for line in errors:
        if "0 errors" not in line:
            ctx.report.fail(f"compute-sanitizer: {line.strip('= ')} (logs/{log.name})")
    ctx.report.line(f"{len(run.steps)} steps: {errors[-1].strip('= ')}")


# Memory -------------------------------------------------------------------------------------------------------------------


def memory(ctx):
    """Peaks at two micro-batches beside the plan's, and a micro-batch that no card holds: the run has to end with words that help."""
    config, settings, micro = memory_job(ctx.place)
    peaks = []
    for sequences in (micro, 2 * micro):
        own = {**settings, "batch.global": sequences, "batch.micro": sequences}
        planned = plan_of(ctx, config, own)["memory"]
        run = train(ctx, config, "dp=1", {**own, "stop.steps": bench.NEVER}, stop_at=3)
        rank = run.steps[-1]["ranks"][0]
        peaks.append(rank.get("memory_peak_bytes") or 0)
        ctx.report.row(
            "memory", micro_batch=sequences, tensors_peak_GiB=peaks[-1] / 2**30, at_step_end_GiB=(rank.get("memory_bytes") or 0) / 2**30,
            planned_GiB=sum(planned.values()) / 2**30,
        )
    if not 0 < peaks[0] < peaks[1]:
        ctx.report.fail(f"twice the micro-batch takes no more memory: {peaks}")
    too_much(ctx, config, settings)
    ctx.report.line(f"{(peaks[1] - peaks[0]) / micro / 2**20:.0f} MiB per sequence; too much is refused in words")


def memory_job(place):
    """Config, settings and micro-batch: GPT-2 124M on a card, hello on the stand-in."""
    common = {
        "devices": [0], "sample": None, "eval.every": bench.NEVER, "eval.at_start": False, "checkpoint.every": bench.NEVER,
        "precision": "bf16", "data": {"builtin": "hello"},
    }
    if place.simulated:
        return HELLO, common, 2
    return GPT2, {**common, "model.gpt.vocab_size": 50304}, 4


def too_much(ctx, config, settings):
    """A micro-batch that no card holds is refused by the plan, or ends the run at once, and the words name what to change."""
    sequences = 1024 if ctx.place.simulated else 8192
    environment = {"SIMGPU_MEMORY_MB": "256"} if ctx.place.simulated else {}
    own = {**settings, "batch.global": sequences, "batch.micro": sequences, "stop.steps": 10}
    run = train(ctx, config, "dp=1", own, environment=environment, may_fail=True)
    said = f"{run.reason()} {run.stderr}"
    ctx.report.row("too much", micro_batch=sequences, exit_code=run.code, restarts=len(run.named("restart")), words=run.reason())
    if run.code not in (1, 3):
        ctx.report.fail(f"a micro-batch of {sequences} ends with exit code {run.code}, not with 1 or 3")
    if run.named("restart"):
        ctx.report.fail(f"too little memory at the first step is tried again {len(run.named('restart'))} times")
    if "memory" not in said or "batch.micro" not in said:
        ctx.report.fail(f"the words name neither memory nor batch.micro: {run.reason()}")


def plan_of(ctx, config, settings):
    command = [ctx.place.capstan, "train", config, "--dry-run", "--json", "--layout", "dp=1"]
    for key, value in {**settings, "stop.steps": 10}.items():
        command += ["--set", f"{key}={json.dumps(value, default=str)}"]
    said = ctx.place.run(command, 120)
    if said.returncode != 0:
        raise StepFailed(f"the plan is refused: {complaint(said.stderr)}")
    return json.loads(said.stdout)["plan"]


# A killed worker ----------------------------------------------------------------------------------------------------------


def resume(ctx):
    """kill -9 on the worker in mid-run: the run goes on from its checkpoint, and ends with the bits of a run that nobody killed."""
    every = 10 if ctx.place.simulated else 200
    settings = {
        "devices": [0], "batch.global": 12, "batch.micro": 12, "stop.steps": 5 * every, "precision": "fp32", "deterministic": True,
        "sample": None, "eval.every": bench.NEVER, "eval.at_start": False, "checkpoint.every": every,
    }
    whole = train(ctx, HELLO, "dp=1", settings)
    killed = []

    def kill(event, run):
        if event["step"] > 2 * every + every // 2 and not killed:
            killed.extend(kill_worker(run.named("run")[-1]["pid"]))

    again = train(ctx, HELLO, "dp=1", settings, on_step=kill)
    restarts = again.named("restart")
    ctx.report.fact("restarts", restarts)
    if not killed or len(restarts) != 1:
        raise StepFailed(f"one restart expected after {len(killed)} killed workers, {len(restarts)} seen")
    last = {step["step"]: float(step["loss"]) for step in again.steps}
    apart = [step["step"] for step in whole.steps if last.get(step["step"]) != float(step["loss"])]
    ctx.report.row("resumed", from_step=restarts[0]["from_step"], steps=len(last), differing_steps=len(apart))
    if restarts[0]["from_step"] == 0:
        ctx.report.fail("the run started from scratch, though checkpoints were there")
    if apart:
        ctx.report.fail(f"losses differ from step {apart[0]} on from a run that nobody killed", DIFFERENT)
    ctx.report.line(f"killed, gone on from step {restarts[0]['from_step']}, the same to the bit" if not apart else "losses differ")


def kill_worker(supervisor):
    """Kills the supervisor's workers with SIGKILL; gives their process ids."""
    def is_worker(pid):
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().startswith("capstan-worker"[:15])
        return False

    workers = [pid for pid in descendants(supervisor) if is_worker(pid)]
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return workers
