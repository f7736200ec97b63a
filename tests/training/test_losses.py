"""Losses against formulas written out, one document at a time, with their gradients."""

import functools
import math
import random

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import nDCG

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5
from pyterrier_inpars.rerankers._list_training import ListLoss, by_length
from pyterrier_inpars.training.examples import listings
from pyterrier_inpars.training.losses import list_loss, padded, spread

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]

ON_LISTS = ["pairwise", "listwise", "lambda_loss", "margin_mse", "distillation", "adr_mse"]
UNLABELLED = ["distillation", "adr_mse"]
CASES = [
    *((cls, loss) for cls in (MonoT5, CrossEncoder) for loss in ("pointwise", *ON_LISTS)),
    *((BiEncoder, loss) for loss in ("margin_mse", *UNLABELLED)),
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
    "gradient_accumulation_steps": 1,
}
"""After it, the weights are those of before, less 0.1 times the gradient."""


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[type, str]:
    """Without dropout, and saved with the head that a cross-encoder gets."""
    folder = tmp_path_factory.mktemp("models")
    bert = tiny.tiny_bert(folder / "bert", 0.0)
    classifier = tiny.tiny_classifier(folder / "classifier", "bert", 1, dropout=0.0)
    t5 = tiny.tiny_t5(folder / "t5", dropout=0.0)
    return {MonoT5: t5, CrossEncoder: classifier, BiEncoder: bert}


@pytest.fixture(scope="session")
def examples() -> pd.DataFrame:
    """Lists of two to five documents of different lengths; one qid has two positives."""
    rng = np.random.default_rng(0)
    rows = []
    for i, labels in enumerate([(1, 0, 0), (0, 0, 1, 0, 0), (1, 0), (1, 0, 1)]):
        for j, label in enumerate(labels):
            text = " ".join(rng.choice(tiny.WORDS, rng.integers(1, 12)))
            rows.append((f"q{i}", f"what is {tiny.WORDS[i]}", f"d{i}.{j}", text, label))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])
    return frame.assign(score=rng.normal(size=len(frame)) * 3)


def written_out(loss: str, rows: pd.DataFrame, scores: list, temperature: float = 1.0):
    """A loss by its formula: ``scores`` are those of the rows, numbers or tensors of one.

    The losses over pairs are the mean of all pairs, those over lists the mean of the lists, and
    ``adr_mse`` the mean of all documents.
    """
    if loss == "lambda_loss":
        return lambda_loss(rows, scores)
    if loss == "adr_mse":
        return adr_mse(rows, scores)
    terms = []
    rows = rows.reset_index(drop=True)
    for _, own in rows.groupby("qid", sort=False):
        negatives = own.index[own["label"] == 0]
        for positive in own.index[own["label"] == 1]:
            for negative in negatives:
                margin = scores[positive] - scores[negative]
                if loss == "pairwise":
                    terms.append(torch.log(1 + torch.exp(-margin)))
                if loss == "margin_mse":
                    wanted = own["score"][positive] - own["score"][negative]
                    terms.append((margin - wanted) ** 2)
            if loss == "listwise":
                total = sum(torch.exp(scores[i]) for i in [positive, *negatives])
                terms.append(-torch.log(torch.exp(scores[positive]) / total))
        if loss == "distillation":
            total = sum(torch.exp(scores[i] / temperature) for i in own.index)
            teacher = {i: math.exp(own["score"][i] / temperature) for i in own.index}
            teacher = {i: weight / sum(teacher.values()) for i, weight in teacher.items()}
            terms.append(
                sum(
                    p * (math.log(p) - torch.log(torch.exp(scores[i] / temperature) / total))
                    for i, p in teacher.items()
                )
                * temperature**2
            )
    return sum(terms) / len(terms)


