"""Makes tests/reference/gpt-tiny.{safetensors,json}: the numbers that capstan's GPT is compared with.

A tiny GPT-2 in plain PyTorch 2.11, its loss, logits and gradients, and ten AdamW steps, in fp32 and in fp64, on one CPU thread.
Names and layouts are those of Hugging Face's GPT-2 without the `transformer.` prefix: projections are [in, out].

    pip install torch==2.11.0 numpy safetensors
    python tests/reference/gpt.py            # compares with the files bit for bit, or writes them where there are none
    python tests/reference/gpt.py --write    # writes them again

What the safetensors file holds, NAME being a parameter:
    tokens          i64 [steps, batch, seq_len + 1]; inputs are [..., :-1], targets [..., 1:]
    param.NAME      initial weights, fp32 (the fp64 run starts from the same values)
    logits          of step 0 [batch, seq_len, vocab_size], fp32
    grad.NAME       of step 0's mean loss, before clipping, fp32; grad64.NAME the same in fp64
    after10.NAME    weights after ten steps, fp32; after10_64.NAME the same in fp64

A key's bias has no effect on the softmax: its gradient (the middle third of h.N.attn.c_attn.bias) is rounding noise, and AdamW turns
noise into steps of any size below lr. `after10` is no reference for it; `after10_64` is, and the json names the elements.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

VOCAB_SIZE, SEQ_LEN, D_MODEL, N_LAYER, N_HEAD = 37, 16, 32, 2, 2
STEPS, BATCH = 10, 4
LN_EPS = 1e-5
LR, BETAS, ADAM_EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0
SEED = 20240611

FOLDER = Path(__file__).parent
TENSORS, FACTS = FOLDER / "gpt-tiny.safetensors", FOLDER / "gpt-tiny.json"


def parameter_shapes():
    """Every parameter and its shape, in Hugging Face's order."""
    shapes = {"wte.weight": (VOCAB_SIZE, D_MODEL), "wpe.weight": (SEQ_LEN, D_MODEL)}
    for layer in range(N_LAYER):
        for name, shape in {
            "ln_1": (D_MODEL,),
            "attn.c_attn": (D_MODEL, 3 * D_MODEL),
            "attn.c_proj": (D_MODEL, D_MODEL),
            "ln_2": (D_MODEL,),
            "mlp.c_fc": (D_MODEL, 4 * D_MODEL),
            "mlp.c_proj": (4 * D_MODEL, D_MODEL),
        }.items():
            shapes[f"h.{layer}.{name}.weight"] = shape
            shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (D_MODEL,)
    return shapes


def initial_weights(generator):
    """Weights far from any special value, so that every gradient says something: norms near 1, biases not 0."""
    weights = {}
    for name, shape in parameter_shapes().items():
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        is_norm_gain = ".ln_" in f".{name}" and name.endswith("weight")
        weights[name] = 1.0 + 0.2 * noise if is_norm_gain else 0.15 * noise
    return weights


def layer_norm(x, p, name):
    return F.layer_norm(x, (D_MODEL,), p[f"{name}.weight"], p[f"{name}.bias"], LN_EPS)


