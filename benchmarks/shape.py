"""A model of GPT-2 XL's shape with random weights, for the paper's model size without its weights."""

import shutil
from pathlib import Path

MODEL_SHAPE = "gpt2-xl-shape"


def made(place: Path, tokenizer: Path) -> Path:
    """The model's folder (6.2 GB), made once; any tokenizer will do, as the text is meaningless."""
    folder = place / MODEL_SHAPE
    if (folder / "tokenizer.json").is_file():
        return folder
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=1600, n_layer=48, n_head=25, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    # Last, as it marks the folder as complete.
    for name in ("tokenizer_config.json", "tokenizer.json"):
        shutil.copy(tokenizer / name, folder / name)
    return folder
