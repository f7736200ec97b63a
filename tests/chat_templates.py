"""Chat templates of Qwen2.5 and Gemma 3, and tiny models with them."""

from pathlib import Path

import tiny_llm
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

QWEN = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\
<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != "system" or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""
GEMMA_2 = GEMMA.replace(
    "{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}",
    "{{ raise_exception('System role not supported') }}",
)
"""Refuses system messages, as Gemma 2 does."""
DEEPSEEK = """\
{{ bos_token }}
{%- for message in messages -%}
    {%- if message['role'] == 'system' %}{{ message['content'] }}
    {%- elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}
    {%- else %}{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif -%}
"""
"""Names of roles are tokens that are not special."""
TURNS = {
    DEEPSEEK: ["<｜User｜>", "<｜end▁of▁sentence｜>", "<｜Assistant｜>"],
    QWEN: ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    GEMMA: ["<start_of_turn>", "<end_of_turn>"],
    GEMMA_2: ["<start_of_turn>", "<end_of_turn>"],
}
"""Special tokens of each template; the second one ends a turn."""


def save(folder: Path, template: str, *, instruct: bool = True) -> str:
    """Saves a tiny random model with a chat template, and returns the folder.

    Args:
        folder: Folder of the model.
        template: One of the templates.
        instruct: Whether the token that ends a turn is an end token of the model.
    """
    tiny_llm.save(folder, "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for token in TURNS[template]:
        special = token not in ("<｜User｜>", "<｜Assistant｜>")
        tokenizer.add_tokens([AddedToken(token, special=special)], special_tokens=special)
    tokenizer.chat_template = template
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(2)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ends = [*model.config.eos_token_id]
    if instruct:
        ends.append(tokenizer.convert_tokens_to_ids(TURNS[template][1]))
    model.config.eos_token_id = model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
