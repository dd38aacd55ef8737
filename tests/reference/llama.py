"""Makes tests/reference/llama-tiny.{safetensors,json}: the numbers that capstan's Llama is compared with, and gpt2-tiny.safetensors.

A tiny `LlamaForCausalLM` of Hugging Face's transformers on PyTorch 2.11, in fp32 on one CPU thread: grouped-query attention, Llama
3.1's RoPE scaling (one wavelength kept, one stretched in part, two stretched), untied head. Its logits, loss and gradients, and a few
AdamW steps. Names and layouts are transformers' own.

gpt2-tiny.safetensors holds the logits that transformers' `GPT2LMHeadModel` has for the weights and tokens of gpt-tiny.safetensors.

    pip install torch==2.11.0 transformers==5.24.0 numpy safetensors
    python tests/reference/llama.py            # compares with the files bit for bit, or writes them where there are none
    python tests/reference/llama.py --write    # writes them again

What llama-tiny.safetensors holds, NAME being a parameter:
    tokens          i64 [steps, batch, seq_len + 1]; inputs are [..., :-1], targets [..., 1:]
    param.NAME      initial weights
    logits          of step 0 [batch, seq_len, vocab_size]
    grad.NAME       of step 0's mean loss, before clipping
    after.NAME      weights after the last step
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

VOCAB_SIZE, SEQ_LEN, D_MODEL, D_FF, N_LAYER, N_HEAD, N_KV_HEAD = 37, 24, 32, 48, 2, 4, 2
ROPE_THETA = 500.0
ROPE_SCALING = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position": 64}
NORM_EPS = 1e-5
STEPS, BATCH = 5, 4
LR, BETAS, ADAM_EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0
SEED = 20240723

FOLDER = Path(__file__).parent
TENSORS, FACTS = FOLDER / "llama-tiny.safetensors", FOLDER / "llama-tiny.json"
GPT_TENSORS, GPT_FACTS, GPT2_TENSORS = (
    FOLDER / name for name in ("gpt-tiny.safetensors", "gpt-tiny.json", "gpt2-tiny.safetensors")
)


def model(generator):
    """A Llama with weights far from any special value, so that every gradient says something: norms near 1."""
    scaling = {**ROPE_SCALING, "rope_type": "llama3", "rope_theta": ROPE_THETA}
    scaling["original_max_position_embeddings"] = scaling.pop("original_max_position")
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=N_LAYER,
        num_attention_heads=N_HEAD, num_key_value_heads=N_KV_HEAD, head_dim=D_MODEL // N_HEAD,
        max_position_embeddings=256, rms_norm_eps=NORM_EPS, rope_parameters=scaling, tie_word_embeddings=False,
        use_cache=False, attn_implementation="sdpa",
    )
    llama = transformers.LlamaForCausalLM(config).train()
    with torch.no_grad():
        for name, weight in llama.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1.0 + 0.2 * noise if "norm" in name else 0.15 * noise)
    check_scaling(llama)
    return llama


def check_scaling(llama):
    """Each of the three cases of Llama 3.1's rule occurs."""
    half = D_MODEL // N_HEAD // 2
    plain = ROPE_THETA ** -(torch.arange(half) / half)
    ratios = (plain / llama.model.rotary_emb.inv_freq).tolist()
    assert abs(ratios[0] - 1) < 1e-6 and 1.01 < ratios[1] < 3.99 and abs(ratios[3] - 4) < 1e-5, ratios


def train(llama, tokens):
    """AdamW steps over `tokens`; what each gave."""
    parameters = dict(llama.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in parameters.values() if w.dim() >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [w for w in parameters.values() if w.dim() < 2], "weight_decay": 0.0},
        ],
        lr=LR, betas=BETAS, eps=ADAM_EPS, foreach=False,
    )
    losses, grad_norms, first = [], [], {}
    for batch in tokens:
        logits = llama(input_ids=batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not losses:
            first = {"logits": logits.detach().clone()}
            first |= {f"grad.{name}": w.grad.clone() for name, w in parameters.items()}
        grad_norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP, foreach=False).item())
        optimizer.step()
        losses.append(loss.item())
    after = {f"after.{name}": w.detach().clone() for name, w in parameters.items()}
    return first | after, losses, grad_norms


