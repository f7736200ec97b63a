"""Small random language models with byte-level BPE tokenizers, built by the tests."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = (
    "the spectrum of a plasma is measured by microwave absorption in a magnetic field while "
    "transistor circuits amplify small signals and noise limits the gain of the receiver"
).split()

CONTROL = "".join(chr(code) for code in range(160) if not 32 <= code < 127 and code != 10)

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
"""The network for images of a multimodal model."""
CONFIGS = {
    # full and sliding-window layers, with windows shorter than the prompts
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE,
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention"] * 1 + ["sliding_attention"],
    ),
    # the same as the text part of a multimodal model
    "gemma3-images": lambda: transformers.Gemma3Config(
        text_config=CONFIGS["gemma3"]().to_dict(),
        vision_config=VISION,
    ),
    # whose multimodal model has no class among the causal language models
    "mistral3": lambda: transformers.Mistral3Config(
        text_config={"model_type": "mistral", **SHAPE},
        vision_config={"model_type": "pixtral", **VISION, "head_dim": 16},
    ),
    # a window in every layer, no layer types
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=16),
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    # learned absolute positions
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=512
    ),
    # ALiBi: accepts no explicit masks
    "bloom": lambda: transformers.BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4),
    # recurrent: no attention at all
    "mamba": lambda: transformers.MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2),
}


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Returns a tokenizer in which several tokens contain a newline, as in those of real LLMs."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    lines = [" ".join(WORDS[i:] + WORDS[:i]) + "?\n\n" for i in range(len(WORDS))]
    bpe.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<eos>", "<bos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def save(folder: Path, kind: str = "gemma3") -> str:
    """Saves a random model of an architecture with the tokenizer, and returns the folder."""
    torch.manual_seed(1)
    own_tokenizer, config = tokenizer(), CONFIGS[kind]()
    config.bos_token_id, config.pad_token_id = 2, 0
    config.eos_token_id = [1, *range(280, 310)]  # several, as instruction-tuned models have
    config.tie_word_embeddings = False  # with tied random weights the model repeats the last token
    known = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    auto = transformers.AutoModelForCausalLM if known else transformers.AutoModelForImageTextToText
    model = auto.from_config(config)
    with torch.no_grad():  # larger weights than the usual initialization, to avoid ties
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8 if kind != "mamba" else 3)
        # never control characters, which are not kept in a query
        model.get_output_embeddings().weight[own_tokenizer(CONTROL)["input_ids"]] = 0
    model.save_pretrained(folder)
    own_tokenizer.save_pretrained(folder)
    return str(folder)
