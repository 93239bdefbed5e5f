"""transformers runs a baked checkpoint.

A JSON job on standard input: the `folder`, `prompts` as ids, `new_tokens` and `output`.

Writes to `output`, an .npz file, the logits after every prompt, [prompts, vocabulary], and the greedy tokens.
"""

import json
import sys

import numpy as np
import torch
import transformers

job = json.load(sys.stdin)
model = transformers.AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32)
logits, tokens = [], []
for prompt in job["prompts"]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        logits.append(model(ids).logits[0, -1].numpy())
    options = {"do_sample": False, "max_new_tokens": job["new_tokens"], "min_new_tokens": job["new_tokens"]}
    made = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    tokens.append(made[0, len(prompt) :].tolist())
np.savez(job["output"], version=transformers.__version__, logits=np.array(logits), tokens=np.array(tokens))
