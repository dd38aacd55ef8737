"""The steps of `make gpu-check` that measure: GPT-2 and Llama in bf16 against PyTorch 2.11, kernel times, the UI's cost.

Tokens per second, MFU against a matrix product measured on the same card, peak memory, joules per token and losses, in turn with
PyTorch eager and compiled, on the same tokens. One round each comes first; further rounds are a step of their own at the end.
"""

import array
import contextlib
import csv
import dataclasses
import datetime
import json
import re
import statistics
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import bench
from gpu_check_place import first_card, nvidia_smi
from gpu_check_runner import StepFailed, StepSkipped
from gpu_check_training import GPT2, find_tool, plan_of, train, wrapped_worker

STEPS, SIMULATED_STEPS, GRAD_ACCUM = 40, 24, 4  # the first WARMUP_STEPS are not counted
N_TOKEN_IDS = 50257  # of the tokens; the models' vocabularies are as large or larger
SAMPLE_INTERVAL_MS = 100
SIDES = ("capstan", "eager", "compiled")
N_KERNELS = 25  # rows of the table of kernels
NEEDS_S = 45  # of the budget, for one side of a comparison


@dataclasses.dataclass(frozen=True)
class Job:
    """One model on both sides. `micro_batch_by_gib` is what fits, by the card's memory."""

    config: str
    n_layer: int
    n_head: int
    d_model: int
    vocab_size: int
    micro_batch_by_gib: tuple
    pytorch: tuple = ("--bias",)
    settings: tuple = ()
    seq_len: int = 1024


JOBS = {
    "gpt2-124m": Job(GPT2, 12, 12, 768, 50304, ((70, 32), (40, 16), (20, 8), (10, 4), (0, 2))),
    "gpt2-350m": Job("configs/workstation/gpt2-medium.json", 24, 16, 1024, 50304, ((70, 16), (40, 8), (20, 4), (0, 2))),
    "llama-1b": Job(
        "configs/workstation/llama-1b-1gpu.json", 16, 32, 2048, 128256, ((70, 8), (40, 4), (0, 1)),
        ("--family", "llama", "--n-kv-head", "8", "--d-ff", "8192"), (("model.llama.seq_len", 1024),),
    ),
}
# On the stand-in: the same programs on models that a processor trains in seconds.
TINY_VOCAB = 512
TINY_JOBS = {
    "gpt2-124m": Job(
        GPT2, 2, 2, 64, TINY_VOCAB, ((0, 2),), ("--bias",),
        (("model", {"gpt": {"n_layer": 2, "n_head": 2, "d_model": 64, "seq_len": 64, "vocab_size": TINY_VOCAB}}),), 64,
    ),
    "llama-1b": Job(
        "configs/workstation/llama-1b-1gpu.json", 2, 4, 64, TINY_VOCAB, ((0, 2),), ("--family", "llama", "--n-kv-head", "2", "--d-ff", "128"),
        (("model", {"llama": {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 64, "d_ff": 128, "seq_len": 64,
                              "vocab_size": TINY_VOCAB, "tie_embeddings": True}}),), 64,
    ),
}

PEAK_PROGRAM = """
import statistics, torch
n = 8192
a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
times = []
for _ in range(60):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record(); a @ b; end.record(); end.synchronize()
    times.append(start.elapsed_time(end) / 1e3)
print(2 * n**3 / statistics.median(times[20:]))
"""


# Comparisons --------------------------------------------------------------------------------------------------------------


def round_of(name, recompute="none"):
    """A step: one round of a job on each side."""
    def step(ctx):
        title = f"{name}, recompute {recompute}"
        compare(ctx, name, recompute, title, round_idx=1)
        ratio = ratios(ctx.report.content["tables"].get(title, []))
        ctx.report.line(", ".join(f"{value:.2f} of {side}" for side, value in ratios_text(ratio)) or "one side alone: no ratio")
    return step


