"""The PyTorch side of capstan's benchmarks: a trainer of GPT-2 or Llama as nanoGPT's users would write it for PyTorch 2.11.

Fused AdamW, SDPA, cosine schedule, random windows of a text tokenised by character (first 90 % for training) or of random
tokens; eager or compiled; one process, or several with DistributedDataParallel over gloo; CPU or one GPU.
Prints one JSON object on its last line. The defaults are the shakespeare-char configuration.

    python benches/pytorch_lm.py --data input.txt --threads 2 [--compile] [--ddp 2] [--final-eval]
    python benches/pytorch_lm.py --data synthetic --device cuda --precision bf16 --n-layer 12 --n-head 12 --d-model 768 \\
        --seq-len 1024 --batch 64 --grad-accum 4
"""

import argparse
import contextlib
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time

WARMUP_STEPS = 20  # left out of the timings: allocator, thread pools and caches settle
VAL_FRACTION = 0.1
SYNTHETIC_TOKENS = 4_000_000


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", required=True, help="a UTF-8 text file, nanoGPT's tokens (.bin, with --vocab), or `synthetic` for random tokens")
    add("--steps", type=int, default=2000)
    add("--seed", type=int, default=1337)
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is autocast over fp32 weights")
    add("--threads", type=int, help="intra-op threads a process (default: 1 with --ddp, else PyTorch's own)")
    add("--compile", action="store_true")
    add("--ddp", type=int, default=1, metavar="N", help="processes, each with 1/N of the batch (gloo, CPU)")
    add("--final-eval", action="store_true", help="validation loss over the whole validation split at the end")
    add("--profile", action="store_true", help="also report the last step's time by kernel (on the CPU: by operator)")
    add("--recompute", action="store_true", help="checkpoint each block's activations")
    add("--family", choices=["gpt", "llama"], default="gpt")
    add("--n-layer", type=int, default=4)
    add("--n-head", type=int, default=4)
    add("--d-model", type=int, default=128)
    add("--seq-len", type=int, default=64)
    add("--vocab", type=int, default=50304, help="vocabulary of tokens and synthetic data; a text's is its set of characters")
    add("--bias", action="store_true")
    add("--n-kv-head", type=int, help="of Llama (default: --n-head)")
    add("--d-ff", type=int, help="of Llama (default: 4 x --d-model)")
    add("--rope-theta", type=float, default=500_000.0, help="of Llama")
    add("--batch", type=int, default=12, help="sequences an optimizer step, over all processes and micro-batches")
    add("--grad-accum", type=int, default=1, help="micro-batches an optimizer step")
    add("--lr", type=float, default=1e-3)
    add("--min-lr", type=float, default=1e-4)
    add("--warmup", type=int, default=100)
    add("--decay-steps", type=int, help="end of the cosine (default: --steps)")
    args = parser.parse_args()
    if args.batch % (args.ddp * args.grad_accum):
        parser.error(f"--batch {args.batch} is no multiple of --ddp {args.ddp} x --grad-accum {args.grad_accum}")
    args.n_kv_head = args.n_kv_head or args.n_head
    args.d_ff = args.d_ff or 4 * args.d_model
    if args.ddp > 1 and args.device != "cpu":
        parser.error("--ddp is for the CPU")
    return args


