"""Shared by the peers on transformers: the model, `generate`, and a vector for each position."""

import torch
from protocol import threads
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
)


def load_network(job: dict) -> nn.Module:
    torch.set_num_threads(threads())
    config = AutoConfig.from_pretrained(job["folder"])
    # Releases before 5 look for it here, and would silently use their default.
    if theta := (getattr(config, "rope_parameters", None) or {}).get("rope_theta"):
        config.rope_theta = theta
    network = AutoModelForCausalLM.from_pretrained(job["folder"], config=config, dtype=torch.float32).eval()
    # `generate` takes its defaults from here, EOS included.
    network.generation_config = GenerationConfig()
    return network.requires_grad_(False)


def load_tokenizer(job: dict):
    # From its file, as older releases do not know the class named in the folder by newer ones.
    return PreTrainedTokenizerFast(tokenizer_file=f"{job['folder']}/tokenizer.json")


def settings(job: dict, new_tokens: int, greedy: bool) -> GenerationConfig:
    draw = {} if greedy else {"temperature": job["temperature"], "top_p": job["top_p"], "top_k": 0}
    # Without EOS, every row gets all its tokens; the pad is never used but silences a warning.
    return GenerationConfig(
        max_new_tokens=new_tokens, do_sample=not greedy, eos_token_id=job.get("eos"), pad_token_id=0, **draw
    )


class FrequencyPenalty(LogitsProcessor):
    """Subtract the penalty from a token's logit for each earlier use; transformers has no such processor."""

    def __init__(self, penalty: float):
        self.penalty = penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        used = torch.full(input_ids.shape, -self.penalty, dtype=scores.dtype)
        return scores.scatter_add(1, input_ids, used)


def processors(job: dict) -> LogitsProcessorList:
    penalty = job["frequency_penalty"]
    return LogitsProcessorList([FrequencyPenalty(penalty)] if penalty else [])


def blocks(network: nn.Module) -> nn.ModuleList:
    return network.transformer.h if hasattr(network, "transformer") else network.model.layers


def prompts(job: dict, rows: int) -> dict[str, Tensor]:
    """Ids [rows, positions] and a mask of ones; without it, `generate` masks a BOS whose id is the pad's."""
    ids = torch.tensor([job["prompt"]] * rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def completions(job: dict, output: Tensor, tokenizer) -> list[list[int]]:
    """New ids of each row; also decodes the texts, as a user would, and prints them in a whole script."""
    new = output[:, len(job["prompt"]) :]
    texts = tokenizer.batch_decode(new, skip_special_tokens=job.get("whole", False))
    if job.get("whole"):
        print(*texts, sep="\n---\n")
    return new.tolist()


@torch.inference_mode()
def vector(job: dict, network: nn.Module) -> Tensor:
    """Coefficient times the difference of the streams that enter the block: [positions, width]."""
    streams = network.base_model(
        input_ids=torch.tensor([job["plus"], job["minus"]]), output_hidden_states=True, use_cache=False
    ).hidden_states
    entering = streams[job["layer"]]
    return job["coefficient"] * (entering[0] - entering[1])
