"""Compares an exported folder under Hugging Face's transformers with the run that it comes from. Run by hand, not by CI.

    pip install torch==2.11.0 transformers==5.24.0 safetensors numpy
    capstan export RUN DIR
    python tests/reference/export_logits.py RUN_FOLDER DIR [--bin target/release]

It checks that transformers finds every tensor and no other one, that logits agree over windows of random ids, and that greedy
text agrees (which takes the exported tokenizer there and back). The last line says how far apart the logits are.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOWS = 4
# Largest difference of two logits by the largest logit: rounding leaves 1e-6 in fp32. capstan gives logits out in fp32, whatever it
# computes in, so fp64 leaves half a unit of fp32.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-7}


def capstan_logits(worker, run, ids):
    command = [worker, "logits", run, "--ids", ",".join(map(str, ids))]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return torch.tensor(json.loads(said), dtype=torch.float64)


def greedy(model, tokenizer, prompt, n_tokens):
    """The likeliest token again and again, over a sliding window as capstan's sampling has it."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    n_prompt, context = len(ids), model.config.max_position_embeddings
    for _ in range(n_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids[-context:]])).logits
        ids.append(int(logits[0, -1].argmax()))
    return tokenizer.decode(ids[n_prompt:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("exported", type=Path)
    parser.add_argument("--bin", type=Path, default=Path("target/release"))
    parser.add_argument("--prompt", default="The ")
    arguments = parser.parse_args()

    model, info = AutoModelForCausalLM.from_pretrained(
        arguments.exported, output_loading_info=True, attn_implementation="sdpa"
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            sys.exit(f"{kind}: {info[kind]}")
    model.eval()
    dtype = next(model.parameters()).dtype
    print(f"{type(model).__name__}, {dtype}, {sum(p.numel() for p in model.parameters())} parameters")

    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for _ in range(WINDOWS):
        size = (min(model.config.max_position_embeddings, 256),)
        ids = torch.randint(model.config.vocab_size, size, generator=generator)
        ours = capstan_logits(arguments.bin / "capstan-worker", arguments.run, ids.tolist())
        with torch.no_grad():
            theirs = model(ids[None]).logits[0].double()
        worst = max(worst, ((ours - theirs).abs().max() / theirs.abs().max()).item())

    if (arguments.exported / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(arguments.exported)
        command = [arguments.bin / "capstan", "sample", arguments.run, "--prompt", arguments.prompt]
        command += ["--tokens", "40", "--temperature", "0", "--json"]
        said = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
        ours = json.loads(said.splitlines()[-1])["text"]
        theirs = greedy(model, tokenizer, arguments.prompt, 40)
        print(f"greedy text {'agrees' if ours == theirs else 'DIFFERS'}: {ours!r}")
        if ours != theirs:
            sys.exit(f"transformers says {theirs!r}")
    verdict = worst <= TOLERANCE[dtype]
    print(f"logits {'agree' if verdict else 'DIFFER'}: largest difference by largest logit {worst:.1e}")
    sys.exit(not verdict)


if __name__ == "__main__":
    main()