def lambda_loss(rows: pd.DataFrame, scores: list, mu: float = 10.0) -> torch.Tensor:
    """NDCG-Loss2++ of Wang et al. 2018 for lists of a positive and its negatives.

    As there is one document of gain 1 in a list, the best DCG is 1.
    """
    terms = []
    rows, numbers = rows.reset_index(drop=True), [float(s.detach()) for s in scores]
    for _, own in rows.groupby("qid", sort=False):
        negatives = own.index[own["label"] == 0]
        for positive in own.index[own["label"] == 1]:
            ranked = sorted([positive, *negatives], key=lambda i: -numbers[i])
            rank = {document: i + 1 for i, document in enumerate(ranked)}

            def gain(i: int) -> float:
                return 1 / math.log2(1 + i)

            for negative in negatives:
                apart = abs(rank[positive] - rank[negative])
                weight = mu * (gain(apart) - gain(apart + 1))
                weight += abs(gain(rank[positive]) - gain(rank[negative]))
                terms.append(
                    weight * torch.log2(1 + torch.exp(scores[negative] - scores[positive]))
                )
    return sum(terms) / len(terms)


def adr_mse(rows: pd.DataFrame, scores: list) -> torch.Tensor:
    """ADR-MSE of Schlatt et al. 2024, with the mean rank for equal scores of the teacher."""
    terms = []
    rows = rows.reset_index(drop=True)
    ranks = rows.groupby("qid")["score"].rank(ascending=False)
    for _, own in rows.groupby("qid", sort=False):
        for i in own.index:
            above = sum(torch.sigmoid(scores[j] - scores[i]) for j in own.index if j != i)
            terms.append((ranks[i] - 1 - above) ** 2 / math.log2(1 + ranks[i]))
    return sum(terms) / len(terms)


def score_plainly(cls: type, path: str, examples: pd.DataFrame) -> tuple:
    """A network of transformers, and the scores of the rows, each read by itself."""
    from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers import AutoModelForSequenceClassification as Classifier

    auto = {MonoT5: AutoModelForSeq2SeqLM, CrossEncoder: Classifier, BiEncoder: AutoModel}[cls]
    network, tokenizer = auto.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)

    def score(query: str, text: str) -> torch.Tensor:
        if cls is MonoT5:
            ids = tokenizer(f"Query: {query} Document: {text} Relevant:", return_tensors="pt")
            said = network(**ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
            vocabulary = tokenizer.get_vocab()
            return said[vocabulary["▁true"]] - said[vocabulary["▁false"]]
        if cls is CrossEncoder:
            return network(**tokenizer(query, text, return_tensors="pt")).logits[0, 0]
        vectors = (
            network(**tokenizer(part, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
            for part in (query, text)
        )
        query_vector, text_vector = (vector / vector.norm() for vector in vectors)
        return 20 * query_vector @ text_vector

    return network, [score(*pair) for pair in zip(examples["query"], examples["text"], strict=True)]


def parameters(reranker) -> dict[str, torch.Tensor]:
    network = reranker.network
    network = getattr(network, "transformers_model", network)
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def pointwise(cls: type, network, path: str, examples: pd.DataFrame, scores: list) -> torch.Tensor:
    """Of a T5 the cross-entropy of the word and the end token, of an encoder the binary one.

    The mean over as many positives as negatives of each qid: the fewer ones count more.
    """
    labels = examples["label"].groupby(examples["qid"])
    more = labels.transform(lambda values: max(values.sum(), (1 - values).sum()))
    times = more / examples.groupby(["qid", "label"])["label"].transform("size")
    if cls is CrossEncoder:
        signs = 2 * examples["label"] - 1
        terms = [
            torch.log(1 + torch.exp(-sign * score))
            for sign, score in zip(signs, scores, strict=True)
        ]
        return sum(n * term for n, term in zip(times, terms, strict=True)) / sum(times)
    from transformers import AutoTokenizer

    tokenizer, terms = AutoTokenizer.from_pretrained(path), []
    for row in examples.itertuples():
        ids = tokenizer(f"Query: {row.query} Document: {row.text} Relevant:", return_tensors="pt")
        said = tokenizer("true" if row.label else "false", return_tensors="pt")["input_ids"]
        terms.append(network(**ids, labels=said).loss)
    return sum(n * term for n, term in zip(times, terms, strict=True)) / sum(times)


class TestWrittenOut:
    """One step of training, of each reranker with each of its losses."""

    @pytest.mark.parametrize(("cls", "loss"), CASES, ids=lambda x: getattr(x, "__name__", x))
    def test_value_and_gradient_of_one_step(self, models, examples, cls, loss):
        if loss == "pointwise":
            network, scores = score_plainly(cls, models[cls], examples)
            expected = pointwise(cls, network, models[cls], examples, scores)
        else:
            network, scores = score_plainly(cls, models[cls], examples)
            expected = written_out(loss, examples, scores, temperature=2.0)
        expected.backward()
        self.check(cls, models, examples, loss, expected, network, ONE_STEP)

    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder, BiEncoder])
    def test_accumulated_gradient_is_that_of_one_batch(self, models, examples, cls):
        """Lists of like size, a few a step or all at once: the same gradient."""
        even = examples[examples["qid"].isin(["q1", "q3"])].drop(index=[5, 7]).copy()
        even["qid"] = ["a"] * 3 + ["b"] * 3
        network, scores = score_plainly(cls, models[cls], even)
        expected = written_out("distillation", even, scores, temperature=2.0)
        expected.backward()
        a_few = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
        self.check(cls, models, even, "distillation", expected, network, ONE_STEP | a_few)

    def check(self, cls, models, examples, loss, expected, network, training) -> None:
        reranker = cls(
            models[cls],
            dtype="float32",
            training=training | {"loss": loss, "temperature": 2.0},
        )
        before = parameters(reranker)
        reranker.fit(examples)
        assert reranker.train_loss == pytest.approx(expected.item(), abs=1e-5, rel=1e-5)
        after = parameters(reranker)
        checked = 0
        for name, weight in network.named_parameters():
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            found = (before[name] - after[name]) / training["learning_rate"]
            torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-4)
            checked += bool(gradient.abs().max() > 1e-3)
        assert checked > 10, "hardly a weight has a gradient to compare"

    def test_binary_is_another_name_of_pointwise(self, models, examples):
        after = [
            parameters(
                CrossEncoder(
                    models[CrossEncoder], training=ONE_STEP | {"loss": loss}, dtype="float32"
                ).fit(examples)
            )
            for loss in ("binary", "pointwise")
        ]
        assert all(torch.equal(after[0][name], after[1][name]) for name in after[0])