def with_recompute(ctx):
    """The same jobs with every layer's forward pass computed again, a round each."""
    n_done = 0
    for name in jobs(ctx.place):
        if fits(ctx, name):
            compare(ctx, name, "full", f"{name}, recompute full", round_idx=1)
            n_done += 1
    ctx.report.line(f"{n_done} models")


def more_rounds(ctx):
    """Further rounds of every job that has one, in turn, until the rounds wanted or the budget's end are reached."""
    begun = [job for result in ctx.results if result["status"] == "passed" for job in result["facts"].get("jobs", [])]
    if ctx.place.rounds < 2 or not begun:
        raise StepSkipped("one round is wanted" if begun else "no comparison has a first round")
    for round_idx in range(2, ctx.place.rounds + 1):
        for job in begun:
            if fits(ctx, job["name"]):
                compare(ctx, job["name"], job["recompute"], job["title"], round_idx)
    for job in begun:
        first = next(result for result in ctx.results if job in result["facts"].get("jobs", []))
        rows = first["tables"].get(job["title"], []) + ctx.report.content["tables"].get(job["title"], [])
        for side, values in ratios(rows).items():
            ctx.report.row("ratios", job=job["title"], against=side, rounds=len(values), median=statistics.median(values),
                           smallest=min(values), largest=max(values))
    ctx.report.line(f"up to {ctx.place.rounds} rounds of {len(begun)} jobs")


def fits(ctx, name):
    excuse = ctx.budget.excuse(NEEDS_S * len(SIDES))
    if excuse:
        ctx.report.note(f"{name} left out: {excuse}")
    return not excuse


def compare(ctx, name, recompute, title, round_idx):
    """One round: a row a side, each written as soon as it is there. A side of PyTorch that can't run is noted, capstan's is a failure."""
    place, report = ctx.place, ctx.report
    if name not in jobs(place):
        raise StepSkipped("the stand-in trains tiny models of two families only")
    job = jobs(place)[name]
    report.fact("jobs", [*report.content["facts"].get("jobs", []), {"name": name, "recompute": recompute, "title": title}])
    micro = micro_batch(job, first_card(place)["memory_bytes"])
    tokens = token_file(place, job)
    flops_per_token = flops(ctx, job, micro, recompute)
    peak = measured_peak_flops(ctx)
    for side in SIDES:
        excuse = ctx.budget.excuse(NEEDS_S)
        if excuse:
            report.note(f"{side} left out: {excuse}")
            continue
        try:
            run = capstan_run(ctx, job, tokens, micro, recompute) if side == "capstan" else pytorch_run(ctx, job, tokens, micro, recompute, side)
        except (StepFailed, bench.BenchError) as failure:
            if side == "capstan":
                raise StepFailed(str(failure), getattr(failure, "code", None)) from failure
            report.note(f"{side} gave nothing: {failure}")
            continue
        rate = run.pop("tokens_per_sec")
        report.row(
            title, round=round_idx, side=side + (" (simulated)" if place.simulated else ""), tokens_per_sec=rate,
            mfu=rate * flops_per_token / peak if peak else None, micro_batch=micro, **run,
        )


def jobs(place):
    return TINY_JOBS if place.simulated else JOBS


def n_steps(place):
    return SIMULATED_STEPS if place.simulated else STEPS


def micro_batch(job, memory_bytes):
    return next(batch for gib, batch in job.micro_batch_by_gib if memory_bytes / 2**30 >= gib)


def ratios(rows):
    """capstan's tokens per second over each other side's of the same round: lists by side."""
    rounds = {}
    for row in rows:
        rounds.setdefault(row["round"], {})[row["side"].split(" ")[0]] = row["tokens_per_sec"]
    found = {}
    for sides in rounds.values():
        for side in SIDES[1:]:
            if "capstan" in sides and side in sides:
                found.setdefault(side, []).append(sides["capstan"] / sides[side])
    return found


def ratios_text(found):
    return [(side, statistics.median(values)) for side, values in found.items()]


