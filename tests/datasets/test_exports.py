"""Formats of other packages: round trips, and loading by the packages themselves."""

import json

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_inpars import SyntheticQueries
from pyterrier_inpars._stage import as_frame
from pyterrier_inpars.datasets import BeirFolder, exports
from pyterrier_inpars.datasets.exports import _rows

QUERIES = pd.DataFrame(
    {
        "qid": ["d1-1", "d1-2", "d2-1"],
        "query": ["what is coral?", "Où est\u2028l'algue", 'a "quoted" query'],
        "docno": ["d1", "d1", "d2"],
        "text": ["Coral polyps\texpel algae.\n", "Coral polyps\texpel algae.\n", "Other."],
        "score": [-0.5, np.nan, -2.0],
        "log_probs": [[-0.25, -0.75], np.nan, [-2.0]],
        "type": ["question", "keywords", np.nan],
        "number": pd.Series([1, 2, 3], dtype=object),
    }
)
EXAMPLES = pd.DataFrame(
    [
        ("q1", "what is coral?", "d1", "Coral polyps.", 1, 3.5),
        ("q1", "what is coral?", "d2", "Other.", 0, -1.0),
        ("q2", "second", "d2", "Other.", 1, 2.0),
        ("q1", "what is coral?", "d3", "A\tthird {}\n", 0, 0.25),
        ("q2", "second", "d1", "Coral polyps.", 0, 1.5),
        ("q1", "what is coral?", "d4", "Also on coral.", 1, 3.0),
    ],
    columns=["qid", "query", "docno", "text", "label", "score"],
)
PAIR = ["qid", "docno"]


def in_order(frame):
    return frame.sort_values(PAIR, ignore_index=True)


def same_pairs(found, expected, columns):
    pd.testing.assert_frame_equal(
        in_order(found)[columns], in_order(expected)[columns], check_dtype=False
    )


@pytest.fixture
def artifact(tmp_path):
    return SyntheticQueries(tmp_path / "queries", shard_size=1).index(without_missing(QUERIES))


