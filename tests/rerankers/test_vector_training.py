"""Lists in the training of a bi-encoder: in-batch negatives, guide, and gradient caching."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import make_examples, shapes_of, weights

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder
from pyterrier_inpars.training.losses import in_batch, padded
from pyterrier_inpars.training.options import TrainingOptions

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]

ONE_STEP = {
    "max_steps": 1,
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "per_device_train_batch_size": 100,
    "held_out": 0.0,
}
CADET = {"recipe": "cadet", "in_batch_weight": 0.5}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"), 0.0)


@pytest.fixture(scope="module")
def lists() -> pd.DataFrame:
    """Lists of two to five documents, some of which are in several lists."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(tiny.WORDS, rng.integers(1, 12))) for _ in range(9)]
    rows = []
    for i, size in enumerate([3, 5, 2, 4]):
        for j, number in enumerate(rng.choice(9, size, replace=False)):
            row = (f"q{i}", f"what is {tiny.WORDS[i]}", f"d{number}", texts[number], int(j == 0))
            rows.append(row)
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])
    return frame.assign(score=rng.uniform(size=len(frame)))


def plain_in_batch(scores: dict, teacher: dict, margin: float) -> torch.Tensor:
    """InfoNCE of lists: ``scores`` by query and document, ``teacher`` the same for the lists."""
    terms = []
    for query, own in teacher.items():
        positive = max(own, key=own.get)
        least = own[positive] - margin * abs(own[positive])
        suspected = {document for document in own if own[document] > least} - {positive}
        total = sum(torch.exp(s) for d, s in scores[query].items() if d not in suspected)
        terms.append(torch.log(total) - scores[query][positive])
    return sum(terms) / len(terms)


def plain_distillation(scores: dict, teacher: dict, temperature: float) -> torch.Tensor:
    terms = []
    for query, own in teacher.items():
        total = sum(torch.exp(scores[query][document]) for document in own)
        weight = {document: math.exp(score / temperature) for document, score in own.items()}
        for document, value in weight.items():
            p = value / sum(weight.values())
            terms.append(p * (math.log(p) - torch.log(torch.exp(scores[query][document]) / total)))
    return sum(terms) / len(teacher)


class Plain:
    """A network of transformers that embeds each text by itself."""

    def __init__(self, path: str):
        from transformers import AutoModel, AutoTokenizer

        self.network = AutoModel.from_pretrained(path).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)

    def __call__(self, text: str) -> torch.Tensor:
        states = self.network(**self.tokenizer(text, return_tensors="pt")).last_hidden_state
        vector = states[0].mean(dim=0)
        return vector / vector.norm()

    def scores(self, frame: pd.DataFrame) -> dict:
        """Returns 20 times the cosine of each query with each document of the frame."""
        documents = {text: self(text) for text in frame["text"].unique()}
        queries = frame.drop_duplicates("qid").set_index("qid")["query"]
        return {
            qid: {text: 20 * self(query) @ vector for text, vector in documents.items()}
            for qid, query in queries.items()
        }


def check_gradient(reranker: BiEncoder, plain: Plain, expected: torch.Tensor, frame) -> None:
    """Checks loss and gradients of one step of SGD."""
    expected.backward()
    before = {n: w.detach().clone() for n, w in reranker.network.named_parameters()}
    reranker.fit(frame)
    assert reranker.train_loss == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    checked = 0
    for (name, weight), own in zip(
        reranker.network.named_parameters(), plain.network.parameters(), strict=True
    ):
        gradient = torch.zeros_like(weight) if own.grad is None else own.grad
        torch.testing.assert_close((before[name] - weight) / 0.1, gradient, atol=1e-5, rtol=1e-4)
        checked += bool(gradient.abs().max() > 1e-3)
    assert checked > 10, "hardly a weight has a gradient to compare"


NUMBERS = st.floats(-4, 4, width=32)