def flops(ctx, job, micro, recompute):
    """Of a token, by PaLM's rule; parameters with embeddings, a tied one once. What is computed again does not count."""
    settings = {**capstan_settings(ctx.place, job, token_file(ctx.place, job), micro), "parallel.recompute": recompute}
    return 6 * plan_of(ctx, job.config, settings)["n_params"] + 12 * job.n_layer * job.d_model * job.seq_len


def measured_peak_flops(ctx):
    """Of a bf16 matrix product on this card, measured once a step; None on the stand-in and without PyTorch."""
    if ctx.place.simulated or not ctx.place.python:
        return None
    known = ctx.report.content["facts"].get("measured_peak_flops")
    if known:
        return known
    found = ctx.place.run([ctx.place.python, "-c", PEAK_PROGRAM], 120)
    if found.returncode != 0:
        raise StepFailed(f"PyTorch can't use the card: {bench.last_lines(found.stderr)}")
    ctx.report.fact("measured_peak_flops", float(found.stdout))
    return float(found.stdout)


# The two sides ------------------------------------------------------------------------------------------------------------


def precision(place):
    """bf16 on a card; a processor has few fast products in it."""
    return "fp32" if place.simulated else "bf16"


def capstan_settings(place, job, tokens, micro):
    return {
        **dict(job.settings), "devices": [0], "precision": precision(place),
        "data": {"tokens": {"train": str(tokens), "vocab_size": TINY_VOCAB if job.vocab_size == TINY_VOCAB else N_TOKEN_IDS,
                            "windows": "random", "val_fraction": 0.02}},
        "batch.global": micro * GRAD_ACCUM, "batch.micro": micro, "stop.steps": bench.NEVER, "optimizer.adamw.lr": 3e-4,
        "schedule": {"constant": {}}, "eval.every": bench.NEVER, "eval.at_start": False, "checkpoint.every": bench.NEVER, "restart.max": 0,
    }


def capstan_run(ctx, job, tokens, micro, recompute):
    with GpuSampler(ctx.place) as sampler:
        run = train(ctx, job.config, f"dp=1,recompute={recompute}", capstan_settings(ctx.place, job, tokens, micro), stop_at=n_steps(ctx.place))
    steps = run.steps
    steady = steps[bench.WARMUP_STEPS:]
    return {
        "tokens_per_sec": micro * GRAD_ACCUM * job.seq_len / statistics.median(step["step_time_s"] for step in steady[1:]),
        "first_step_s": run.first_step_s,
        "card_peak_GiB": in_gib(sampler.peak_bytes()),
        "tensors_peak_GiB": in_gib(steps[-1]["ranks"][0].get("memory_peak_bytes")),
        "joules_per_token": quotient(sampler.joules(steady[0]["time"], steady[-1]["time"]), steady[-1]["tokens"] - steady[0]["tokens"]),
        "first_loss": run.losses[0],
        "last_loss": run.losses[-1],
    }


def pytorch_run(ctx, job, tokens, micro, recompute, side):
    if not ctx.place.python:
        raise StepFailed("no Python with PyTorch 2.11")
    options = [*job.pytorch, *(["--recompute"] if recompute == "full" else []), *(["--compile"] if side == "compiled" else [])]
    with GpuSampler(ctx.place) as sampler:
        result = pytorch(ctx, job, tokens, micro * GRAD_ACCUM, GRAD_ACCUM, n_steps(ctx.place), *options)
    steady = result["steady"]
    return {
        "tokens_per_sec": result["tokens_per_sec"],
        "first_step_s": result["first_step_s"],
        "card_peak_GiB": in_gib(sampler.peak_bytes()),
        "tensors_peak_GiB": in_gib(result["peak_gpu_bytes"]),
        "joules_per_token": quotient(sampler.joules(steady["from_unix"], steady["to_unix"]), steady["tokens"]),
        "first_loss": result["losses"][0][1],
        "last_loss": result["losses"][-1][1],
    }