class TestParquetAndDatasets:
    def test_round_trip(self, tmp_path):
        exports.write_parquet(QUERIES, tmp_path / "new" / "q.parquet")
        found = exports.read_parquet(tmp_path / "new" / "q.parquet")
        pd.testing.assert_frame_equal(found, QUERIES, check_dtype=False)
        assert found["number"].tolist() == [1, 2, 3] and isinstance(found["log_probs"][0], list)
        dataset = exports.to_dataset(QUERIES)
        assert dataset[1]["log_probs"] is None and dataset.column_names == list(QUERIES)
        pd.testing.assert_frame_equal(exports.from_dataset(dataset), found)

    def test_datasets_and_pandas_load_the_file(self, tmp_path):
        import datasets

        exports.write_parquet(QUERIES, tmp_path / "q.parquet")
        loaded = datasets.load_dataset(
            "parquet",
            data_files=str(tmp_path / "q.parquet"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        pd.testing.assert_frame_equal(
            exports.from_dataset(loaded), exports.read_parquet(tmp_path / "q.parquet")
        )
        assert pd.read_parquet(tmp_path / "q.parquet")["qid"].tolist() == QUERIES["qid"].tolist()

    def test_an_artifact_is_streamed(self, tmp_path, artifact, monkeypatch):
        """With fields that only later rows have."""
        monkeypatch.setattr(_rows, "CHUNK", 1)
        exports.write_parquet(artifact, tmp_path / "q.parquet")
        found = exports.read_parquet(tmp_path / "q.parquet")
        expected = artifact.get_results()
        pd.testing.assert_frame_equal(found[list(expected)], expected, check_dtype=False)
        assert exports.from_dataset(exports.to_dataset(artifact)).equals(found)
        again = SyntheticQueries(tmp_path / "again").index(without_missing(found))
        pd.testing.assert_frame_equal(again.get_results(), expected)

    def test_no_rows(self, tmp_path):
        exports.write_parquet(QUERIES.head(0), tmp_path / "q.parquet")
        assert list(exports.read_parquet(tmp_path / "q.parquet")) == list(QUERIES)
        assert len(exports.to_dataset(QUERIES.head(0))) == 0

    @given(
        st.lists(
            st.fixed_dictionaries(
                dict.fromkeys(_rows.COLUMNS, st.text(st.characters(codec="utf-8"))),
                optional={
                    "score": st.floats(allow_nan=False),
                    "rank": st.integers(-(2**63), 2**63 - 1),
                    "log_probs": st.lists(st.floats(allow_nan=False)),
                    "kept": st.booleans(),
                },
            ),
            min_size=1,
        )
    )
    def test_any_rows(self, rows):
        frame = as_frame(rows)
        found = exports.from_dataset(exports.to_dataset(frame))
        assert without_missing(found) == without_missing(frame)

    @pytest.mark.parametrize("write", [exports.to_dataset, lambda f: exports.write_parquet(f, "q")])
    def test_bad_input(self, write, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(pt.validate.InputValidationError, match="text"):
            write(QUERIES.drop(columns="text"))
        with pytest.raises(ValueError, match="docno must be a string, but is 7 "):
            write(QUERIES.assign(docno=7))
        mixed = QUERIES.assign(number=pd.Series([1, "two", None], dtype=object))
        with pytest.raises(ValueError, match="values of 'number' have no common type; convert"):
            write(mixed)
        with pytest.raises(ValueError, match="name of a column must be a string, not 5: rename"):
            write(QUERIES.rename(columns={"number": 5}))
        assert not [*tmp_path.iterdir()]

    def test_rows_that_were_selected(self):
        """``select``, ``shuffle`` and ``filter`` of ``datasets`` keep the table."""
        dataset = exports.to_dataset(QUERIES)
        assert exports.from_dataset(dataset.select([2, 0]))["qid"].tolist() == ["d2-1", "d1-1"]
        kept = dataset.filter(lambda row: row["docno"] == "d2")
        assert exports.from_dataset(kept)["query"].tolist() == ['a "quoted" query']
        assert exports.from_dataset(dataset.with_format("numpy")).equals(
            exports.from_dataset(dataset)
        )

    def test_times(self):
        """A missing time is null, as other missing values."""
        times = QUERIES.assign(at=pd.to_datetime(["2026-01-02", None, "2026-01-03"]))
        found = exports.from_dataset(exports.to_dataset(times))
        assert found["at"][0] == times["at"][0] and pd.isna(found["at"][1])

    def test_several_splits(self):
        import datasets

        splits = datasets.DatasetDict(train=exports.to_dataset(QUERIES))
        with pytest.raises(TypeError, match=r"not a DatasetDict: .* dataset\['train'\]"):
            exports.from_dataset(splits)
        with pytest.raises(TypeError, match="DataFrame or a datasets.Dataset is needed, not a Dat"):
            exports.from_triplets(splits)

    def test_a_file_of_another_kind(self, tmp_path):
        (tmp_path / "q.parquet").write_text("not parquet")
        with pytest.raises(ValueError, match="q.parquet cannot be read as Parquet"):
            exports.read_parquet(tmp_path / "q.parquet")
        with pytest.raises(FileNotFoundError):
            exports.read_parquet(tmp_path / "none.parquet")


def without_missing(frame):
    return [
        {n: v for n, v in row.items() if isinstance(v, list) or not pd.isna(v)}
        for row in frame.to_dict("records")
    ]


class TestBeir:
    def test_round_trip_of_queries(self, tmp_path, artifact):
        exports.write_beir(QUERIES, tmp_path / "a")
        exports.write_beir(artifact, tmp_path / "b")
        files = ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"]
        for file in files:
            assert (tmp_path / "a" / file).read_text() == (tmp_path / "b" / file).read_text()
        expected = QUERIES.assign(label=1, text=QUERIES["text"].str.strip())
        same_pairs(exports.read_beir(tmp_path / "a"), expected, [*_rows.COLUMNS, "label"])

    def test_rows_that_a_filter_dropped_are_refused(self, tmp_path):
        """A format without a column for them would give them back as kept ones."""
        marked = QUERIES.assign(dropped_by=["CopyFilter"] + [None] * (len(QUERIES) - 1))
        stored = SyntheticQueries(tmp_path / "queries").index(without_missing(marked), settings={})
        for queries in (marked, stored):
            with pytest.raises(ValueError, match="dropped by a filter with explain=True, such as"):
                exports.write_beir(queries, tmp_path / "beir")
            exports.write_parquet(queries, tmp_path / "queries.parquet")
            found = exports.read_parquet(tmp_path / "queries.parquet")
            assert found["dropped_by"].notna().tolist() == marked["dropped_by"].notna().tolist()
        assert not (tmp_path / "beir" / "queries.jsonl").exists()
        exports.write_beir(marked[marked["dropped_by"].isna()], tmp_path / "beir")

    def test_round_trip_of_examples_with_a_corpus(self, tmp_path):
        corpus = EXAMPLES.drop_duplicates("docno")[["docno", "text"]].to_dict("records")
        corpus.append({"docno": "d9", "text": "judged by nobody", "title": "A title"})
        exports.write_beir(EXAMPLES, tmp_path, corpus=iter(corpus), split="dev")
        found = exports.read_beir(tmp_path, "dev")
        expected = EXAMPLES.assign(text=EXAMPLES["text"].str.strip())
        same_pairs(found, expected, [*_rows.COLUMNS, "label"])
        assert dict(BeirFolder(tmp_path).documents())["d9"] == "A title judged by nobody"

    def test_beir_loads_it(self, tmp_path):
        beir = pytest.importorskip("beir.datasets.data_loader")
        exports.write_beir(EXAMPLES, tmp_path)
        corpus, queries, qrels = beir.GenericDataLoader(str(tmp_path)).load(split="train")
        assert corpus["d1"] == {"title": "", "text": "Coral polyps."}
        assert queries == {"q1": "what is coral?", "q2": "second"}
        assert qrels["q1"] == {"d1": 1, "d2": 0, "d3": 0, "d4": 1}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"docno": ["d1", "d1", "d1"]}, "docno 'd1' has two different values of text"),
            ({"qid": ["q", "q", "r"]}, "qid 'q' has two different values of query"),
            ({"qid": ["a\tb", "b", "c"]}, r"qid 'a\\tb' cannot be written to BEIR's qrels"),
            ({"qid": [" a", "b", "c"]}, "qid ' a' cannot be written"),
            ({"docno": ["d1", "d1", ""]}, "docno '' cannot be written"),
            ({"label": [1, 0.5, 1]}, "label must be a whole number, not 0.5, at qid 'd1-2'"),
            ({"label": [1, np.inf, 1]}, "label must be a whole number, not inf"),
            ({"label": ["1", "x", "1"]}, "label must be a whole number, not '1'"),
            ({"label": [1, None, 0]}, "label is missing in some rows .* docno 'd1': give each row"),
            ({"query": ["a", "b", None]}, "query must be a string"),
        ],
    )
    def test_bad_input(self, tmp_path, change, message):
        with pytest.raises(ValueError, match=message):
            exports.write_beir(QUERIES.assign(**change), tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_two_labels(self, tmp_path):
        twice = pd.concat([EXAMPLES, EXAMPLES.head(1).assign(label=0)])
        with pytest.raises(ValueError, match="docno 'd1' has two labels for qid 'q1'"):
            exports.write_beir(twice, tmp_path)

    def test_the_corpus_lacks_a_document(self, tmp_path):
        with pytest.raises(ValueError, match="docno 'd2' of the queries is not in the corpus"):
            exports.write_beir(QUERIES, tmp_path, corpus=[{"docno": "d1", "text": "a"}])
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]

    @pytest.mark.parametrize(
        ("corpus", "message"),
        [
            ([{"docno": "d1"}], "must have a docno and a text, .*, not {'docno': 'd1'}"),
            ([{"docno": "d1", "text": "a", "title": 7}], "may have a title, all strings .* 7"),
            ([{"docno": "d1", "text": "a\ud800"}], "all strings that UTF-8 can encode"),
            ([{"docno": "d1", "text": "a"}] * 2, "the corpus has a duplicate docno, 'd1'"),
            (QUERIES, "must have a docno and a text, .*, not 'qid'"),
        ],
    )
    def test_bad_corpus(self, tmp_path, corpus, message):
        exports.write_beir(QUERIES, tmp_path)
        before = (tmp_path / "corpus.jsonl").read_text()
        with pytest.raises(ValueError, match=message):
            exports.write_beir(QUERIES, tmp_path, corpus=corpus, overwrite=True)
        assert (tmp_path / "corpus.jsonl").read_text() == before

    def test_a_collection_as_corpus(self, tmp_path):
        """Such as pandas gives it, with NaN for a missing title."""
        corpus = [{"docno": "d1", "text": "a", "title": np.nan}, {"docno": "d2", "text": "b"}]
        exports.write_beir(QUERIES, tmp_path / "a", corpus=corpus)
        exports.write_beir(QUERIES, tmp_path / "b", corpus=BeirFolder(tmp_path / "a"))
        found = [(tmp_path / name / "corpus.jsonl").read_text() for name in "ab"]
        assert found[0] == found[1] and '"title": ""' in found[0]

    def test_existing_files_are_kept(self, tmp_path):
        exports.write_beir(QUERIES, tmp_path)
        before = (tmp_path / "queries.jsonl").read_text()
        with pytest.raises(FileExistsError, match="corpus.jsonl exists: .*overwrite=True"):
            exports.write_beir(QUERIES.head(1), tmp_path)
        assert (tmp_path / "queries.jsonl").read_text() == before
        exports.write_beir(QUERIES.head(1), tmp_path, overwrite=True)
        assert len(exports.read_beir(tmp_path)) == 1
        for split in ("../x", "..", "", 3):
            with pytest.raises(ValueError, match=f"must be the name of a file, not {split!r}"):
                exports.write_beir(QUERIES, tmp_path, split=split)

    def test_a_judged_document_that_does_not_exist(self, tmp_path):
        exports.write_beir(QUERIES, tmp_path)
        qrels = tmp_path / "qrels" / "train.tsv"
        qrels.write_text(qrels.read_text() + "d1-1\td7\t1\n")
        with pytest.raises(ValueError, match="the judged document 'd7' does not exist"):
            exports.read_beir(tmp_path)


