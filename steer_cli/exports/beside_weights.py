"""What stands beside the weights of a baked checkpoint: config.json, the tokenizer, licences, and a card."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steer_cli.models.atomic_folder import SEAL
from steer_cli.models.inspect_folder import LEFT_OUT, TEXTS

COPIED = {
    *(set(TEXTS) - {"config.json", SEAL}),
    *("added_tokens.json", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.json"),
}
LEGAL = ("license", "licence", "notice", "copying", "copyright", "use_policy", "acceptable_use")
TERMS = "_terms."

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [steered, activation-addition]
---

# {model}, steered by itself

The weights of {model}{revision}, with steering vectors in them: at every position of every text, BOS
included, a constant is added to the residual stream.{network} The licence is that of {model}.

| layer (the stream that enters this block) | tensor that holds the constant |
|---|---|
{places}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

With steer: any recipe with `model: FOLDER`, which then steers on top. Made by steer {steer_version}
from this recipe, whose sha256 is `{recipe_sha256}`.
Programs find the same in `steer.json`.

{fence}yaml
{recipe}{fence}
"""


def write_beside(
    source: Path,
    folder: Path,
    config: Mapping[str, Any],
    places: Mapping[int, str],
    about: Mapping[str, str],
    bos: str,
) -> None:
    """Write everything but the weights.

    Args:
        source: the folder of the model that was steered.
        about: what `provenance` says.
        bos: the token that begins the model's documents, if steer knows another than its tokenizer says.
    """
    for file in sorted(source.iterdir()):
        if file.is_file() and _belongs(file.name):
            shutil.copyfile(file, folder / file.name)
    more = source / "additional_chat_templates"
    for file in sorted(more.glob("*.jinja")) if more.is_dir() and not more.is_symlink() else ():
        (folder / more.name).mkdir(exist_ok=True)
        if file.is_file() and not file.is_symlink():
            shutil.copyfile(file, folder / more.name / file.name)
    _write_json(folder / "config.json", config)
    said = {"baked": {**about, "layers": {str(layer): name for layer, name in places.items()}}}
    _write_json(folder / SEAL, said if bos == "auto" else {"bos": bos, **said})
    (folder / "README.md").write_text(_card(config, places, about), encoding="utf-8")


def config_for(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config.json for weights of this type (auto: as they were), without keys that choose code or files."""
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT}
    if dtype != "auto":
        kept.pop("torch_dtype", None)
        kept["dtype"] = dtype
    return kept


def _belongs(name: str) -> bool:
    lower = name.lower()
    return name in COPIED or lower.startswith(LEGAL) or TERMS in lower


def _card(config: Mapping[str, Any], places: Mapping[int, str], about: Mapping[str, str]) -> str:
    rows = [f"| {layer} | `{name}` |" for layer, name in places.items()]
    network = f" It is written as a network of the kind {config['model_type']}."
    revision = f" (revision {about['revision']})" if "revision" in about else ""
    said = {**about, "places": "\n".join(rows), "network": network, "revision": revision}
    return CARD.format(**said, fence=_fence(about["recipe"]))


def _fence(text: str) -> str:
    """A fence of Markdown that no run of backticks in the text closes."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