NUMBERS = st.floats(-8, 8, width=32)


class TestObjectives:
    """Over hypothetical scores, without a network."""

    @settings(deadline=None, max_examples=40)
    @given(
        lists=st.lists(
            st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=5), min_size=1, max_size=4
        ),
        temperature=st.sampled_from([0.5, 1.0, 3.0]),
        loss=st.sampled_from(ON_LISTS),
    )
    def test_value_and_gradient_are_those_of_the_formula(self, lists, temperature, loss):
        rows = pd.DataFrame(
            [(i, int(j == 0), *pair) for i, own in enumerate(lists) for j, pair in enumerate(own)],
            columns=["qid", "label", "given", "score"],
        )
        plain = torch.tensor(rows["given"].to_numpy(), requires_grad=True)
        expected = written_out(loss, rows, list(plain), temperature)
        expected.backward()
        flat = torch.tensor(rows["given"].to_numpy(), requires_grad=True)
        column = "label" if loss == "lambda_loss" else "score"
        targets = padded([own[column].astype(float).tolist() for _, own in rows.groupby("qid")])
        targets = targets.double()
        value = list_loss(loss, temperature)(spread(flat, targets), targets)
        value.backward()
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(flat.grad, plain.grad, atol=1e-5, rtol=1e-5)

    def test_spread_places_scores_by_list(self):
        targets = padded([[1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0]])
        matrix = spread(torch.arange(7.0), targets)
        assert matrix[targets.isfinite()].tolist() == list(range(7))
        assert matrix.shape == targets.shape == (3, 3)

    @pytest.mark.parametrize("loss", ON_LISTS)
    def test_scores_far_apart_do_not_overflow(self, loss):
        """Neither value nor gradient overflows where a network is very sure and wrong."""
        scores = torch.tensor([[-500.0, 500.0, 0.0]], requires_grad=True)
        sure = [1.0, 0.0] if loss == "lambda_loss" else [400.0, -400.0]
        targets = torch.tensor([[*sure, float("nan")]])
        value = list_loss(loss)(scores, targets)
        value.backward()
        # the ranks of two documents are wrong by 1, and the second counts for 1 / log2(3)
        expected = 0.5 * (1 + 1 / math.log2(3)) if loss == "adr_mse" else 100
        assert value.isfinite() and value > expected - 1e-6
        assert scores.grad.isfinite().all() and scores.grad[0, 2] == 0

    def test_loss_of_a_perfect_student_is_zero(self):
        scores = torch.tensor([[2.0, -1.0, 0.5]])
        for loss in ("margin_mse", "distillation"):
            assert list_loss(loss)(scores + 7, scores).item() == pytest.approx(0, abs=1e-6)