class TestSentenceTransformers:
    def test_triplets(self):
        triplets = exports.to_triplets(EXAMPLES)
        assert triplets.values.tolist() == [
            ["what is coral?", "Coral polyps.", "Other."],
            ["what is coral?", "Coral polyps.", "A\tthird {}\n"],
            ["what is coral?", "Also on coral.", "Other."],
            ["what is coral?", "Also on coral.", "A\tthird {}\n"],
            ["second", "Other.", "Coral polyps."],
        ]
        found = exports.from_triplets(triplets)
        texts = ["query", "text", "label"]
        assert sorted(found[texts].values.tolist()) == sorted(EXAMPLES[texts].values.tolist())
        assert found["qid"].nunique() == 2 and found["docno"].nunique() == 4
        wide = pd.DataFrame([["q", "p", "n1", "n2"]], columns=[*"abcd"])
        assert exports.from_triplets(wide)["label"].tolist() == [1, 0, 0]

    def test_lists(self):
        lists = exports.to_lists(EXAMPLES)
        assert lists.values.tolist() == [
            [
                "what is coral?",
                ["Coral polyps.", "Also on coral.", "Other.", "A\tthird {}\n"],
                [1, 1, 0, 0],
            ],
            ["second", ["Other.", "Coral polyps."], [1, 0]],
        ]
        texts = ["query", "text", "label"]
        found = exports.from_lists(lists)
        assert sorted(found[texts].values.tolist()) == sorted(EXAMPLES[texts].values.tolist())
        scored = exports.to_lists(EXAMPLES, scores=True)
        assert scored["scores"].tolist() == [[3.5, 3.0, -1.0, 0.25], [2.0, 1.5]]

    @pytest.mark.filterwarnings("ignore:The inplace keyword")
    def test_sentence_transformers_train_on_them(self, tmp_path, one_thread):
        import sentence_transformers as st_
        from datasets import Dataset
        from sentence_transformers.cross_encoder import (
            CrossEncoderTrainer,
            CrossEncoderTrainingArguments,
        )
        from sentence_transformers.cross_encoder import (
            losses as cross_losses,
        )
        from sentence_transformers.sentence_transformer import losses

        model = tiny.tiny_bert(tmp_path / "bert")
        options = {"max_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
        encoder = st_.SentenceTransformer(model, device="cpu")
        triplets = Dataset.from_pandas(exports.to_triplets(EXAMPLES))
        trainer = st_.SentenceTransformerTrainer(
            encoder,
            st_.SentenceTransformerTrainingArguments(str(tmp_path / "out"), **options),
            triplets,
            loss=losses.MultipleNegativesRankingLoss(encoder),
        )
        assert np.isfinite(trainer.train().training_loss)
        cross = st_.CrossEncoder(model, num_labels=1, device="cpu")
        for lists in (exports.to_lists(EXAMPLES), exports.to_lists(EXAMPLES, scores=True)):
            lists = lists.set_axis(["query", "documents", "labels"], axis="columns")
            trainer = CrossEncoderTrainer(
                cross,
                CrossEncoderTrainingArguments(str(tmp_path / "out"), **options),
                Dataset.from_pandas(lists),
                loss=cross_losses.ListNetLoss(cross),
            )
            assert np.isfinite(trainer.train().training_loss)
        assert exports.from_triplets(triplets).equals(
            exports.from_triplets(exports.to_triplets(EXAMPLES))
        )

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"a query, a positive and a negative, not only \['a'"):
            exports.from_triplets(pd.DataFrame({"a": ["x"], "b": ["y"]}))
        with pytest.raises(ValueError, match="negative must be a string, but is 3"):
            exports.from_triplets(pd.DataFrame([["a", "b", 3]], columns=["q", "p", "negative"]))
        with pytest.raises(ValueError, match="lists have a query, texts and labels, not"):
            exports.from_lists(pd.DataFrame({"a": ["x"]}))
        for row, message in (
            (["q", ["a"], [1, 0]], "row 0: must be a string, and texts with as many labels"),
            (["q", ["a"], [0.5]], "row 0: a label must be 0 or 1, not 0.5"),
            (["q", ["a"], 1], r"row 0: texts and labels must be lists, not \[\['a'\], 1\]"),
            (["q", None, None], "row 0: texts and labels must be lists"),
        ):
            with pytest.raises(ValueError, match=message):
                exports.from_lists(pd.DataFrame([row]))
        with pytest.raises(ValueError, match="no example has label 0"):
            exports.to_triplets(EXAMPLES[EXAMPLES["label"] == 1])
        apart = EXAMPLES[(EXAMPLES["label"] == 1) == (EXAMPLES["qid"] == "q1")]
        with pytest.raises(ValueError, match="no qid has a positive and a negative: mine"):
            exports.to_triplets(apart)
        both = pd.concat([EXAMPLES, EXAMPLES.head(1).assign(label=0)])
        with pytest.raises(ValueError, match="'d1' has two labels for qid 'q1'"):
            exports.to_triplets(both)
        with pytest.raises(ValueError, match="'Coral polyps.' has two labels for qid 'q1'"):
            exports.to_lists(both.drop(columns="docno"))
        with pytest.raises(ValueError, match="qid 'q1' has two queries"):
            exports.to_lists(EXAMPLES.assign(query=EXAMPLES["docno"]))
        with pytest.raises(ValueError, match="scores of a teacher"):
            exports.to_lists(EXAMPLES.drop(columns="score"), scores=True)