def process_start_unix():
    """When this process started, in Unix seconds, to the kernel's clock tick (10 ms)."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        start_ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
        return time.time() - float(uptime.read().split()[0]) + start_ticks / os.sysconf("SC_CLK_TCK")


def start_other_ranks(args):
    """With --ddp N, starts N - 1 copies of this script and becomes rank 0. Without a launcher in between: it would only add memory."""
    if args.ddp == 1 or "RANK" in os.environ:
        return []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(args.ddp), "RANK": "0"}
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return [
        subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "RANK": str(rank)}, stdout=subprocess.DEVNULL)
        for rank in range(1, args.ddp)
    ]


# Before torch is imported, which takes seconds: all ranks import it at the same time.
ARGS = parse_args()
START_UNIX = float(os.environ.get("CAPSTAN_BENCH_T0") or process_start_unix())
OTHER_RANKS = start_other_ranks(ARGS)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

RANK = int(os.environ.get("RANK", 0))


class Attention(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.n_head = args.n_head
        self.c_attn = nn.Linear(args.d_model, 3 * args.d_model, bias=args.bias)
        self.c_proj = nn.Linear(args.d_model, args.d_model, bias=args.bias)

    def forward(self, x_btd):
        b, t, d = x_btd.shape
        q, k, v = (h.view(b, t, self.n_head, d // self.n_head).transpose(1, 2) for h in self.c_attn(x_btd).split(d, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, d))


class Mlp(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.c_fc = nn.Linear(args.d_model, 4 * args.d_model, bias=args.bias)
        self.c_proj = nn.Linear(4 * args.d_model, args.d_model, bias=args.bias)

    def forward(self, x_btd):
        return self.c_proj(F.gelu(self.c_fc(x_btd), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.ln_1 = nn.LayerNorm(args.d_model, bias=args.bias)
        self.attn = Attention(args)
        self.ln_2 = nn.LayerNorm(args.d_model, bias=args.bias)
        self.mlp = Mlp(args)

    def forward(self, x_btd):
        x_btd = x_btd + self.attn(self.ln_1(x_btd))
        return x_btd + self.mlp(self.ln_2(x_btd))


class Gpt(nn.Module):
    def __init__(self, args, vocab_size):
        super().__init__()
        self.recompute = args.recompute
        self.wte = nn.Embedding(vocab_size, args.d_model)
        self.wpe = nn.Embedding(args.seq_len, args.d_model)
        self.h = nn.ModuleList(Block(args) for _ in range(args.n_layer))
        self.ln_f = nn.LayerNorm(args.d_model, bias=args.bias)
        self.lm_head = nn.Linear(args.d_model, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * args.n_layer))
            elif p.dim() >= 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, x_bt, y_bt):
        positions = torch.arange(x_bt.shape[1], device=x_bt.device)
        x = through(self.h, self.wte(x_bt) + self.wpe(positions), recompute=self.recompute)
        return loss_of(self.lm_head(self.ln_f(x)), y_bt)


class LlamaBlock(nn.Module):
    def __init__(self, args):
        super().__init__()
        d, d_head = args.d_model, args.d_model // args.n_head
        self.d_head = d_head
        self.input_norm, self.mlp_norm = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
        self.q_proj = nn.Linear(d, args.n_head * d_head, bias=False)
        self.k_proj = nn.Linear(d, args.n_kv_head * d_head, bias=False)
        self.v_proj = nn.Linear(d, args.n_kv_head * d_head, bias=False)
        self.o_proj = nn.Linear(args.n_head * d_head, d, bias=False)
        self.gate_proj, self.up_proj = nn.Linear(d, args.d_ff, bias=False), nn.Linear(d, args.d_ff, bias=False)
        self.down_proj = nn.Linear(args.d_ff, d, bias=False)

    def forward(self, x_btd, cos, sin):
        b, t, _ = x_btd.shape
        y = self.input_norm(x_btd)
        q, k, v = (proj(y).view(b, t, -1, self.d_head).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (rotated(h, cos, sin) for h in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x_btd = x_btd + self.o_proj(y.transpose(1, 2).reshape(b, t, -1))
        y = self.mlp_norm(x_btd)
        return x_btd + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


def rotated(x, cos, sin):
    """Rotary positions, the two halves of a head as pairs."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class Llama(nn.Module):
    """Tied head, as the 1B model's; without Llama 3.1's stretching of wavelengths, which costs nothing."""

    def __init__(self, args, vocab_size):
        super().__init__()
        self.recompute = args.recompute
        self.embed = nn.Embedding(vocab_size, args.d_model)
        self.layers = nn.ModuleList(LlamaBlock(args) for _ in range(args.n_layer))
        self.norm = nn.RMSNorm(args.d_model, eps=1e-5)
        self.lm_head = nn.Linear(args.d_model, vocab_size, bias=False)
        self.lm_head.weight = self.embed.weight
        d_head = args.d_model // args.n_head
        angles = torch.arange(args.seq_len)[:, None] / args.rope_theta ** (torch.arange(0, d_head, 2) / d_head)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for p in self.parameters():
            if p.dim() >= 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, x_bt, y_bt):
        t = x_bt.shape[1]
        x = through(self.layers, self.embed(x_bt), self.cos[:t], self.sin[:t], recompute=self.recompute)
        return loss_of(self.lm_head(self.norm(x)), y_bt)