class TestSentenceTransformers:
    """The losses over lists against those of sentence-transformers, on one network."""

    @pytest.mark.parametrize("loss", ["listwise", "pairwise", "lambda_loss", "adr_mse"])
    def test_same_value_and_gradient(self, models, examples, loss):
        from sentence_transformers.cross_encoder import losses

        modules = {"lambda_loss": losses.LambdaLoss, "adr_mse": losses.ADRMSELoss}

        reranker = CrossEncoder(models[CrossEncoder], dtype="float32")
        network, lists = reranker.network, listings(examples, "text", loss)
        inputs = [[row.query for row in lists], [row.texts for row in lists]]
        if loss == "listwise":  # the softmax of labels 100 and 0 is 1 and 0
            oracle, factor = losses.ListNetLoss(network), 100
        elif loss in modules:
            oracle, factor = modules[loss](network), 1
        else:
            oracle, factor = losses.RankNetLoss(network, reduction_log="natural"), 1
        score = functools.partial(reranker._list_scores, at_once=False)
        own = ListLoss(network, score, list_loss(loss))
        found = []
        for module, scale in ((own, 1), (oracle, factor)):
            network.zero_grad()
            value = module(inputs, [scale * torch.tensor(row.targets) for row in lists])
            value.backward()
            gradients = [w.grad.clone() for w in network.parameters() if w.grad is not None]
            found.append((value.item(), gradients))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
        assert len(found[0][1]) > 10
        for gradient, expected in zip(found[0][1], found[1][1], strict=True):
            torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


