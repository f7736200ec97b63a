"""Networks small enough to build in a test, saved as checkpoints that the libraries load."""

import json
import string
from pathlib import Path
from typing import Any

WORDS = """
apple banana cherry date elder fig grape hazel iris jasmine north south east west river stone cloud
field harbour island what is the of a about good bad text query document
""".split()


FLAN_WORDS = "Is following passage relevant to query? Passage:".split()


def t5_tokenizer(label_words: tuple[str, str], more: list[str], label_score: float = -1.0) -> Any:
    """Unigram tokenizer of words and letters; a word with a low score is split into letters."""
    from transformers import T5Tokenizer

    words = ["Query:", "Document:", "Relevant:", *WORDS, *more]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", label_score) for word in label_words]
    pieces += [(f"▁{word}", -1.0) for word in words]
    pieces += [(c, -10.0) for c in string.ascii_letters + string.digits + string.punctuation]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def tiny_t5(
    path: Path,
    label_words: tuple[str, str] = ("true", "false"),
    dropout: float = 0.1,
    kind: str = "T5",
    label_score: float = -1.0,
) -> str:
    """A T5 of two layers, with a unigram tokenizer of words and letters; reads 48 tokens.

    Kinds "T5 1.1", "FLAN-T5" and "mT5" have the configurations of the published checkpoints.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM, MT5Config, T5Config

    tokenizer = t5_tokenizer(label_words, FLAN_WORDS * (kind == "FLAN-T5"), label_score)
    own_output = kind != "T5"
    config = (MT5Config if kind == "mT5" else T5Config)(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=tokenizer.pad_token_id,
        dropout_rate=dropout,
        **({"n_positions": 48} if kind in ("T5", "FLAN-T5") else {}),
        **({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if own_output else {}),
    )
    torch.manual_seed(0)
    network = AutoModelForSeq2SeqLM.from_config(config)
    network.shared.weight.data.mul_(3)  # spreads the scores of different inputs
    if own_output:
        network.lm_head.weight = torch.nn.Parameter(torch.randn_like(network.lm_head.weight) / 3)
    network.save_pretrained(path)
    if own_output:  # as in the published files, which transformers 5 reads but does not write
        file = Path(path) / "config.json"
        config = json.loads(file.read_text()) | {"tie_word_embeddings": False}
        config.pop("scale_decoder_outputs", None)
        file.write_text(json.dumps(config))
    tokenizer.save_pretrained(path)
    return str(path)


def tiny_bart(path: Path) -> str:
    """An encoder-decoder that is not a T5."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = t5_tokenizer(("good", "bad"), [])
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=1,
        init_std=0.3,
    )
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def bert_tokenizer() -> Any:
    """WordPiece tokenizer of words and letters; reads 32 tokens."""
    from transformers import BertTokenizer

    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]
    pieces += [f"##{c}" for c in letters if c.isalnum()]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocab, model_max_length=32)


def tiny_bert(path: Path, dropout: float = 0.1) -> str:
    """A headless BERT of two layers, with a WordPiece tokenizer; reads 32 tokens."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.1,  # spreads the scores of different inputs
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def tiny_classifier(
    path: Path, kind: str, outputs: int, dropout: float = 0.1, **settings: Any
) -> str:
    """A BERT-like classifier of one layer; ``kind`` is a model type of transformers."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = bert_tokenizer()
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dim=64,  # DistilBERT's name for it
        max_position_embeddings=40,  # RoBERTa counts from the one after the padding's
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.3,
        num_labels=outputs,
        **settings,
    )
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_config(config)
    for name, weight in network.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_()  # zero in a new network, but not in a trained one
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