def make():
    generator = torch.Generator().manual_seed(SEED)
    llama = model(generator)
    tokens = torch.randint(VOCAB_SIZE, (STEPS, BATCH, SEQ_LEN + 1), generator=generator)
    tensors = {"tokens": tokens}
    tensors |= {f"param.{name}": w.detach().clone() for name, w in llama.named_parameters()}
    trained, losses, grad_norms = train(llama, tokens)
    facts = {
        "torch": torch.__version__, "transformers": transformers.__version__,
        "model": {
            "vocab_size": VOCAB_SIZE, "seq_len": SEQ_LEN, "d_model": D_MODEL, "d_ff": D_FF, "n_layer": N_LAYER,
            "n_head": N_HEAD, "n_kv_head": N_KV_HEAD, "rope_theta": ROPE_THETA, "rope_scaling": ROPE_SCALING,
            "tie_embeddings": False, "norm_eps": NORM_EPS,
        },
        "optimizer": {
            "adamw": {"lr": LR, "betas": BETAS, "eps": ADAM_EPS, "weight_decay": WEIGHT_DECAY, "clip": CLIP},
            "decay": "matrices only, embeddings included",
        },
        "steps": STEPS, "batch": BATCH, "seed": SEED, "loss": losses, "grad_norm": grad_norms,
    }
    return tensors | trained, json.loads(json.dumps(facts))


def gpt2_logits():
    """What transformers' GPT-2 makes of gpt-tiny's weights and first batch; its gradients are gpt-tiny's."""
    stored, sizes = load_file(GPT_TENSORS), json.loads(GPT_FACTS.read_text())["model"]
    config = transformers.GPT2Config(
        vocab_size=sizes["vocab_size"], n_positions=sizes["seq_len"], n_embd=sizes["d_model"], n_layer=sizes["n_layer"],
        n_head=sizes["n_head"], layer_norm_epsilon=sizes["layer_norm_eps"], activation_function="gelu_new",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, use_cache=False,
        attn_implementation="sdpa",
    )
    gpt2 = transformers.GPT2LMHeadModel(config)
    parameters = {name.removeprefix("transformer."): w for name, w in gpt2.named_parameters()}
    with torch.no_grad():
        for name, weight in parameters.items():
            weight.copy_(stored[f"param.{name}"])
    tokens = stored["tokens"][0]
    logits = gpt2(input_ids=tokens[:, :-1]).logits
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, weight in parameters.items():
        expected = stored[f"grad.{name}"]
        apart = (weight.grad - expected).norm() / expected.norm()
        assert apart < 1e-5, f"transformers' gradient of {name} is {apart:.1e} away"
    return {"logits": logits.detach().contiguous()}


def differences(old, new):
    """What is not bit for bit as stored, one line each."""
    lines = [f"{name}: only in one of them" for name in old.keys() ^ new.keys()]
    for name in old.keys() & new.keys():
        if not torch.equal(old[name], new[name]):
            lines.append(f"{name}: differs by up to {(old[name] - new[name]).abs().max().item():.1e}")
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
    gpt2 = gpt2_logits()
    assert all(math.isfinite(loss) for loss in facts["loss"]) and min(facts["grad_norm"]) > CLIP, "clipping is not exercised"
    print(f"loss {facts['loss'][0]:.6f} -> {facts['loss'][-1]:.6f}, "
          f"grad_norm {min(facts['grad_norm']):.3f} to {max(facts['grad_norm']):.3f}")
    if write or not TENSORS.exists():
        save_file(tensors, TENSORS)
        save_file(gpt2, GPT2_TENSORS)
        FACTS.write_text(json.dumps(facts, indent=2) + "\n")
        print(f"wrote {TENSORS.name}, {FACTS.name} and {GPT2_TENSORS.name}")
        return
    lines = differences(load_file(TENSORS), tensors) + differences(load_file(GPT2_TENSORS), gpt2)
    old = json.loads(FACTS.read_text())
    lines += [f"{key}: differs" for key in sorted(old.keys() | facts.keys()) if old.get(key) != facts.get(key)]
    if lines:
        print("\n".join(lines[:10]))
        sys.exit(f"{len(lines)} differ from the files (another processor may round differently): --write replaces them")
    print("bit for bit as in the files")


if __name__ == "__main__":
    main()