def pytorch(ctx, job, tokens, batch, grad_accum, steps, *options):
    """What pytorch_lm.py reports of a job."""
    command = [
        ctx.place.python, bench.PYTORCH_SCRIPT, "--data", tokens, "--vocab", job.vocab_size, "--device", "cpu" if ctx.place.simulated else "cuda",
        "--precision", precision(ctx.place), "--n-layer", job.n_layer, "--n-head", job.n_head, "--d-model", job.d_model, "--seq-len", job.seq_len,
        "--batch", batch, "--grad-accum", grad_accum, "--steps", steps, "--lr", "3e-4", "--min-lr", "3e-4", "--warmup", "0", *options,
    ]
    said = ctx.place.run(command, 900)
    if said.returncode != 0:
        raise StepFailed(f"PyTorch ended with exit code {said.returncode}: {bench.last_lines(said.stderr)}")
    return json.loads(said.stdout.strip().splitlines()[-1])


def in_gib(count):
    return None if count is None else count / 2**30


def quotient(joules, tokens):
    return None if joules is None else joules / tokens


class GpuSampler:
    """Power and memory in use of the first card, ten times a second, while the block runs. Memory counts from what it was before."""

    QUERY = ("--id=0", "--query-gpu=timestamp,power.draw,memory.used", "--format=csv,noheader,nounits")

    def __init__(self, place):
        self.place, self.samples, self.process = place, [], None  # samples: (Unix seconds, watts or None, bytes)

    def __enter__(self):
        with contextlib.suppress(StepSkipped):
            self.baseline_bytes = parse_sample(nvidia_smi(self.place, *self.QUERY))[2]
            self.process = subprocess.Popen(
                ["nvidia-smi", *self.QUERY, f"--loop-ms={SAMPLE_INTERVAL_MS}"], stdout=subprocess.PIPE, text=True, env=self.place.environment,
            )
            self.thread = threading.Thread(target=self.read)
            self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError, IndexError):
                self.samples.append(parse_sample(line))

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.thread.join()

    def peak_bytes(self):
        return max(sample[2] for sample in self.samples) - self.baseline_bytes if self.samples else None

    def joules(self, from_unix, to_unix):
        """Mean power times time; None where the card reports no power."""
        watts = [watts for unix, watts, _ in self.samples if from_unix <= unix <= to_unix and watts is not None]
        return statistics.mean(watts) * (to_unix - from_unix) if watts else None


def parse_sample(line):
    """Unix seconds, watts (None where the card can't tell) and bytes of one line."""
    timestamp, power, memory_mib = (field.strip() for field in line.split(","))
    unix = datetime.datetime.strptime(timestamp, "%Y/%m/%d %H:%M:%S.%f").timestamp()
    return unix, float(power) if re.fullmatch(r"[0-9.]+", power) else None, int(memory_mib) * 2**20


# Tokens -------------------------------------------------------------------------------------------------------------------

WORDS = re.compile(r" ?\w+|\n+| +|[^\w\s]")


def tokens_of(text, n_ids):
    """The words of a text as ids by how often they stand in it, the commonest first; what has no id of its own shares the last."""
    words = WORDS.findall(text)
    ids = {word: min(rank, n_ids - 1) for rank, (word, _) in enumerate(Counter(words).most_common())}
    return array.array("H", (ids[word] for word in words))


def source_text(root):
    """capstan's own source, the text of the bundle's tokens: it needs no licence but the project's, and no network."""
    return "\n".join(path.read_text() for folder in ("src", "tests", "benches") for path in sorted((root / folder).rglob("*.rs")))


def write_tokens(path, tokens):
    """nanoGPT's format: little-endian u16."""
    if sys.byteorder == "big":
        tokens.byteswap()
    path.write_bytes(tokens.tobytes())


