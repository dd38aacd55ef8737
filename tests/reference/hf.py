"""Makes tests/reference/hf-*: folders as transformers leaves them, and the logits that transformers gives for them.

Random weights, norms and biases away from 1 and 0, saved by `save_pretrained` in several parts with an index. Beside each folder
lies NAME.safetensors: `tokens` i64 [seq_len] and `logits` fp32 [seq_len, vocab_size].

    pip install torch==2.11.0 transformers==5.24.0 safetensors numpy
    python tests/reference/hf.py            # compares with what is there, or writes what is not
    python tests/reference/hf.py --write    # writes all again
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

SEED = 20241124
FOLDER = Path(__file__).parent


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=37, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None)
    )


def llama():
    rope = {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=37, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=24, rms_norm_eps=1e-5, rope_parameters=rope,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
        )
    )


MODELS = {"hf-gpt2": gpt2, "hf-llama": llama}


def make(name, folder):
    torch.manual_seed(SEED)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
        tokens = torch.randint(model.config.vocab_size, (model.config.max_position_embeddings,))
        logits = model(tokens[None]).logits[0].contiguous()
    model.save_pretrained(folder / name, max_shard_size="40KB")
    (folder / name / "generation_config.json").unlink(missing_ok=True)
    save_file({"tokens": tokens, "logits": logits}, folder / f"{name}.safetensors")


def same(name, made):
    ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (FOLDER, made))
    files = sorted(path.name for path in (made / name).iterdir())
    return (
        torch.equal(ours["tokens"], theirs["tokens"])
        and torch.allclose(ours["logits"], theirs["logits"], rtol=1e-5, atol=1e-6)
        and files == sorted(path.name for path in (FOLDER / name).iterdir())
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    for name in MODELS:
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary)
            make(name, made)
            if not write and (FOLDER / name).exists():
                if not same(name, made):
                    sys.exit(f"{name} differs from what {sys.argv[0]} makes")
                print(f"{name} is as made")
                continue
            shutil.rmtree(FOLDER / name, ignore_errors=True)
            shutil.copytree(made / name, FOLDER / name)
            shutil.copy(made / f"{name}.safetensors", FOLDER)
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
