"""`make bench-splits`: every split on two CPU ranks against ddp, and what each takes of a rank's memory.

The work is configs/shakespeare-char.json, the same global batch under every split. Splits run in turn within a round; what
is reported is the ratio to ddp of the same round, and where the ranks' time went as their `step` events say. Memory is
what a rank's tensors take between two steps, counted by the allocator, against the plan's formula.

    make bench-splits
    make bench-splits ARGS="--rounds 5 --data FILE"

Writes benches/results/splits-<date>.json and .md.
"""

import argparse
import datetime
import json
import statistics
import sys
from pathlib import Path

import bench

STEPS = 120
WARMUP_STEPS = 20
#: Layout, sequences of a forward pass, and why it costs what it costs.
SPLITS = [
    ("dp=2", 6, "one all-reduce of all gradients a step"),
    ("dp=2,primary=true", 6, "reduce to one rank, which updates alone while the other waits, broadcast"),
    ("dp=2,zero=1", 6, "reduce-scatter and all-gather move what the all-reduce does; each rank updates half"),
    ("dp=2,zero=2", 6, "the same after every micro-batch, with a graph for each segment"),
    ("dp=2,zero=3", 6, "weights are gathered twice a step, in the forward and in the backward pass"),
    ("tp=2", 12, "four all-reduces of activations a layer; norms and residuals are computed twice"),
    ("tp=2,sequence_parallel=true", 12, "the same bytes as reduce-scatter and all-gather; norms and residuals are shared"),
    ("pp=2", 3, "four micro-batches over two stages: a fifth of the time is bubble; small matrix products"),
    ("pp=2,schedule=gpipe", 3, "the same bubble, all micro-batches kept"),
    ("pp=2,schedule=interleaved,virtual_stages=2", 3, "half the bubble, twice the hand-offs"),
    ("dp=2,recompute=selective", 6, "cores of attention computed again"),
    ("dp=2,recompute=full", 6, "every layer's forward pass computed again: a third more work"),
]
#: For the table of memory: bf16, as the published formulas have it, on a model whose layers outweigh its embedding.
MEMORY = ["dp=1"] + [
    f"{split}" for n in (2, 4, 8) for split in (f"dp={n}", f"dp={n},zero=1", f"dp={n},zero=2", f"dp={n},zero=3", f"tp={n}", f"pp={n}")
]
MEMORY_MODEL = ["model.gpt.n_layer=8", "model.gpt.n_head=8", "model.gpt.d_model=256", "precision=bf16", "batch.global=8"]
#: Activations: peak over what stays, with and without recomputation.
RECOMPUTE = ["recompute=none", "recompute=selective", "recompute=full"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a UTF-8 text, as for `make bench`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--capstan", type=Path, default=bench.ROOT / "target" / "release" / "capstan", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        data = bench.find_data(args.data)
        speeds = measure_speed(args.capstan, data, args.rounds)
        memory = [measure_memory(args.capstan, data, layout) for layout in MEMORY]
        activations = [measure_memory(args.capstan, data, layout) for layout in RECOMPUTE]
    except bench.BenchError as error:
        sys.exit(f"bench: {error}")
    write(args.rounds, speeds, memory, activations)


def measure_speed(capstan, data, rounds):
    runs = {layout: [] for layout, _, _ in SPLITS}
    order = list(SPLITS)
    for number in range(rounds):
        for layout, micro, _ in order:
            runs[layout].append(summarize(train(capstan, data, layout, STEPS, [f"batch.micro={micro}"])))
            bench.say(f"round {number + 1} of {rounds}, {layout}: {1e3 * runs[layout][-1]['step_time_s']:.1f} ms a step")
        order = order[1:] + order[:1]
    return runs


def train(capstan, data, layout, steps, changes):
    mesh = dict(part.split("=") for part in layout.split(","))
    n_ranks = int(mesh.get("dp", 1)) * int(mesh.get("tp", 1)) * int(mesh.get("pp", 1))
    changes = [
        *changes, f"data.text.path={data}", f"stop.steps={steps}", "threads_per_rank=1",
        f"devices={json.dumps(['cpu'] * n_ranks)}", f"eval.every={bench.NEVER}", f"checkpoint.every={bench.NEVER}",
    ]
    options = ["--layout", layout] + [word for change in changes for word in ("--set", change)]
    events, _, _ = bench.run_capstan(capstan, bench.CONFIG, options)
    return [event for event in events if event["event"] == "step"]


def summarize(steps):
    steady = steps[WARMUP_STEPS:]
    parts = ("compute", "comm", "bubble", "optimizer", "other")
    mean = lambda event, part: statistics.mean(rank[part] for rank in event["ranks"])  # noqa: E731
    moved = steady[-1]["ranks"]
    return {
        "step_time_s": statistics.median(event["step_time_s"] for event in steady),
        "parts_s": {part: statistics.median(mean(event, part) for event in steady) for part in parts},
        "bytes": {kind: max(rank["bytes"].get(kind, 0) for rank in moved) for rank in moved for kind in rank["bytes"]},
        "loss": steps[-1]["loss"],
    }


def measure_memory(capstan, data, layout):
    mesh = dict(part.split("=") for part in layout.split(","))
    micro = 8 // int(mesh.get("dp", 1))
    changes = MEMORY_MODEL + [f"batch.micro={max(1, micro if 'pp' not in mesh else 1)}"]
    if "recompute" in layout:
        layout = f"dp=1,{layout}"
    last = train(capstan, data, layout, 3, changes)[-1]["ranks"]
    plan = plan_of(capstan, data, layout, changes)
    result = {
        "layout": layout, "n_params": plan["n_params"], "planned": plan["memory"],
        "measured_bytes": max(rank["memory_bytes"] for rank in last),
        "peak_bytes": max(rank["memory_peak_bytes"] for rank in last),
    }
    bench.say(f"memory, {layout}: {result['measured_bytes'] / 1e6:.1f} MB of {sum(plan['memory'].values()) / 1e6:.1f} MB planned")
    return result


def plan_of(capstan, data, layout, changes):
    import subprocess

    mesh = dict(part.split("=") for part in layout.split(","))
    n_ranks = int(mesh.get("dp", 1)) * int(mesh.get("tp", 1)) * int(mesh.get("pp", 1))
    changes = [*changes, f"data.text.path={data}", "threads_per_rank=1", f"devices={json.dumps(['cpu'] * n_ranks)}"]
    command = [capstan, "train", bench.CONFIG, "--dry-run", "--json", "--layout", layout]
    command += [word for change in changes for word in ("--set", change)]
    said = subprocess.run([str(word) for word in command], cwd=bench.ROOT, capture_output=True, text=True)
    if said.returncode != 0:
        raise bench.BenchError(bench.last_lines(said.stderr))
    return json.loads(said.stdout)["plan"]


def write(rounds, speeds, memory, activations):
    date = datetime.date.today().isoformat()
    machine = bench.describe_machine()
    document = {"date": date, "machine": machine, "rounds": rounds, "speed": speeds, "memory": memory, "activations": activations}
    text = as_markdown(document)
    bench.RESULTS.mkdir(parents=True, exist_ok=True)
    (bench.RESULTS / f"splits-{date}.json").write_text(json.dumps(document, indent=1) + "\n")
    (bench.RESULTS / f"splits-{date}.md").write_text(text)
    print(f"\n{text}\nwritten to benches/results/splits-{date}.md and .json")


def as_markdown(document):
    machine = document["machine"]
    lines = [
        f"# What each split costs, {document['date']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, commit {machine['commit']}.",
        "",
        "## Time on two CPU ranks",
        "",
        f"`{bench.CONFIG}`, {bench.GLOBAL_BATCH} sequences a step under every split, {document['rounds']} rounds. The ratio is the step time over",
        "that of `dp=2` in the same round, median (smallest to largest). Parts are milliseconds a rank, means over ranks; they add up to",
        "the step. MB are what the busiest rank passed to collectives or sent in a step.",
        "",
        "| split | ms a step | of ddp | compute | comm | bubble | optimizer | other | MB | why |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    base = [run["step_time_s"] for run in document["speed"]["dp=2"]]
    for layout, _, why in SPLITS:
        runs = document["speed"][layout]
        ratios = [run["step_time_s"] / own for run, own in zip(runs, base)]
        part = lambda name: 1e3 * statistics.median(run["parts_s"][name] for run in runs)  # noqa: E731
        moved = ", ".join(f"{kind} {n / 1e6:.1f}" for kind, n in runs[-1]["bytes"].items() if n >= 1e4)
        lines.append(
            f"| `{layout}` | {1e3 * statistics.median(run['step_time_s'] for run in runs):.1f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {part('compute'):.1f} | {part('comm'):.1f} | {part('bubble'):.1f} | {part('optimizer'):.1f} | {part('other'):.1f} | {moved} | {why} |"
        )
    lines += [
        "",
        "## Memory of a rank",
        "",
        "GPT of 8 layers, d_model 256, bf16, AdamW: weights, gradients and optimizer state of the rank that holds most, as",
        "counted by the allocator at the end of a step, and as planned. Bytes a parameter by the formulas: ddp 16, zero1 4 + 12/N,",
        "zero2 2 + 14/N, zero3 16/N and what is gathered at the moment; two more for gradients in fp32 where micro-batches accumulate (pp).",
        "",
        "| split | measured | planned | ratio | bytes a parameter |",
        "|---|---|---|---|---|",
    ]
    for row in document["memory"]:
        planned = sum(row["planned"].values())
        lines.append(
            f"| `{row['layout']}` | {row['measured_bytes'] / 1e6:.1f} MB | {planned / 1e6:.1f} MB | {row['measured_bytes'] / planned:.3f} "
            f"| {row['measured_bytes'] / row['n_params']:.2f} |"
        )
    lines += ["", "Activations of one rank at the peak of a step, 8 sequences of 64 tokens:", "", "| | peak over what stays |", "|---|---|"]
    for row in document["activations"]:
        lines.append(f"| `{row['layout']}` | {(row['peak_bytes'] - row['measured_bytes']) / 1e6:.1f} MB |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