@st.composite
def batches(draw):
    """Scores of some documents for each query, and lists of some of them with teacher scores."""
    documents, queries = draw(st.integers(2, 6)), draw(st.integers(1, 4))
    scores = [[draw(NUMBERS) for _ in range(documents)] for _ in range(queries)]
    own = st.lists(st.integers(0, documents - 1), min_size=2, unique=True)
    lists = [draw(own) for _ in range(queries)]
    teacher = [
        dict(
            zip(
                numbers,
                draw(st.lists(NUMBERS, min_size=len(numbers), max_size=len(numbers), unique=True)),
                strict=True,
            )
        )
        for numbers in lists
    ]
    return scores, teacher


class TestInBatch:
    @settings(deadline=None, max_examples=60)
    @given(batches(), st.sampled_from([0.0, 0.4]))
    def test_value_and_gradient_are_those_of_the_formula(self, batch, margin):
        """A document of no list, as an XLA device has, is not a negative."""
        scores, teacher = batch
        used = {document for own in teacher for document in own}
        plain = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
        by_query = {
            q: {d: plain[q, d] for d in range(plain.shape[1]) if d in used}
            for q in range(len(teacher))
        }
        expected = plain_in_batch(by_query, dict(enumerate(teacher)), margin)
        expected.backward()
        matrix = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
        longest = max(map(len, teacher))
        place = torch.tensor([[*own] + [0] * (longest - len(own)) for own in teacher])
        targets = padded([[*own.values()] for own in teacher]).double()
        value = in_batch(matrix, place, targets, margin)
        value.backward()
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(matrix.grad, plain.grad, atol=1e-6, rtol=1e-6)

    def test_two_lists_of_one_query(self):
        """Neither has the positive of the other as a negative; another query has both."""
        scores = torch.tensor([[0.1, 0.7, -0.3, 0.2], [0.1, 0.7, -0.3, 0.2], [0.5, -0.2, 0.4, 0.9]])
        place = torch.tensor([[0, 2], [1, 2], [3, 2]])
        targets = torch.tensor([[0.9, 0.0], [0.8, 0.1], [0.7, 0.1]])
        expected = [([0, 2, 3], 0), ([1, 2, 3], 1), ([0, 1, 2, 3], 3)]
        terms = [
            torch.logsumexp(scores[row, columns], 0) - scores[row, positive]
            for row, (columns, positive) in enumerate(expected)
        ]
        value = in_batch(scores, place, targets, queries=torch.tensor([0, 0, 2]))
        torch.testing.assert_close(value, sum(terms) / 3)


