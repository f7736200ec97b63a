"""Inputs at the limits of a network: its positions, the side of the padding, no padding token."""

import json
import shutil

import numpy as np
import pytest
import tiny
import tiny_llm
import torch
from tiny_training import scores

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5, QueryLikelihood

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]

OFFSET = ["roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text"]
"""Models that number positions from the one after the padding token's, 0 here; MPNet's is 1."""


def changed(folder, target, file="tokenizer_config.json", **settings) -> str:
    """A copy of a checkpoint with other settings; None removes one."""
    shutil.copytree(folder, target)
    settings_file = target / file
    now = json.loads(settings_file.read_text()) | settings
    settings_file.write_text(json.dumps({k: v for k, v in now.items() if v is not None}))
    return str(target)


@pytest.fixture(scope="module")
def llms(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("llms")
    return {kind: tiny_llm.save(folder / kind, kind) for kind in ("llama", "gpt2")}


class TestPositions:
    @pytest.mark.parametrize("kind", OFFSET)
    def test_a_text_of_all_positions(self, frame, tmp_path, kind):
        """Without a limit of the tokenizer, the text is cut at the last position."""
        path = tiny.tiny_classifier(tmp_path / "model", kind, 1)  # 40 positions, from the first on
        path = changed(path, tmp_path / "no limit", model_max_length=None)
        positions = 38 if kind == "mpnet" else 39
        for cls in (CrossEncoder, BiEncoder):
            reranker = cls(path, dtype="float32")
            found = scores(reranker, frame)
            assert reranker.network.max_seq_length == positions
            np.testing.assert_array_equal(
                found, scores(cls(path, dtype="float32", max_length=positions), frame)
            )
            with pytest.raises(ValueError, match=f"max_length=40 is more than the {positions} pos"):
                cls(path, dtype="float32", max_length=40)(frame)
            saved = reranker.save(tmp_path / cls.__name__)
            np.testing.assert_array_equal(scores(cls(saved, dtype="float32"), frame), found)


class TestPadding:
    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder, BiEncoder])
    def test_on_the_left(self, cls, models, frame, tmp_path):
        """Scores are those of a tokenizer that pads on the right, for any batch."""
        left = changed(models[cls], tmp_path / "left", padding_side="left")
        expected = scores(cls(models[cls], dtype="float32", batch_size=1), frame)
        for batch_size in (1, 8):
            found = scores(cls(left, dtype="float32", batch_size=batch_size), frame)
            np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_a_t5_tokenizer_that_truncates_on_the_left(self, models, frame, tmp_path):
        """The query stays: the document is cut."""
        left = changed(models[MonoT5], tmp_path / "left", truncation_side="left")
        expected = scores(MonoT5(models[MonoT5], dtype="float32"), frame)
        np.testing.assert_array_equal(scores(MonoT5(left, dtype="float32"), frame), expected)

    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_query_likelihood(self, llms, frame, tmp_path, kind):
        left = changed(llms[kind], tmp_path / "left", padding_side="left")
        expected = scores(QueryLikelihood(llms[kind], dtype="float32", batch_size=1), frame)
        for path in (left, llms[kind]):
            found = scores(QueryLikelihood(path, dtype="float32", batch_size=8), frame)
            np.testing.assert_allclose(found, expected, atol=1e-4)

    @pytest.mark.parametrize("appended", [False, True])
    @pytest.mark.parametrize("kind", ["llama", "gpt2"])
    def test_decoder_without_a_padding_token(self, llms, frame, tmp_path, kind, appended):
        """Scores are the logits of transformers, which reads one pair at a time."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        path = str(tmp_path / "model")
        torch.manual_seed(0)
        network = AutoModelForSequenceClassification.from_pretrained(llms[kind], num_labels=1)
        network.config.pad_token_id = None
        network.save_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(llms[kind])
        tokenizer.add_eos_token = appended
        tokenizer.save_pretrained(path)
        path = changed(path, tmp_path / "no padding", pad_token=None, add_eos_token=appended)
        tokenizer = AutoTokenizer.from_pretrained(path)
        assert tokenizer.pad_token is None
        pairs = zip(frame["query"], frame["text"], strict=True)
        rows = [tokenizer([query], [text], return_tensors="pt") for query, text in pairs]
        assert all((row["input_ids"][0, -1] == 1) == appended for row in rows)
        with torch.no_grad():
            expected = [network.eval()(**row).logits.item() for row in rows]
        for batch_size in (1, 8):
            reranker = CrossEncoder(path, dtype="float32", batch_size=batch_size)
            np.testing.assert_allclose(scores(reranker, frame), expected, atol=1e-4)
        one, many = (BiEncoder(path, dtype="float32", batch_size=size) for size in (1, 8))
        np.testing.assert_allclose(scores(one, frame), scores(many, frame), atol=1e-4)
        trained = reranker.fit(frame.assign(label=[1, 0, 0] * 5))
        saved = trained.save(tmp_path / "saved")
        np.testing.assert_array_equal(
            scores(CrossEncoder(saved, dtype="float32"), frame), scores(trained, frame)
        )
