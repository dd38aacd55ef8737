"""The part of `make gpu-check` that compares numbers: the sensors' with nvidia-smi's, parity on one GPU, and GPT-2 124M and 350M and a Llama of 1B in bf16, with and
without recomputation, against PyTorch 2.11.

Sensors: what `capstan top` and nvidia-smi say of each card at about the same time, and what a look costs.
Parity: every split over two and four ranks on one GPU against one rank, and fp32 on the GPU against the CPU, losses step by step; and that the comparison
would notice a difference. Speed: tokens per second, MFU against a matrix product measured on the same card, peak memory as
nvidia-smi sees it, and joules per token, in turn with PyTorch eager and compiled.
Writes benches/results/gpu-<name>-<date>.json. Runs on the first GPU of nvidia-smi's list.
"""

import argparse
import array
import contextlib
import dataclasses
import datetime
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import bench
from bench import BenchError, say

PARITY_STEPS = 20
# Relative differences of fp32 losses, at a learning rate where rounding does not grow: at the first step, and over all steps.
FIRST_STEP_TOLERANCE, LATER_TOLERANCE = 1e-5, 1e-4

# Layout, ranks on the one GPU, sequences of a forward pass.
SPLITS = (
    ("dp=2", 2, 6), ("dp=2,zero=1", 2, 6), ("dp=2,zero=2", 2, 6), ("dp=2,zero=3", 2, 6), ("dp=4,zero=3", 4, 3),
    ("tp=2", 2, 12), ("tp=2,sequence_parallel=true", 2, 12), ("tp=4", 4, 12), ("pp=2", 2, 3), ("pp=4", 4, 3),
    ("pp=2,schedule=interleaved,virtual_stages=2", 2, 3), ("pp=2,tp=2", 4, 3), ("dp=1,recompute=full", 1, 12),
)

STEPS, GRAD_ACCUM, SEQ_LEN = 60, 4, 1024
N_TOKEN_IDS = 50257  # of the random data; the models' vocabularies are as large or larger
N_TOKENS = 4_000_000


@dataclasses.dataclass(frozen=True)
class Job:
    """One model on both sides. `micro_batch_by_gib` is what fits with fp32 logits."""

    config: str
    n_layer: int
    n_head: int
    d_model: int
    vocab_size: int
    micro_batch_by_gib: tuple
    pytorch: tuple = ("--bias",)
    capstan: tuple = ()