class TestLists:
    @pytest.mark.parametrize("size", [None, 3])
    def test_one_step_of_cadet(self, path, lists, size):
        """Distillation at two temperatures and masked InfoNCE, with and without caching."""
        plain = Plain(path)
        scores = plain.scores(lists)
        teacher = {q: dict(own[["text", "score"]].values) for q, own in lists.groupby("qid")}
        expected = plain_distillation(scores, teacher, 0.3)
        expected = expected + 0.5 * plain_in_batch(scores, teacher, 0.4)
        training = ONE_STEP | CADET | {"mini_batch_size": size}
        reranker = BiEncoder(path, dtype="float32", training=training)
        check_gradient(reranker, plain, expected, lists)

    def test_one_step_of_lists_of_one_query(self, path, lists):
        """Their query has the positives of all of them."""
        lists = lists.assign(query=lists["query"].replace("what is banana", "what is apple"))
        assert lists["query"].nunique() == 3
        plain = Plain(path)
        scores = plain.scores(lists)
        teacher = {q: dict(own[["text", "score"]].values) for q, own in lists.groupby("qid")}
        kept = {q: dict(own) for q, own in scores.items()}
        for one, other in (("q0", "q1"), ("q1", "q0")):
            best = max(teacher[other].values())
            mine = max(teacher[one], key=teacher[one].get)
            for text, score in teacher[other].items():
                if score > 0.6 * best and text != mine:
                    kept[one].pop(text)
        expected = plain_distillation(scores, teacher, 0.3)
        expected = expected + 0.5 * plain_in_batch(kept, teacher, 0.4)
        reranker = BiEncoder(path, dtype="float32", training=ONE_STEP | CADET)
        check_gradient(reranker, plain, expected, lists)

    def test_each_document_of_a_batch_is_encoded_once(self, path, lists):
        reranker = BiEncoder(path, dtype="float32", training=ONE_STEP | CADET)
        shapes = shapes_of(reranker)
        reranker.fit(lists)
        assert [rows for rows, _ in shapes] == [4, lists["text"].nunique()]
        assert lists["text"].nunique() < len(lists)

    def test_cached_batch_is_embedded_in_parts(self, path, lists):
        training = ONE_STEP | CADET | {"mini_batch_size": 2}
        reranker = BiEncoder(path, dtype="float32", training=training)
        shapes = shapes_of(reranker)
        reranker.fit(lists)
        assert {rows for rows, _ in shapes} <= {1, 2}
        lengths = [tokens for _, tokens in shapes[2 : 2 + math.ceil(lists["text"].nunique() / 2)]]
        assert lengths == sorted(lengths) and lengths[0] < lengths[-1], "short texts are padded"

    def test_constant_shapes_for_xla(self, path, lists):
        """Empty texts that fill a batch change nothing."""
        from pyterrier_inpars.rerankers._vector_training import ListCollator, VectorListLoss

        reranker = BiEncoder(path, dtype="float32", training=CADET)
        network = reranker.network
        rows = [
            {"query": own["query"].iloc[0], "texts": [*own["text"]], "label": [*own["score"]]}
            for _, own in lists.groupby("qid")
        ]
        values = []
        for longest in (None, 6):
            batch = ListCollator(network.preprocess, longest=longest)(rows)
            features = [
                {k.removeprefix(p): v for k, v in batch.items() if k.startswith(p)}
                for p in ("query_", "document_")
            ]
            loss = VectorListLoss(network, reranker._objective(reranker.training_options))
            values.append(loss(features, batch["label"]).item())
            if longest:
                assert len(batch["document_input_ids"]) == 4 * 6
                assert batch["label"].shape == batch["document_place"].shape == (4, 6)
        assert values[0] == pytest.approx(values[1], rel=1e-5)

    def test_student_learns_the_order_of_its_teacher(self, path):
        """The loss falls, and the scores come closer to those of the teacher."""
        examples = make_examples(48, 3, 0, "pair")
        taught = examples.assign(score=examples["label"] * 0.6 + 0.2)
        training = {"recipe": "cadet", "learning_rate": 2e-3, "num_train_epochs": 20}
        training |= {"per_device_train_batch_size": 8, "held_out": 0.0}
        student = BiEncoder(path, dtype="float32", training=training)
        before = student(taught)["score"]
        student.fit(taught)
        losses = [entry["loss"] for entry in student.history if "loss" in entry]
        assert losses[-1] < losses[0] / 2
        after = student(taught)["score"]
        assert np.corrcoef(before, taught["score"])[0, 1] < 0.3
        assert np.corrcoef(after, taught["score"])[0, 1] > 0.7


class TestCachedInBatch:
    def test_same_weights_as_without_caching(self, path):
        examples = make_examples(16, 1, 0, "pair")
        found = []
        for size in (None, 3):
            training = ONE_STEP | {"mini_batch_size": size}
            reranker = BiEncoder(path, dtype="float32", training=training)
            before = weights(reranker)
            found.append(weights(reranker.fit(examples)) - before)
        torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)
        assert found[0].abs().max() > 1e-3


