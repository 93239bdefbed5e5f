"""A tiny model as its user holds it, for `steer.steering`: by transformers, with its tokenizer."""

import torch
from tiny import by_transformers, recipe_of

import steer_cli as steer

torch.set_num_threads(1)
PROMPT = "I went up to my friend and said"
OTHER = "The wedding of my friend was late because of the rain and"
NEW = 12


class Held:
    """A tiny model as its user holds it: by transformers, with its tokenizer."""

    def __init__(self, folder):
        from transformers import AutoTokenizer

        self.folder, self.model = folder, by_transformers(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"
        self.bos = self.tokenizer.bos_token_id
        if self.bos is None:
            self.bos = self.tokenizer.eos_token_id

    def ids(self, text):
        return [self.bos, *self.tokenizer(text, add_special_tokens=False).input_ids]

    def batch(self, *texts, side="left"):
        rows = [self.ids(text) for text in texts]
        longest = max(map(len, rows))
        pads = [[0] * (longest - len(row)) for row in rows]
        both = list(zip(rows, pads, strict=True))
        ids = [pad + row if side == "left" else row + pad for row, pad in both]
        mask = [
            [0] * len(pad) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(pad)
            for row, pad in both
        ]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    def generate(self, *texts, **options):
        """The new tokens of each row, up to its end."""
        batch = self.batch(*texts)
        usual = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": self.tokenizer.eos_token_id}
        made = self.model.generate(**batch, **{**usual, **options})
        return [until_end(row, self.tokenizer.eos_token_id) for row in made[:, batch["input_ids"].shape[1] :]]

    def logits(self, *texts):
        with torch.no_grad():
            return self.model(**self.batch(*texts)).logits

    def hooks(self):
        return sum(
            len(module._forward_pre_hooks) + len(module._forward_hooks) for module in self.model.modules()
        )


def until_end(row, eos):
    ids = row.tolist()
    return ids[: ids.index(eos)] if eos in ids else ids


def recipe(position="front", prompt=PROMPT, **more):
    addition = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 9, "position": position, **more}
    sampling = {"temperature": 0, "frequency_penalty": 0, "max_new_tokens": NEW, "samples": 1}
    return recipe_of(addition, prompt=prompt, sampling=sampling)


def within(held, wanted):
    return steer.steering(held.model, wanted, held.tokenizer)
