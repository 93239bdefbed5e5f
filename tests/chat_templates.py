"""Chat templates in the manner of the families people use, and small tokenizers that have their tokens."""

import json
from pathlib import Path

LLAMA3 = """\
{{- bos_token }}
{%- if date is not defined %}
    {%- set date = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- endif %}
{%- set system = "" %}
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" }}
    {{- message.content | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0].role == "system" %}
    {%- set system, turns = messages[0].content, messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set place = namespace(index=0) %}
{%- for turn in turns %}
    {%- if turn.role not in ["user", "assistant"] %}
        {{- raise_exception("Only user and assistant roles are supported, and a system turn at the start.") }}
    {%- endif %}
    {%- if (turn.role == "user") != (place.index % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- set place.index = place.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if turn.role == "assistant" %}
        {{- " " + turn.content | trim + eos_token }}
    {%- elif loop.last and system is defined %}
        {{- "[INST] " + system + "\\n\\n" + turn.content + "[/INST]" }}
    {%- else %}
        {{- "[INST] " + turn.content + "[/INST]" }}
    {%- endif %}
{%- endfor %}
"""

QWEN = """\
{%- if tools %}
    {{- "<|im_start|>system\\n# Tools\\n" }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- if ns.searching and message.role == "user" and message.content is string %}
        {%- set ns.searching = false %}
        {%- set ns.last = (messages | length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

GEMMA = """\
{{ bos_token }}
{%- set first = "" -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\\n\\n' -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

PHI = """\
{% for message in messages %}
{% if message['role'] in ('system', 'user') %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>' }}

{% elif message['role'] == 'assistant' %}
{% generation %}{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}{% endgeneration %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}
"""

CHATML = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)

# What else templates use: loop controls, JSON, dictionaries, slices, filters, macros, comments.
ODD = """\
{# a comment #}
{% macro said(turn) %}{{ dict(role=turn.role, content=turn.content) | tojson(indent=2) }}{% endmacro %}
{% for turn in messages %}
  {% if loop.index > 3 %}{% break %}{% endif %}
  {% if turn.role == 'system' %}{% continue %}{% endif %}
  {{ said(turn) }}, {{ {'é<': '&"'} | tojson }} {{ turn.items() | list | length }}
{% endfor %}
{{ messages | map(attribute='role') | join(',') | upper }} {{ documents is none }} {{ tools is none }}
"""

FAMILIES = {  # template, then its special tokens, the first of which begin and end a document
    "llama3": (LLAMA3, "<|begin_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|>"),
    "mistral": (MISTRAL, "<s> </s> [INST] [/INST]"),
    "qwen": (QWEN, "<|endoftext|> <|im_end|> <|im_start|>"),
    "gemma": (GEMMA, "<bos> <eos> <start_of_turn> <end_of_turn>"),
    "phi": (PHI, "<s> <|endoftext|> <|end|> <|user|> <|assistant|> <|system|>"),
    "chatml": (CHATML, "<s> </s> <|im_start|> <|im_end|>"),
    "odd": (ODD, "<s> </s>"),
}


def write_family(folder: Path, name: str) -> Path:
    """A folder with a small tokenizer and the template of a family."""
    template, special = FAMILIES[name]
    return write_chat_tokenizer(folder, template, special.split())


def write_chat_tokenizer(folder: Path, template: object, special=("<s>", "</s>")) -> Path:
    """A folder with a small tokenizer that has a template, unless that is None."""
    from conftest import SENTENCES
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    # As many do: whoever encodes a rendered chat with special tokens has two BOS.
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{special[0]} $A", special_tokens=[(special[0], 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1]}
    if template is not None:
        names["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return folder