def token_file(place, job):
    """The tokens as a file: the bundle's own, or made here; with few ids for the tiny models."""
    whole = bench.ROOT / "data" / "tokens.bin"
    if not whole.exists():
        whole = place.scratch / "tokens.bin"
    if not whole.exists():
        write_tokens(whole, tokens_of(source_text(bench.ROOT), N_TOKEN_IDS))
    if job.vocab_size >= N_TOKEN_IDS:
        return whole
    small = place.scratch / f"tokens-{job.vocab_size}.bin"
    if not small.exists():
        tokens = array.array("H", whole.read_bytes())
        write_tokens(small, array.array("H", (min(token, job.vocab_size - 1) for token in tokens[:100_000])))
    return small


# Kernels ------------------------------------------------------------------------------------------------------------------


def kernels(ctx):
    """Where a micro-batch's time goes, by kernel: PyTorch eager's by its profiler, capstan's by Nsight Systems where that is installed."""
    place = ctx.place
    job = jobs(place)["gpt2-124m"]
    tokens = token_file(place, job)
    micro = micro_batch(job, first_card(place)["memory_bytes"])
    if place.python:
        result = pytorch(ctx, job, tokens, micro, 1, 8, *job.pytorch, "--profile")
        ctx.report.table("PyTorch eager", result["kernels"][:N_KERNELS])
        ctx.report.line(f"PyTorch eager: {sum(row['ms'] for row in result['kernels']):.1f} ms of {'operators' if place.simulated else 'kernels'} a step of one micro-batch")
    else:
        ctx.report.note("no Python with PyTorch 2.11, so no kernels of PyTorch's")
    capstan_kernels(ctx, job, tokens, micro)


def capstan_kernels(ctx, job, tokens, micro):
    try:
        ctx.place.only_on_a_card("kernels that Nsight Systems could see")
        tool = find_tool(ctx.place, "nsys")
    except StepSkipped as reason:
        ctx.report.note(f"capstan's kernels were not timed: {reason}")
        return
    out = ctx.place.results / "logs" / "capstan-kernels"
    environment = wrapped_worker(ctx, tool, "profile", "--trace=cuda", "--force-overwrite=true", "-o", out)
    settings = {**capstan_settings(ctx.place, job, tokens, micro), "batch.global": micro, "stop.steps": 8, "sample": None}
    train(ctx, job.config, "dp=1", settings, environment=environment)
    said = ctx.place.run([tool, "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", f"{out}.nsys-rep"], 120)
    rows = list(csv.DictReader(said.stdout[said.stdout.find("Time (%)"):].splitlines()))
    if not rows:
        ctx.report.note(f"nsys tells no kernel of capstan's: {bench.last_lines(said.stderr)}")
    ctx.report.table("capstan, 8 steps", [
        {"kernel": row["Name"][:120], "calls": int(row["Instances"]), "ms": float(row["Total Time (ns)"]) / 1e6} for row in rows[:N_KERNELS]
    ])


# The UI -------------------------------------------------------------------------------------------------------------------


def ui(ctx):
    """What the terminal UI costs a run that it watches (benches/ui.py)."""
    place = ctx.place
    wanted = [] if place.simulated else ["--at-least", "0.995"]
    steps, rounds = (("60", "1") if place.simulated else ("2000", "3"))
    command = [sys.executable, Path(__file__).parent / "ui.py", "--devices", "[0]", "--steps", steps, "--rounds", rounds, "--capstan", place.capstan]
    said = place.run([*command, *wanted], 300)
    found = re.findall(r"^bench: (\{.*\})$", said.stdout, re.MULTILINE)
    if found:
        result = json.loads(found[-1])
        ctx.report.row("UI", ratio=result["ratio"], ui_share_of_a_core=result["ui_cpu_share"], steps=result["steps"], rounds=int(rounds))
        ctx.report.line(f"{result['ratio']:.4f} of the throughput without it")
    if said.returncode != 0:
        raise StepFailed(f"ui.py ended with exit code {said.returncode}: {bench.last_lines(said.stderr)}")