class TestTeacher:
    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder, BiEncoder])
    @pytest.mark.parametrize("loss", ["margin_mse", *UNLABELLED])
    def test_missing_scores_of_a_teacher(self, models, examples, cls, loss):
        reranker = cls(models[cls], training=ONE_STEP | {"loss": loss})
        error = f"loss='{loss}' learns from the scores of a teacher.* no column 'score'"
        with pytest.raises(ValueError, match=error):
            reranker.fit(examples.drop(columns="score"))
        for bad in (np.nan, -np.inf):
            scores = examples["score"].copy()
            scores[4] = bad
            with pytest.raises(ValueError, match=rf"qid 'q1', docno 'd1.1' is {bad}"):
                reranker.fit(examples.assign(score=scores))

    @pytest.mark.parametrize("bad", [None, "high", pd.NA])
    def test_score_of_a_teacher_that_is_not_a_number(self, examples, bad):
        scores = examples["score"].astype(object)
        scores[4] = bad
        with pytest.raises(ValueError, match=f"qid 'q1', docno 'd1.1' is {bad}"):
            listings(examples.assign(score=scores), "text", "margin_mse")

    @pytest.mark.parametrize("loss", ["margin_mse", *UNLABELLED])
    def test_a_teacher_that_scores_all_documents_of_a_query_alike(self, examples, loss):
        alike = examples.assign(score=examples["qid"].str[1:].astype(float))
        with pytest.raises(ValueError, match=f"loss='{loss}' .* each query the same score"):
            listings(alike, "text", loss)
        alike.loc[0, "score"] += 1
        assert listings(alike, "text", loss)

    @pytest.mark.parametrize("cls", [MonoT5, CrossEncoder, BiEncoder])
    def test_distillation_reads_labels_only_to_validate(self, models, examples, cls):
        def make(loss, more):
            return cls(models[cls], training=ONE_STEP | {"loss": loss} | more, dtype="float32")

        unlabelled = examples.drop(columns="label")
        frames = (examples, unlabelled, examples.assign(label="no"))
        first, *others = (parameters(make("distillation", {}).fit(frame)) for frame in frames)
        assert all(torch.equal(other[n], first[n]) for other in others for n in first)
        for loss, more in (("margin_mse", {}), ("distillation", {"held_out": 0.5})):
            with pytest.raises(pt.validate.InputValidationError, match="label"):
                make(loss, more).fit(unlabelled)
        with pytest.raises(ValueError, match="label must be 1 .* or 0"):
            make("distillation", {"held_out": 0.5}).fit(frames[2])

    def test_another_reranker_is_the_teacher(self, models, examples):
        """A pipeline would train a teacher of these classes, so it is wrapped there."""
        unscored = examples.drop(columns="score")
        teacher = CrossEncoder(models[CrossEncoder], dtype="float32")
        direct, last = (
            MonoT5(models[MonoT5], training=ONE_STEP | {"loss": "margin_mse"}, dtype="float32")
            for _ in range(2)
        )
        direct.fit(teacher(unscored))
        _, scores = score_plainly(MonoT5, models[MonoT5], examples)
        expected = written_out("margin_mse", teacher(unscored), scores).item()
        assert direct.train_loss == pytest.approx(expected, rel=1e-5)
        (pt.apply.generic(teacher.transform) >> last).fit(unscored, None)
        assert last.train_loss == direct.train_loss

    def test_listwise_does_not_read_scores(self, models, examples):
        for cls in (MonoT5, CrossEncoder):
            one, other = (
                parameters(
                    cls(models[cls], training=ONE_STEP | {"loss": "listwise"}, dtype="float32").fit(
                        frame
                    )
                )
                for frame in (examples, examples.assign(score=np.nan))
            )
            assert all(torch.equal(one[name], other[name]) for name in one)


class TestLists:
    @pytest.mark.parametrize(("cls", "loss"), [case for case in CASES if case[1] != "pointwise"])
    def test_no_list_to_learn_from(self, models, examples, cls, loss):
        apart = examples.assign(qid=examples["docno"])
        needed = "two documents" if loss in UNLABELLED else "a positive and a negative"
        with pytest.raises(ValueError, match=f"no qid has {needed}, which loss='{loss}' needs"):
            cls(models[cls], training={"loss": loss}).fit(apart)

    @pytest.mark.parametrize(("cls", "loss"), [case for case in CASES if case[1] != "pointwise"])
    def test_batch_size_counts_lists(self, models, examples, cls, loss):
        """q3 has two positives: two lists of their own, but one of all its rows."""
        training = {
            "per_device_train_batch_size": 2,
            "num_train_epochs": 1,
            "max_steps": -1,
            "logging_steps": 1,
        }
        alone = pd.DataFrame([("q9", "what", "d9", "a river", 1, 1.0)], columns=examples.columns)
        reranker = cls(models[cls], training=ONE_STEP | {"loss": loss} | training)
        reranker.fit(pd.concat([examples, alone], ignore_index=True))
        assert reranker.history[-1]["step"] == (2 if loss in UNLABELLED else 3)

    def test_batches_are_of_similar_length(self):
        """Every list once an epoch, the longest first, and neighbours of like length together."""
        from datasets import Dataset

        rng = np.random.default_rng(0)
        longest = rng.integers(20, 400, 200)
        columns = {
            "query": ["q"] * 200,
            "texts": [["x" * rng.integers(1, 20), "x" * length] for length in longest],
        }
        sampler = by_length(
            Dataset.from_dict(columns), 8, False, generator=torch.Generator().manual_seed(0)
        )
        epochs = [list(sampler), list(sampler)]
        assert epochs[0] != epochs[1]
        for batches in epochs:
            assert sorted(i for batch in batches for i in batch) == list(range(200))
            assert longest[batches[0][0]] == longest.max()
            spreads = [np.ptp(longest[batch]) for batch in batches]
            assert np.mean(spreads) < np.mean(np.ptp(longest.reshape(25, 8), axis=1)) / 3
        pairs = columns | {"texts": [texts[1] for texts in columns["texts"]]}
        again = by_length(
            Dataset.from_dict(pairs), 8, False, generator=torch.Generator().manual_seed(0)
        )
        assert list(again) == epochs[0]