def through(blocks, x, *shared, recompute):
    for block in blocks:
        x = checkpoint(block, x, *shared, use_reentrant=False) if recompute else block(x, *shared)
    return x


def loss_of(logits, y_bt):
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), y_bt.reshape(-1))


def load_tokens(args):
    """Training and validation tokens on the device, and the vocabulary's size."""
    if args.data == "synthetic":
        vocab_size = args.vocab
        tokens = torch.randint(vocab_size, (SYNTHETIC_TOKENS,), generator=torch.Generator().manual_seed(args.seed))
    elif args.data.endswith(".bin"):
        vocab_size = args.vocab
        with open(args.data, "rb") as file:
            tokens = torch.frombuffer(bytearray(file.read()), dtype=torch.uint16).to(torch.int32)
    else:
        with open(args.data, encoding="utf-8", newline="") as file:
            text = file.read()
        ids = {char: idx for idx, char in enumerate(sorted(set(text)))}
        vocab_size = len(ids)
        tokens = torch.tensor([ids[char] for char in text], dtype=torch.int64 if vocab_size > 256 else torch.uint8)
    n_train = int(len(tokens) * (1 - VAL_FRACTION))
    tokens = tokens.to(args.device)
    return tokens[:n_train], tokens[n_train:], vocab_size


class RandomWindows:
    """Batches of windows drawn with replacement. Every rank draws the global batch and takes its part."""

    def __init__(self, args, tokens):
        self.args, self.tokens = args, tokens
        self.generator = torch.Generator().manual_seed(args.seed)
        self.offsets = torch.arange(args.seq_len + 1)

    def next_step(self):
        """The micro-batches (x, y) of this rank for one optimizer step."""
        args = self.args
        starts = torch.randint(len(self.tokens) - args.seq_len, (args.batch,), generator=self.generator)
        mine = starts.chunk(args.ddp)[RANK]
        windows = self.tokens[(mine[:, None] + self.offsets).to(self.tokens.device)].long()
        return [(w[:, :-1], w[:, 1:]) for w in windows.chunk(args.grad_accum)]


def learning_rate(args, step):
    if step < args.warmup:
        return args.lr * (step + 1) / (args.warmup + 1)
    progress = min(1.0, (step - args.warmup) / max(1, (args.decay_steps or args.steps) - args.warmup))
    return args.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (args.lr - args.min_lr)


def make_optimizer(args, model):
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=args.lr, betas=(0.9, 0.99), eps=1e-8, fused=True)


class StepClock:
    """Marks the end of each step; on a GPU by events, so that measuring does not stop the queue."""

    def __init__(self, device):
        self.on_gpu, self.marks, self.unix = device == "cuda", [], []

    def mark(self):
        self.unix.append(time.time())
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def step_times_s(self):
        pairs = zip(self.marks, self.marks[1:])
        if self.on_gpu:
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1e3 for a, b in pairs]
        return [b - a for a, b in pairs]


def mean_over_ranks(value):
    if not dist.is_initialized():
        return value.item()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def peak_rss_bytes():
    with open("/proc/self/status") as status:
        mine = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    if dist.is_initialized():
        total = torch.tensor(mine)
        dist.all_reduce(total)
        return total.item()
    return mine


@torch.no_grad()
def validation_loss(args, model, tokens, autocast):
    """Mean loss over the whole split in disjoint windows."""
    n_windows = (len(tokens) - 1) // args.seq_len
    end = n_windows * args.seq_len
    xs, ys = tokens[:end].view(n_windows, -1), tokens[1 : end + 1].view(n_windows, -1)
    total = 0.0
    for x, y in zip(xs.split(64), ys.split(64)):
        with autocast():
            total += model(x.long(), y.long()).item() * len(x)
    return total / n_windows