WRITERS = {
    "tevatron": (exports.write_tevatron, exports.read_tevatron),
    "flag_embedding": (exports.write_flag_embedding, exports.read_flag_embedding),
}


@pytest.mark.parametrize("name", WRITERS)
class TestJsonLines:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_round_trip(self, name, suffix, tmp_path):
        write, read = WRITERS[name]
        write(EXAMPLES, tmp_path / f"train.jsonl{suffix}")
        found = read(tmp_path / f"train.jsonl{suffix}")
        expected = EXAMPLES
        if name == "tevatron":
            expected = EXAMPLES.assign(text=EXAMPLES["text"].str.strip())
        assert list(found) == [*_rows.COLUMNS, "label"]
        same_pairs(found, expected, list(found))

    def test_queries_without_negatives_are_left_out(self, name, tmp_path):
        write, read = WRITERS[name]
        with pytest.warns(UserWarning, match="1 of 2 queries lack a positive or a negative"):
            write(EXAMPLES.drop(index=4), tmp_path / "train.jsonl")
        assert set(read(tmp_path / "train.jsonl")["qid"]) == {"q1"}

    def test_bad_input(self, name, tmp_path):
        write, read = WRITERS[name]
        path = tmp_path / "train.jsonl"
        for change, message in (
            ({"label": 2}, "label must be 1"),
            ({"label": 1}, "no example has label 0"),
            ({"docno": 5}, "docno must be a string"),
            ({"query": EXAMPLES["docno"]}, "qid 'q1' has two queries"),
        ):
            with pytest.raises(ValueError, match=message):
                write(EXAMPLES.assign(**change), path)
        with pytest.raises(pt.validate.InputValidationError, match="docno"):
            write(EXAMPLES.drop(columns="docno"), path)
        assert not path.exists()
        path.write_text(json.dumps({"query_id": "1", "query": "a", "pos": ["b"], "neg": "c"}))
        with pytest.raises(ValueError, match=r"train.jsonl, line 1: \w+ must be a list of"):
            read(path)
        path.write_text("")
        with pytest.raises(ValueError, match="empty"):
            read(path)


