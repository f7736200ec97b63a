"""Networks small enough to build in a test, saved as checkpoints that every library loads."""

import string
from pathlib import Path

WORDS = """
apple banana cherry date elder fig grape hazel iris jasmine north south east west river stone cloud
field harbour island what is the of a about good bad text query document
""".split()


def tiny_t5(
    path: Path, label_words: tuple[str, str] = ("true", "false"), dropout: float = 0.1
) -> str:
    """A T5 of two layers, with a unigram tokenizer of words and letters; reads 48 tokens."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    words = [*label_words, "Query:", "Document:", "Relevant:", *WORDS]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", -1.0) for word in words]
    pieces += [(c, -10.0) for c in string.ascii_letters + string.digits + string.punctuation]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=tokenizer.pad_token_id,
        n_positions=48,
        dropout_rate=dropout,
    )
    torch.manual_seed(0)
    network = T5ForConditionalGeneration(config)
    network.shared.weight.data.mul_(3)  # scores far enough apart to tell one input from another
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def tiny_bert(path: Path, dropout: float = 0.1) -> str:
    """A headless BERT of two layers, with a WordPiece tokenizer; reads 32 tokens."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]
    pieces += [f"##{c}" for c in letters if c.isalnum()]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=32)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.1,  # scores far enough apart to tell one input from another
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