def train(args):
    torch.manual_seed(args.seed)
    if args.threads or args.ddp > 1:
        torch.set_num_threads(args.threads or 1)
    if args.precision == "bf16":
        torch.set_float32_matmul_precision("high")
    autocast = contextlib.nullcontext
    if args.precision == "bf16":
        def autocast():
            return torch.autocast(args.device, dtype=torch.bfloat16)

    train_tokens, val_tokens, vocab_size = load_tokens(args)
    windows = RandomWindows(args, train_tokens)
    family = {"gpt": Gpt, "llama": Llama}[args.family]
    plain_model = family(args, vocab_size).to(args.device)
    optimizer = make_optimizer(args, plain_model)
    model = torch.compile(plain_model) if args.compile else plain_model
    if args.ddp > 1:
        model = DistributedDataParallel(model)

    clock, losses, first_step_s = StepClock(args.device), [], None
    micro_batches = windows.next_step()
    profiler = torch.profiler.profile() if args.profile else None
    for step in range(args.steps):
        if profiler and step == args.steps - 1:
            profiler.start()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, step)
        step_loss = 0.0
        for idx, (x, y) in enumerate(micro_batches):
            is_last = idx == len(micro_batches) - 1
            with contextlib.nullcontext() if is_last or args.ddp == 1 else model.no_sync():
                with autocast():
                    loss = model(x, y) / args.grad_accum
                loss.backward()
            step_loss = step_loss + loss.detach()
        micro_batches = windows.next_step()  # on a GPU, while it works
        nn.utils.clip_grad_norm_(plain_model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == args.steps - 1:
            losses.append([step + 1, mean_over_ranks(step_loss)])
        clock.mark()
        if step == 0:
            if args.device == "cuda":
                torch.cuda.synchronize()
            first_step_s = time.time() - START_UNIX

    return {
        "kernels": kernels_of(args, profiler) if profiler else None,
        "torch": torch.__version__,
        "mode": "compiled" if args.compile else "eager",
        "processes": args.ddp,
        "threads_per_process": torch.get_num_threads(),
        "n_params": sum(p.numel() for p in plain_model.parameters()),
        "steps": args.steps,
        "tokens_per_step": args.batch * args.seq_len,
        **timings(args, clock),
        "first_step_s": first_step_s,
        "peak_rss_bytes": peak_rss_bytes(),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if args.device == "cuda" else None,
        "losses": losses,
        "val_loss": validation_loss(args, plain_model, val_tokens, autocast) if args.final_eval and RANK == 0 else None,
    }


def kernels_of(args, profiler):
    """Calls and milliseconds of each kernel since the profiler started, the longest first; on the CPU of each operator itself."""
    on_gpu = args.device == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    profiler.stop()
    rows = [
        {"kernel": event.key[:120], "calls": event.count, "ms": (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3}
        for event in profiler.key_averages()
        if (event.device_type != torch.autograd.DeviceType.CPU) == on_gpu and not event.is_user_annotation
    ]
    return sorted((row for row in rows if row["ms"] > 0), key=lambda row: -row["ms"])


def timings(args, clock):
    times = clock.step_times_s()
    steady = times[WARMUP_STEPS:] or times
    if not steady:
        return {"step_time_s": None, "tokens_per_sec": None, "steady": None}
    deciles = statistics.quantiles(steady, n=10) if len(steady) > 1 else [steady[0]] * 9
    median = statistics.median(steady)
    return {
        "step_time_s": {"median": median, "p10": deciles[0], "p90": deciles[-1], "n": len(steady)},
        "tokens_per_sec": args.batch * args.seq_len / median,
        "steady": {
            "from_unix": clock.unix[-1 - len(steady)],
            "to_unix": clock.unix[-1],
            "tokens": args.batch * args.seq_len * len(steady),
            "seconds": sum(steady),
        },
    }


def main():
    if ARGS.ddp > 1:
        dist.init_process_group("gloo")
    result = train(ARGS)
    if ARGS.ddp > 1:
        dist.barrier()
        dist.destroy_process_group()
    if RANK != 0:
        os._exit(0)  # gloo's threads may outlive the interpreter, which then aborts (seen)
    if any(rank.wait() != 0 for rank in OTHER_RANKS):
        sys.exit("a rank failed")
    print(json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