JOBS = {
    "gpt2-124m": Job(
        "configs/gpt2-124m.json", 12, 12, 768, 50304, ((70, 32), (40, 16), (20, 8), (10, 4), (0, 2)),
    ),
    "gpt2-350m": Job(
        "configs/workstation/gpt2-medium.json", 24, 16, 1024, 50304, ((70, 16), (40, 8), (20, 4), (0, 2)),
    ),
    "llama-1b": Job(
        "configs/workstation/llama-1b-1gpu.json", 16, 32, 2048, 128256, ((70, 8), (40, 4), (0, 1)),
        ("--family", "llama", "--n-kv-head", "8", "--d-ff", "8192"), ("--set", f"model.llama.seq_len={SEQ_LEN}"),
    ),
}
SAMPLE_INTERVAL_MS = 100

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternations of capstan, eager, compiled")
    parser.add_argument("--only", choices=["sensors", "parity", *JOBS], help="one part instead of all")
    parser.add_argument("--capstan", type=Path, default=bench.ROOT / "target" / "release" / "capstan", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi's order
    try:
        if args.only in (None, "sensors"):
            check_sensors(args.capstan)
        if args.only in (None, "parity"):
            check_parity(args.capstan)
        names = [name for name in JOBS if args.only in (None, name)]
        if names:
            compare_speed(args.capstan, names, args.rounds)
    except BenchError as error:
        sys.exit(f"gpu-check: {error}")


# Sensors ------------------------------------------------------------------------------------------------------------------

# nvidia-smi's field, capstan's as a function of a card, and how far apart the two may be: a share of nvidia-smi's, and so much more.
SENSORS = (
    ("memory.total", lambda card: mebibytes(card.get("memory_total_bytes")), 0.02, 0),
    ("memory.used", lambda card: mebibytes(card.get("memory_used_bytes")), 0.05, 1024),
    ("power.draw", lambda card: card.get("power_w"), 0.3, 20),
    ("power.limit", lambda card: card.get("power_limit_w"), 0, 1),
    ("temperature.gpu", lambda card: card.get("temperature_c"), 0, 5),
    ("temperature.memory", lambda card: card.get("memory_temperature_c"), 0, 5),
    ("clocks.sm", lambda card: card.get("sm_clock_mhz"), 0.5, 300),
    ("pcie.link.width.current", lambda card: card.get("pcie_width"), 0, 0),
    ("fan.speed", lambda card: None if card.get("fan") is None else 100 * card["fan"], 0, 10),
)
SWEEP_LOOKS, SWEEP_LIMIT_MS = 30, 5


def check_sensors(capstan):
    say("4. capstan's sensors beside nvidia-smi's")
    cards = {card["uuid"]: card for card in looks(capstan, 3)[-1].get("gpus", [])}
    fields = [field for field, *_ in SENSORS]
    found = subprocess.run(
        ["nvidia-smi", f"--query-gpu=uuid,{','.join(fields)}", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=True,
    ).stdout
    apart = []
    for line in found.strip().splitlines():
        uuid, *values = (value.strip() for value in line.split(","))
        if uuid not in cards:
            apart.append(f"{uuid} is missing")
            continue
        for (field, told, share, more), value in zip(SENSORS, values):
            theirs, ours = as_number(value), told(cards[uuid])
            say(f"   {uuid[:12]} {field:<24} nvidia-smi {value:>10}  capstan {'n/a' if ours is None else round(ours, 1):>10}")
            is_same = theirs is ours is None or None not in (theirs, ours) and abs(theirs - ours) <= share * abs(theirs) + more
            if not is_same:
                apart.append(f"{uuid} {field}: {theirs} and {ours}")
    cost_ms = look_cost_ms(capstan) / max(1, len(cards))
    say(f"   a look takes {cost_ms:.2f} ms of a core a card")
    if apart:
        raise BenchError("sensors differ: " + "; ".join(apart))
    if cost_ms > SWEEP_LIMIT_MS:
        raise BenchError(f"a look takes more than {SWEEP_LIMIT_MS} ms of a core a card")


def looks(capstan, count):
    command = [capstan, "top", "--json", "--every-s", "1", "--count", str(count)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=bench.RUN_LIMIT_S)
    return [json.loads(line) for line in said.stdout.splitlines()]


def look_cost_ms(capstan):
    """Processor time of a look at all cards: of many looks less that of a few, so that opening the driver does not count."""
    few, many = (processor_s(lambda n=n: looks(capstan, n)) for n in (2, 2 + SWEEP_LOOKS))
    return 1e3 * (many - few) / SWEEP_LOOKS


def processor_s(work):
    before = os.times()
    work()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def mebibytes(count):
    return None if count is None else count / 2**20


def as_number(text):
    try:
        return float(text)
    except ValueError:
        return None  # [N/A]


# Parity -------------------------------------------------------------------------------------------------------------------


def check_parity(capstan):
    def losses(devices, layout, micro, seed=1337):
        options = [
            "--layout", layout, "--set", f"devices={json.dumps(devices)}", "--set", "data.builtin=hello",
            "--set", f"batch.micro={micro}", "--set", f"stop.steps={PARITY_STEPS}", "--set", "optimizer.adamw.lr=1e-4",
            "--set", "precision=fp32", "--set", f"seed={seed}",
        ]
        events, _, _ = bench.run_capstan(capstan, bench.CONFIG, options)
        return [event["loss"] for event in events if event["event"] == "step"]

    one_rank = losses([0], "dp=1", 12)
    say("5. two and four ranks on one GPU against one rank")
    for layout, n_ranks, micro in SPLITS:
        say(f"   {layout}")
        expect_equal(one_rank, losses([0] * n_ranks, layout, micro))
    say("6. fp32 on the GPU against the CPU")
    expect_equal(one_rank, losses(["cpu"], "dp=1", 12))
    if equal(one_rank, losses([0], "dp=1", 12, seed=1338)):
        raise BenchError("the parity check does not notice another seed: it checks nothing")


def relative_differences(ours, theirs):
    if len(ours) != PARITY_STEPS or len(theirs) != PARITY_STEPS:
        raise BenchError(f"{PARITY_STEPS} steps expected, {len(ours)} and {len(theirs)} seen")
    return [abs(a - b) / abs(b) for a, b in zip(ours, theirs)]


def equal(ours, theirs):
    differences = relative_differences(ours, theirs)
    return differences[0] <= FIRST_STEP_TOLERANCE and max(differences) <= LATER_TOLERANCE


def expect_equal(ours, theirs):
    differences = relative_differences(ours, theirs)
    text = f"losses differ by {differences[0]:.1e} at step 1, {max(differences):.1e} over {PARITY_STEPS} (relative)"
    if not equal(ours, theirs):
        raise BenchError(f"{text}: more than {FIRST_STEP_TOLERANCE:.0e} and {LATER_TOLERANCE:.0e}")
    say(f"   {text}")


# Speed --------------------------------------------------------------------------------------------------------------------


def compare_speed(capstan, names, rounds):
    python = bench.find_python()
    gpu = describe_gpu()
    say(f"7. bf16, {SEQ_LEN} tokens, {GRAD_ACCUM} micro-batches a step, on {gpu['name']}")
    peak_flops = measured_peak_flops(python)
    say(f"   measured peak: {peak_flops / 1e12:.0f} TFLOP/s in a bf16 matrix product")
    with tempfile.TemporaryDirectory(prefix="capstan-bench-") as folder:
        tokens = Path(folder) / "tokens.bin"
        write_random_tokens(tokens)
        results = {}
        for name in names:
            for recompute in ("none", "full"):
                title = f"{name}, recompute {recompute}"
                results[title] = compare_job(JOBS[name], title, recompute, rounds, (capstan, python, tokens), gpu, peak_flops)
                # What has been measured stays, whatever comes next.
                save(gpu, {"measured_peak_flops": peak_flops, "grad_accum_steps": GRAD_ACCUM, "seq_len": SEQ_LEN, "jobs": results})


def compare_job(job, title, recompute, rounds, programs, gpu, peak_flops):
    capstan, python, tokens = programs
    micro = next(batch for gib, batch in job.micro_batch_by_gib if gpu["memory_bytes"] / 2**30 >= gib)
    say(f"   {title}: micro-batches of {micro}")
    sides = {
        "capstan": lambda: capstan_run(capstan, job, tokens, micro, recompute),
        "eager": lambda: pytorch_run(python, job, micro, recompute),
        "compiled": lambda: pytorch_run(python, job, micro, recompute, "--compile"),
    }
    runs = {side: [] for side in sides}
    for round_idx in range(rounds):
        for side, run in sides.items():
            runs[side].append(run())
            say(f"   round {round_idx + 1} of {rounds}, {side}: {runs[side][-1]['tokens_per_sec']:,.0f} tokens/s")
    n_params = runs["eager"][0]["n_params"]
    # PaLM's rule; n_params with embeddings, the tied one once. What is computed again does not count.
    flops_per_token = 6 * n_params + 12 * job.n_layer * job.d_model * SEQ_LEN
    table = {side: medians(side_runs, flops_per_token, peak_flops) for side, side_runs in runs.items()}
    print_table(table)
    return {
        "flops_per_token": flops_per_token, "n_params": n_params, "micro_batch": micro, "vocab_size": job.vocab_size,
        "table": table, "runs": runs,
    }


def capstan_run(capstan, job, tokens, micro, recompute):
    options = [
        "--layout", f"dp=1,recompute={recompute}", "--set", "devices=[0]", "--set", "precision=bf16",
        "--set", f"data.tokens.train={tokens}", "--set", f"data.tokens.vocab_size={N_TOKEN_IDS}",
        "--set", "data.tokens.val=null", "--set", "data.tokens.windows=random", "--set", "data.tokens.val_fraction=0.02",
        "--set", f"batch.global={micro * GRAD_ACCUM}", "--set", f"batch.micro={micro}", "--set", f"stop.steps={STEPS}",
        "--set", f"eval.every={bench.NEVER}", "--set", f"checkpoint.every={bench.NEVER}", *job.capstan,
    ]
    with GpuSampler() as sampler:
        events, first_step_s, _ = bench.run_capstan(capstan, job.config, options)
    steps = [event for event in events if event["event"] == "step"]
    steady = steps[bench.WARMUP_STEPS:]
    return {
        "tokens_per_sec": micro * GRAD_ACCUM * SEQ_LEN / statistics.median(step["step_time_s"] for step in steady[1:]),
        "first_step_s": first_step_s,
        "losses": [[step["step"], step["loss"]] for step in steps],
        "peak_gpu_bytes": sampler.peak_bytes(),
        "allocator_peak_bytes": steps[-1]["ranks"][0].get("memory_peak_bytes"),
        "joules_per_token": quotient(
            sampler.joules(steady[0]["time"], steady[-1]["time"]), steady[-1]["tokens"] - steady[0]["tokens"]
        ),
    }


def pytorch_run(python, job, micro, recompute, *options):
    if recompute == "full":
        options = (*options, "--recompute")
    with GpuSampler() as sampler:
        result = bench.run_pytorch(python, [
            "--data", "synthetic", "--vocab", str(job.vocab_size), "--device", "cuda", "--precision", "bf16",
            "--n-layer", str(job.n_layer), "--n-head", str(job.n_head), "--d-model", str(job.d_model), "--seq-len", str(SEQ_LEN),
            "--batch", str(micro * GRAD_ACCUM), "--grad-accum", str(GRAD_ACCUM), "--steps", str(STEPS), *job.pytorch, *options,
        ])
    steady = result["steady"]
    return {
        "tokens_per_sec": result["tokens_per_sec"],
        "first_step_s": result["first_step_s"],
        "losses": result["losses"],
        "n_params": result["n_params"],
        "peak_gpu_bytes": sampler.peak_bytes(),
        "allocator_peak_bytes": result["peak_gpu_bytes"],
        "joules_per_token": quotient(sampler.joules(steady["from_unix"], steady["to_unix"]), steady["tokens"]),
    }


def quotient(joules, tokens):
    return None if joules is None else joules / tokens


class GpuSampler:
    """Power and memory in use of the first GPU, ten times a second, while the block runs. Memory counts from what it was before."""

    QUERY = ["nvidia-smi", "--id=0", "--query-gpu=timestamp,power.draw,memory.used", "--format=csv,noheader,nounits"]

    def __enter__(self):
        self.samples = []  # (Unix seconds, watts or None, bytes)
        self.baseline_bytes = parse_sample(subprocess.run(self.QUERY, capture_output=True, text=True).stdout)[2]
        self.process = subprocess.Popen([*self.QUERY, f"--loop-ms={SAMPLE_INTERVAL_MS}"], stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError, IndexError):
                self.samples.append(parse_sample(line))

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.thread.join()

    def peak_bytes(self):
        return max((sample[2] for sample in self.samples), default=self.baseline_bytes) - self.baseline_bytes

    def joules(self, from_unix, to_unix):
        """Mean power times time; None where the card reports no power."""
        watts = [watts for unix, watts, _ in self.samples if from_unix <= unix <= to_unix and watts is not None]
        return statistics.mean(watts) * (to_unix - from_unix) if watts else None


def parse_sample(line):
    """Unix seconds, watts (None where the card can't tell) and bytes of one line."""
    timestamp, power, memory_mib = (field.strip() for field in line.split(","))
    unix = datetime.datetime.strptime(timestamp, "%Y/%m/%d %H:%M:%S.%f").timestamp()
    return unix, float(power) if re.fullmatch(r"[0-9.]+", power) else None, int(memory_mib) * 2**20


def describe_gpu():
    fields = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "compute_cap")
    found = subprocess.run(
        ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=True,
    ).stdout
    gpu = dict(zip(fields, (value.strip() for value in found.split(","))))
    return {**gpu, "memory_bytes": int(gpu["memory.total"]) * 2**20}


def measured_peak_flops(python):
    found = subprocess.run([python, "-c", PEAK_PROGRAM], capture_output=True, text=True)
    if found.returncode != 0:
        raise BenchError(f"PyTorch can't use the GPU: {bench.last_lines(found.stderr)}")
    return float(found.stdout)


def write_random_tokens(path):
    """nanoGPT's format: little-endian u16. Random data costs the same as text."""
    generator = random.Random(1337)
    tokens = array.array("H", (generator.randrange(N_TOKEN_IDS) for _ in range(N_TOKENS)))
    if sys.byteorder == "big":
        tokens.byteswap()
    path.write_bytes(tokens.tobytes())


def medians(runs, flops_per_token, peak_flops):
    tokens_per_sec = statistics.median(run["tokens_per_sec"] for run in runs)
    joules = [run["joules_per_token"] for run in runs if run["joules_per_token"] is not None]
    return {
        "tokens_per_sec": tokens_per_sec,
        "tokens_per_sec_range": [min(run["tokens_per_sec"] for run in runs), max(run["tokens_per_sec"] for run in runs)],
        "mfu": tokens_per_sec * flops_per_token / peak_flops,
        "peak_gpu_bytes": max(run["peak_gpu_bytes"] for run in runs),
        "allocator_peak_bytes": max((run["allocator_peak_bytes"] or 0 for run in runs)) or None,
        "joules_per_token": statistics.median(joules) if joules else None,
        "first_step_s": statistics.median(run["first_step_s"] for run in runs),
    }


def print_table(table):
    print("\n| | tokens/s | MFU of measured peak | peak memory, GiB | of it tensors, GiB | J/token | first step, s |\n|---|---|---|---|---|---|---|")
    for side, row in table.items():
        joules = "unknown" if row["joules_per_token"] is None else f"{row['joules_per_token']:.2e}"
        tensors = "unknown" if row["allocator_peak_bytes"] is None else f"{row['allocator_peak_bytes'] / 2**30:.1f}"
        print(f"| {side} | {row['tokens_per_sec']:,.0f} | {row['mfu']:.1%} | {row['peak_gpu_bytes'] / 2**30:.1f} "
              f"| {tensors} | {joules} | {row['first_step_s']:.1f} |")


def save(gpu, document):
    name = re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-")
    date = datetime.date.today().isoformat()
    bench.RESULTS.mkdir(parents=True, exist_ok=True)
    path = bench.RESULTS / f"gpu-{name}-{date}.json"
    path.write_text(json.dumps({"date": date, "gpu": gpu, "machine": bench.describe_machine(), **document}, indent=1) + "\n")
    print(f"\nwritten to {path.relative_to(bench.ROOT)}")


if __name__ == "__main__":
    main()