class TestGuide:
    @pytest.fixture
    def guide(self, tmp_path) -> str:
        """Another network than the student's, so that it masks other documents."""
        from transformers import AutoModel

        path = tiny.tiny_bert(tmp_path / "guide", 0.0)
        network = AutoModel.from_pretrained(path)
        torch.manual_seed(5)
        for weight in network.parameters():
            weight.data.add_(torch.randn_like(weight) * 0.1)
        network.save_pretrained(path)
        return path

    @pytest.mark.parametrize("margin", [0.0, 0.05])
    def test_one_step(self, path, guide, margin):
        """In-batch cross-entropy without the documents that the guide scores too high."""
        examples = make_examples(6, 1, 0, "pair")
        assert examples["text"].is_unique
        plain = Plain(path)
        scores = plain.scores(examples)
        with torch.no_grad():
            guided = Plain(guide).scores(examples)
        terms, masked = [], 0
        for row in examples[examples["label"] == 1].itertuples():
            own = guided[row.qid][row.text]
            kept = [
                text
                for text, score in guided[row.qid].items()
                if text == row.text or score <= own - margin * abs(own)
            ]
            masked += len(guided[row.qid]) - len(kept)
            total = sum(torch.exp(scores[row.qid][text]) for text in kept)
            terms.append(torch.log(total) - scores[row.qid][row.text])
        assert masked > 5
        training = ONE_STEP | {"guide": guide, "guide_margin": margin}
        reranker = BiEncoder(path, dtype="float32", training=training)
        check_gradient(reranker, plain, sum(terms) / len(terms), examples)
        assert reranker.provenance["settings"]["reranker"]["guide"] == "guide"

    def test_another_prompt(self, path, guide, tmp_path):
        """The guide reads what the student reads."""
        prompted = BiEncoder(guide, query_prompt="about the ").save(tmp_path / "prompted")
        training = ONE_STEP | {"guide": prompted}
        examples = make_examples(6, 1, 0, "pair")
        with pytest.warns(UserWarning, match="has the prompts .'about the ', None. for queries"):
            BiEncoder(path, training=training).fit(examples)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*has the prompts")
            BiEncoder(path, training=training, query_prompt="about the ").fit(examples)


class TestOptions:
    def test_recipe_sets_the_loss_unless_another_is_given(self, path):
        found = [
            BiEncoder(path, training=training).training_options
            for training in ("cadet", CADET, {"recipe": "cadet", "loss": "adr_mse"}, "gpl")
        ]
        assert [options.loss for options in found] == [
            *("distillation", "distillation", "adr_mse", "margin_mse")
        ]
        assert [options.teacher_temperature for options in found] == [0.3, 0.3, 0.3, None]
        assert [options.in_batch_weight for options in found] == [0.1, 0.5, 0.1, None]
        still = {"recipe": "cadet", "in_batch_weight": 0.0}
        assert BiEncoder(path, training=still).training_options.in_batch_weight == 0

    @pytest.mark.parametrize(
        "training",
        [{"in_batch_weight": 0.1}, {"guide": "g"}, {"guide_margin": 0.1}, {"mini_batch_size": 8}],
    )
    def test_options_of_a_bi_encoder(self, path, training):
        with pytest.raises(TypeError, match=f"{next(iter(training))} is for BiEncoder only"):
            CrossEncoder(path, training=training)

    @pytest.mark.parametrize(
        ("training", "error"),
        [
            ({"guide": "g", "loss": "distillation"}, "guide is for loss='in_batch'"),
            ({"in_batch_weight": 0.1}, "in_batch_weight is for losses over lists"),
            ({"in_batch_weight": -1}, "in_batch_weight must be at least 0, not -1"),
            ({"guide_margin": -1}, "guide_margin must be at least 0, not -1"),
            ({"mini_batch_size": 0}, "mini_batch_size must be a whole number of at least 1"),
            ({"teacher_temperature": 0}, "teacher_temperature must be above 0, not 0"),
        ],
    )
    def test_options_that_do_not_fit(self, path, training, error):
        with pytest.raises(ValueError, match=error):
            BiEncoder(path, training=training)

    def test_guide_that_is_not_a_name(self):
        with pytest.raises(TypeError, match="guide must be the name or path of a model, not 3"):
            TrainingOptions(guide=3)

    def test_static_embeddings_are_not_cached(self, path):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        from pyterrier_inpars.rerankers._vector_training import VectorListLoss

        static = SentenceTransformer(
            modules=[StaticEmbedding(tiny.bert_tokenizer()._tokenizer, embedding_dim=8)]
        )
        with pytest.raises(ValueError, match="static embeddings: leave it out"):
            VectorListLoss(static, torch.dot, 8)