class TestTevatron:
    def test_lines(self, tmp_path):
        """As in version 1, and "the legacy format" of version 2, which reads both."""
        exports.write_tevatron(EXAMPLES, tmp_path / "t.jsonl")
        second = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[1])
        assert second == {
            "query_id": "q2",
            "query": "second",
            "positive_passages": [{"docid": "d2", "title": "", "text": "Other."}],
            "negative_passages": [{"docid": "d1", "title": "", "text": "Coral polyps."}],
        }

    def test_titles_and_numbers(self, tmp_path):
        line = {
            "query_id": 1,
            "query": "a",
            "positive_passages": [{"docid": 7, "title": "T", "text": "x"}],
            "negative_passages": [{"docid": "8", "text": "y"}],
        }
        (tmp_path / "t.jsonl").write_text(json.dumps(line))
        assert exports.read_tevatron(tmp_path / "t.jsonl").values.tolist() == [
            ["1", "a", "7", "T x", 1],
            ["1", "a", "8", "y", 0],
        ]

    def test_preprocessor_of_tevatron(self, tmp_path):
        preprocessor = pytest.importorskip("tevatron.datasets.preprocessor")
        exports.write_tevatron(EXAMPLES, tmp_path / "t.jsonl")
        tokenizer = tiny.bert_tokenizer()
        train = preprocessor.TrainPreProcessor(tokenizer)
        for line in (tmp_path / "t.jsonl").read_text().splitlines():
            found = train(json.loads(line))
            assert found["query"] and all(found["positives"]) and all(found["negatives"])