FRUIT, PHRASES = tiny.WORDS[:16], ["", "what is", "what is a", "about", "the good", "a text about"]


def holding_the_word(num_queries: int, num_negatives: int, seed: int, held_out: bool):
    """A document is relevant if it holds the query's fruit: nothing but the labels tells this.

    The queries of phrase and fruit held out are not among the others.
    """
    rng = random.Random(seed)
    pairs = [(i, j) for i in range(len(PHRASES)) for j in range(len(FRUIT))]
    pairs = [(i, j) for i, j in pairs if ((i + j) % 4 == 0) == held_out]
    rows = []
    for number in range(num_queries):
        phrase, fruit = rng.choice(pairs)
        others = [word for word in FRUIT if word != FRUIT[fruit]]
        for j in range(num_negatives + 1):
            text = rng.sample(others, 5)
            if j == 0:
                text[rng.randrange(5)] = FRUIT[fruit]
            query = f"{PHRASES[phrase]} {FRUIT[fruit]}".strip()
            rows.append((f"q{number}", query, f"d{number}.{j}", " ".join(text), int(j == 0)))
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "label"])


def small_t5(path, seed: int) -> str:
    from transformers import AutoModelForSeq2SeqLM, T5Config

    tokenizer = tiny.t5_tokenizer(("true", "false"), [])
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=tokenizer.pad_token_id,
        dropout_rate=0.0,
        n_positions=48,
    )
    torch.manual_seed(seed)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def small_bert(path, seed: int) -> str:
    from transformers import BertConfig, BertModel

    tokenizer = tiny.bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
    )
    torch.manual_seed(seed)
    network = BertModel(config)
    network.embeddings.word_embeddings.weight.data.mul_(5)  # words apart, as T5's are when new
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.slow
class TestLearning:
    """An untrained network learns to look for the query's word in the document."""

    def learn(self, reranker, num_negatives: int) -> tuple[pd.DataFrame, float]:
        """Results for queries held out, and their nDCG@10 after training."""
        unseen = holding_the_word(60, 19, 1, held_out=True)

        def ndcg() -> float:
            qrels = unseen[["qid", "docno", "label"]]
            return pt.Evaluate(reranker(unseen), qrels, [nDCG @ 10])["nDCG@10"]

        assert ndcg() < 0.5
        reranker.fit(holding_the_word(800, num_negatives, 0, held_out=False))
        return unseen, ndcg()

    TRAINING = {
        "loss": "listwise",
        "lr_scheduler_type": "linear",
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 3,
    }

    def test_monot5(self, tmp_path, seed=0):
        from pyterrier_t5 import MonoT5ReRanker

        reranker = MonoT5(
            small_t5(tmp_path / "t5", seed),
            dtype="float32",
            training=self.TRAINING | {"seed": seed},
        )
        unseen, ndcg = self.learn(reranker, num_negatives=7)
        assert ndcg > 0.95
        path = str(reranker.save(tmp_path / "saved"))
        oracle = MonoT5ReRanker(
            model=path, tok_model=path, batch_size=1, device="cpu", verbose=False
        )
        some = unseen.head(200)
        np.testing.assert_allclose(reranker(some)["score"], oracle(some)["score"], atol=1e-4)

    def test_cross_encoder(self, tmp_path, seed=0):
        reranker = CrossEncoder(
            small_bert(tmp_path / "bert", seed),
            dtype="float32",
            training=self.TRAINING | {"seed": seed, "learning_rate": 2e-3, "num_train_epochs": 6},
        )
        assert self.learn(reranker, num_negatives=3)[1] > 0.95