class TestAdapter:
    """A linear layer on the vectors of the untrained network."""

    TRAINING = {"adapter": True, "learning_rate": 1e-2, "held_out": 0.0}

    @pytest.mark.parametrize(
        "training", [{"loss": "in_batch"}, {"recipe": "cadet"}, {"loss": "margin_mse"}]
    )
    def test_one_step(self, path, lists, training):
        """The scores are those of the frozen vectors times the matrix, in the saved model too."""
        training = ONE_STEP | self.TRAINING | {"learning_rate": 0.1} | training
        reranker = BiEncoder(path, dtype="float32", training=training)
        before = weights(reranker)
        queries, texts = (
            torch.from_numpy(reranker.encode(lists[column].tolist(), task))
            for column, task in (("query", "query"), ("text", "document"))
        )
        reranker.fit(lists)
        *_, matrix = reranker.network.parameters()
        assert matrix.shape == (32, 32)
        assert torch.equal(weights(reranker)[: len(before)], before), "the network is frozen"
        assert (matrix - torch.eye(32)).abs().max() > 1e-3
        cosines = torch.cosine_similarity(queries @ matrix.T, texts @ matrix.T)
        np.testing.assert_allclose(reranker(lists)["score"], cosines.detach(), atol=1e-5)

    def test_gradient_is_that_of_the_written_out_loss(self, path, lists):
        training = ONE_STEP | self.TRAINING | CADET | {"learning_rate": 0.1}
        reranker = BiEncoder(path, dtype="float32", training=training)
        matrix = torch.eye(32, requires_grad=True)

        def vector(text: str) -> torch.Tensor:
            mapped = matrix @ torch.from_numpy(reranker.encode([text])[0])
            return mapped / mapped.norm()

        scores = {
            qid: {
                text: 20 * vector(own["query"].iloc[0]) @ vector(text)
                for text in lists["text"].unique()
            }
            for qid, own in lists.groupby("qid")
        }
        teacher = {q: dict(own[["text", "score"]].values) for q, own in lists.groupby("qid")}
        expected = plain_distillation(scores, teacher, 0.3)
        expected = expected + 0.5 * plain_in_batch(scores, teacher, 0.4)
        expected.backward()
        reranker.fit(lists)
        *_, trained = reranker.network.parameters()
        assert reranker.train_loss == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(
            (torch.eye(32) - trained) / 0.1, matrix.grad, atol=1e-5, rtol=1e-4
        )

    def test_saved_and_validated(self, path, tmp_path):
        """The start is a candidate, and every text is encoded once in training."""
        examples = make_examples(32, 3, 0, "pair")
        validation = make_examples(16, 3, 1, "pair")
        training = self.TRAINING | {"loss": "in_batch", "num_train_epochs": 10}
        reranker = BiEncoder(path, dtype="float32", training=training)
        shapes = shapes_of(reranker)
        reranker.fit(examples, validation=validation)
        texts = examples["query"].nunique() + examples["text"].nunique()
        evaluated = validation["query"].nunique() + validation["text"].nunique()
        candidates = len(reranker.provenance["verdict"]["systems"])
        assert candidates >= 5
        assert sum(rows for rows, _ in shapes) == texts + 5 * evaluated
        assert reranker.verdict.loc[reranker.verdict["kept"], "system"].item() != "start"
        loaded = BiEncoder(reranker.save(tmp_path / "saved"), dtype="float32")
        np.testing.assert_array_equal(loaded(examples)["score"], reranker(examples)["score"])
        assert reranker.provenance["settings"]["reranker"]["adapter"] is True

    def test_layer_is_removed_if_training_fails(self, path, lists):
        training = self.TRAINING | {"optim": "adamw_bnb_8bit"}
        reranker = BiEncoder(path, dtype="float32", device="cpu", training=training)
        before = weights(reranker)
        with pytest.raises(ValueError, match="memory of a CUDA GPU"):
            reranker.fit(lists)
        assert torch.equal(weights(reranker), before)

    @pytest.mark.parametrize(
        "more", [{"output_dir": "out"}, {"patience": 2}, {"lora": True}, {"guide": "g"}]
    )
    def test_options_without_effect(self, path, more):
        with pytest.raises(ValueError, match=f"without {next(iter(more))}: leave it out"):
            BiEncoder(path, training=self.TRAINING | more)
        with pytest.raises(TypeError, match="adapter is for BiEncoder only"):
            CrossEncoder(path, training={"adapter": True})
        with pytest.raises(TypeError, match="adapter must be True or False, not 64"):
            BiEncoder(path, training={"adapter": 64})