class TestFlagEmbedding:
    def test_lines(self, tmp_path):
        exports.write_flag_embedding(EXAMPLES, tmp_path / "f.jsonl", scores=True, prompt="Find: ")
        second = json.loads((tmp_path / "f.jsonl").read_text().splitlines()[1])
        assert second == {
            "query": "second",
            "pos": ["Other."],
            "neg": ["Coral polyps."],
            "pos_scores": [2.0],
            "neg_scores": [1.5],
            "prompt": "Find: ",
            "query_id": "q2",
            "pos_ids": ["d2"],
            "neg_ids": ["d1"],
        }
        found = exports.read_flag_embedding(tmp_path / "f.jsonl")
        same_pairs(found, EXAMPLES, list(EXAMPLES))

    def test_a_file_without_ids(self, tmp_path):
        lines = [{"query": "a", "pos": ["x"], "neg": ["y", "z"]}, {"query": "b", "pos": ["y"]}]
        lines[1]["neg"] = ["x"]
        (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, lines)))
        found = exports.read_flag_embedding(tmp_path / "f.jsonl")
        assert found.values.tolist() == [
            ["1", "a", "d1", "x", 1],
            ["1", "a", "d2", "y", 0],
            ["1", "a", "d3", "z", 0],
            ["2", "b", "d2", "y", 1],
            ["2", "b", "d1", "x", 0],
        ]
        for scores, message in (
            ([1], "have 2 values, one for"),
            ([1, "x"], "be a list of numbers"),
        ):
            (tmp_path / "f.jsonl").write_text(json.dumps(lines[0] | {"neg_scores": scores}))
            with pytest.raises(ValueError, match=f"line 1: neg_scores must {message}"):
                exports.read_flag_embedding(tmp_path / "f.jsonl")

    def test_scores_without_ids_and_a_text_of_both_labels(self, tmp_path):
        line = {"query": "a", "pos": ["x"], "neg": ["y"], "pos_scores": [2], "neg_scores": [0.5]}
        other = {"query": "a", "pos": ["z"], "neg": ["x"], "pos_scores": [1], "neg_scores": [2]}
        (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, [line, other])))
        with pytest.warns(UserWarning, match="1 texts are both relevant and not relevant"):
            found = exports.read_flag_embedding(tmp_path / "f.jsonl")
        assert found.values.tolist() == [
            ["1", "a", "d1", "x", 1, 2.0],
            ["1", "a", "d2", "y", 0, 0.5],
            ["1", "a", "d3", "z", 1, 1.0],
        ]

    def test_prompt(self, tmp_path):
        with pytest.raises(TypeError, match="prompt must be a string or None, not 3"):
            exports.write_flag_embedding(EXAMPLES, tmp_path / "f.jsonl", prompt=3)

    def test_dataset_of_flag_embedding(self, tmp_path):
        module = pytest.importorskip("FlagEmbedding.abc.finetune.embedder.AbsDataset")
        arguments = pytest.importorskip("FlagEmbedding.abc.finetune.embedder.AbsArguments")
        path = tmp_path / "f.jsonl"
        exports.write_flag_embedding(EXAMPLES, path, scores=True)
        options = arguments.AbsEmbedderDataArguments(
            train_data=[str(path)],
            cache_path=str(tmp_path / "cache"),
            train_group_size=2,
            knowledge_distillation=True,
        )
        dataset = module.AbsEmbedderTrainDataset(options, tiny.bert_tokenizer())
        query, passages, scores = dataset[1]
        assert (query, passages, scores) == ("second", ["Other.", "Coral polyps."], [2.0, 1.5])