def linear(x, p, name):
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(x_btd, p, name):
    batch, seq, _ = x_btd.shape
    q, k, v = (
        part.view(batch, seq, N_HEAD, D_MODEL // N_HEAD).transpose(1, 2)
        for part in linear(x_btd, p, f"{name}.c_attn").split(D_MODEL, dim=2)
    )
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return linear(y.transpose(1, 2).reshape(batch, seq, D_MODEL), p, f"{name}.c_proj")


def logits_of(p, tokens_bt):
    x = p["wte.weight"][tokens_bt] + p["wpe.weight"][: tokens_bt.shape[1]]
    for layer in range(N_LAYER):
        h = f"h.{layer}"
        x = x + attention(layer_norm(x, p, f"{h}.ln_1"), p, f"{h}.attn")
        hidden = F.gelu(linear(layer_norm(x, p, f"{h}.ln_2"), p, f"{h}.mlp.c_fc"), approximate="tanh")
        x = x + linear(hidden, p, f"{h}.mlp.c_proj")
    return layer_norm(x, p, "ln_f") @ p["wte.weight"].T


def train(weights, tokens, dtype):
    """Ten AdamW steps from `weights`, in `dtype`."""
    p = {name: w.to(dtype).clone().requires_grad_() for name, w in weights.items()}
    matrices = [w for w in p.values() if w.dim() >= 2]
    vectors = [w for w in p.values() if w.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=LR, betas=BETAS, eps=ADAM_EPS, foreach=False,
    )
    losses, grad_norms = [], []
    for step, batch in enumerate(tokens):
        logits = logits_of(p, batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            first_logits = logits.detach().clone()
            first_grads = {name: w.grad.clone() for name, w in p.items()}
        grad_norms.append(torch.nn.utils.clip_grad_norm_(p.values(), CLIP, foreach=False).item())
        optimizer.step()
        losses.append(loss.item())
    after = {name: w.detach().clone() for name, w in p.items()}
    return {"logits": first_logits, "grads": first_grads, "after": after, "losses": losses, "grad_norms": grad_norms}


def make():
    generator = torch.Generator().manual_seed(SEED)
    weights = initial_weights(generator)
    tokens = torch.randint(VOCAB_SIZE, (STEPS, BATCH, SEQ_LEN + 1), generator=generator)
    single, double = train(weights, tokens, torch.float32), train(weights, tokens, torch.float64)

    tensors = {"tokens": tokens, "logits": single["logits"]}
    for kind, values in {
        "param": weights,
        "grad": single["grads"], "grad64": double["grads"],
        "after10": single["after"], "after10_64": double["after"],
    }.items():
        tensors |= {f"{kind}.{name}": value.contiguous() for name, value in values.items()}

    facts = {
        "torch": torch.__version__,
        "model": {
            "vocab_size": VOCAB_SIZE, "seq_len": SEQ_LEN, "d_model": D_MODEL, "n_layer": N_LAYER, "n_head": N_HEAD,
            "bias": True, "tied_head": True, "layer_norm_eps": LN_EPS, "gelu": "tanh",
        },
        "optimizer": {
            "adamw": {"lr": LR, "betas": BETAS, "eps": ADAM_EPS, "weight_decay": WEIGHT_DECAY, "clip": CLIP},
            "decay": "matrices only, embeddings included",
        },
        "steps": STEPS, "batch": BATCH, "seed": SEED,
        "rounding_noise": {f"h.{layer}.attn.c_attn.bias": [D_MODEL, 2 * D_MODEL] for layer in range(N_LAYER)},
        "loss": single["losses"], "grad_norm": single["grad_norms"],
        "loss64": double["losses"], "grad_norm64": double["grad_norms"],
    }
    return tensors, json.loads(json.dumps(facts))


def report(tensors, facts):
    """How far fp32 is from fp64: no comparison of two fp32 implementations can be tighter than that."""
    def worst(a, b):
        errors = {}
        for name in parameter_shapes():
            x, y = tensors[f"{a}.{name}"].double(), tensors[f"{b}.{name}"]
            if a == "after10" and name in facts["rounding_noise"]:
                first, end = facts["rounding_noise"][name]
                x, y = (torch.cat([t[:first], t[end:]]) for t in (x, y))
            errors[name] = ((x - y).norm() / y.norm()).item()
        name = max(errors, key=errors.get)
        return f"{errors[name]:.1e} ({name})"

    loss_error = max(abs(a - b) for a, b in zip(facts["loss"], facts["loss64"]))
    print(f"loss {facts['loss'][0]:.6f} -> {facts['loss'][-1]:.6f}, "
          f"grad_norm {min(facts['grad_norm']):.3f} to {max(facts['grad_norm']):.3f}")
    print(f"fp32 against fp64: loss {loss_error:.1e}, gradients {worst('grad', 'grad64')}, "
          f"weights after {STEPS} steps {worst('after10', 'after10_64')} without the noise of key biases")


def differences(tensors, facts):
    """What is not bit for bit as in the files, one line each."""
    old_tensors, old_facts = load_file(TENSORS), json.loads(FACTS.read_text())
    lines = [f"{key}: differs" for key in old_facts.keys() | facts.keys() if old_facts.get(key) != facts.get(key)]
    for name in old_tensors.keys() ^ tensors.keys():
        lines.append(f"{name}: only in one of them")
    for name in old_tensors.keys() & tensors.keys():
        if not torch.equal(old_tensors[name], tensors[name]):
            lines.append(f"{name}: differs by up to {(old_tensors[name] - tensors[name]).abs().max().item():.1e}")
    return sorted(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the files even where they exist")
    write = parser.parse_args().write
    if torch.__version__.split("+")[0] != "2.11.0":
        sys.exit(f"the reference is PyTorch 2.11.0, this is {torch.__version__}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    tensors, facts = make()
    assert all(math.isfinite(loss) for loss in facts["loss"]) and min(facts["grad_norm"]) > CLIP, "clipping is not exercised"
    report(tensors, facts)
    if write or not TENSORS.exists():
        save_file(tensors, TENSORS)
        FACTS.write_text(json.dumps(facts, indent=2) + "\n")
        print(f"wrote {TENSORS.name} and {FACTS.name}")
    elif lines := differences(tensors, facts):
        print("\n".join(lines[:10]))
        sys.exit(f"{len(lines)} differ from the files (another processor may round differently): --write replaces them")
    else:
        print("bit for bit as in the files")


if __name__ == "__main__":
    main()
