"""The HTML file, by its elements."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from bad_input import MISSING, Error, gives

from pyterrier_inpars import CopyFilter, DuplicateFilter, LengthFilter, SyntheticQueries, report
from pyterrier_inpars.report._numbers import means_of

pytest.importorskip("matplotlib", reason="needs the extra report")

VOID = {"meta", "path", "rect", "use", "circle", "line", "link", "img", "br"}


class Page(HTMLParser):
    """Elements, text by section, and headings of a page. All elements must be closed."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.headings, self.texts, self.section = [], [], [], {}, ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.section = dict(attributes)["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts[self.section] = self.texts.get(self.section, "") + " " + data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)

    def __getitem__(self, section):
        return " ".join(self.texts[section].split())

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def page(tmp_path, *args, **options):
    path = report.report(*args, path=tmp_path / "report.html", **options)
    found = Page(path)
    for tag, attributes in found.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "form"), tag
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attributes.get(name, "#").startswith("#"), attributes
        assert not any(name.startswith("on") for name in attributes)
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"]
    css = path.read_text(encoding="utf-8").partition("</style>")[0]
    assert "url(" not in css and "@import" not in css
    return found


def test_everything(tmp_path, queries, retriever, encoder, examples, values):
    topics = pd.DataFrame({"qid": ["t1", "t2"], "query": ["why do corals bleach?", "other"]})
    rerankers = {"before": Constant(), "after": Constant()}
    found = page(
        tmp_path,
        queries,
        LengthFilter(2) >> DuplicateFilter(),
        examples,
        rerankers,
        values,
        retriever=retriever,
        encoder=encoder,
        topics=topics,
        title="Corals <and> more",
    )
    assert found.headings[:2] == ["Corals <and> more", "Summary"]
    sections = ["filters", "queries", "source", "duplicates", "training", "systems", "provenance"]
    assert list(found.texts) == ["", "summary", *sections, "missing"]
    assert "4 queries for 3 documents passed the filters (67% of 6); " in found["summary"]
    assert (
        "of 2 systems, new has the highest nDCG@10, 0.600, against 0.500 of BM25"
        in (found["summary"])
    )
    assert "1 of 2 evaluation topics are among the queries" in found["summary"]
    assert "25% of the queries are copied word for word" in found["summary"]
    assert "DuplicateFilter dropped, for example Why do bees dance" in found["filters"]
    assert "<script>alert('q')</script> & <b>" in found["queries"]
    assert "<script>alert(1)</script> A glacier" in found["queries"]
    assert "1 of 4 queries are a passage of their document" in found["source"]
    assert "1 of 2 topics are equal or nearly equal" in found["duplicates"]
    assert "scores of positives negatives ordered before" in found["training"]
    assert "nDCG@10 p-value" in found["systems"]
    assert "loss and validation" in found["missing"]
    assert found.count("svg") == 11


class Constant(pt.Transformer):
    """A reranker that gives each row its number."""

    def transform(self, inp):
        return pt.model.add_ranks(inp.assign(score=[float(row) for row in range(len(inp))]))


def test_only_queries(tmp_path, queries):
    found = page(tmp_path, queries[["query"]])
    assert found["summary"].startswith("Summary 6 queries; the median length is 4 ")
    for part in ("filters", "rank of the source document", "near-duplicates", "leak check"):
        assert part in found["missing"]
    for remedy in ("retriever=bm25", "pipeline=", "rerankers=", "experiment="):
        assert remedy in found["missing"]
    assert found.count("svg") == 2


def test_no_queries(tmp_path, queries):
    found = page(tmp_path, queries, LengthFilter(50))
    assert "No query is left" in found["summary"]
    assert "LengthFilter 6 6 0 0" in found["filters"]
    assert "queries" not in found.texts
    found = page(tmp_path, queries.head(0))
    assert "No query is left" in found["summary"]


def test_one_query(tmp_path, queries, retriever, encoder):
    found = page(tmp_path, queries.head(1), retriever=retriever, encoder=encoder)
    assert "1 query for 1 document; the median length is 4 words" in found["summary"]
    assert "1 query is not enough" in found["summary"]


def test_filters_that_have_run_are_not_run_again(tmp_path, queries):
    filters = LengthFilter(2) >> CopyFilter()
    kept = filters(queries)
    found = page(tmp_path, kept, filters)
    assert "passed the filters (67% of 6)" in found["summary"]
    assert filters[0].seen == 6
    found = page(tmp_path, queries, filters)  # what they have filtered is filtered again
    assert "passed the filters (67% of 6)" in found["summary"]
    assert filters[0].seen == 12


def test_rows_that_explain_who_dropped_them(tmp_path, queries):
    filters = LengthFilter(2, explain=True) >> CopyFilter(explain=True)
    explained = filters(queries)
    assert len(explained) == 6
    found = page(tmp_path, explained)
    assert "CopyFilter dropped, for example coral polyps expel" in found["filters"]
    assert found["summary"].startswith("Summary 4 queries")
    found = page(tmp_path, explained, filters)  # which are not run again
    assert "passed the filters (67% of 6)" in found["summary"]
    found = page(tmp_path, queries, filters)
    assert "passed the filters (67% of 6)" in found["summary"]


def test_an_artifact_has_provenance(tmp_path, queries):
    artifact = SyntheticQueries(tmp_path / "queries")
    rows = queries.to_dict("records")
    artifact.index(rows, settings={"model": "tiny/model", "sampling": {"seed": 1, "top_p": None}})
    found = page(tmp_path, artifact)
    assert "6 queries by model for 4 documents" in found["summary"]
    assert "sampling.seed 1" in found["provenance"]
    assert "top_p" not in found["provenance"]
    assert artifact.metadata["fingerprint"] in found["provenance"]
    assert "pyterrier_inpars 0.2.0" in found["provenance"]


def test_an_unfinished_artifact(tmp_path, queries):
    artifact = SyntheticQueries(tmp_path / "queries", shard_size=2)

    def rows():
        yield from queries.to_dict("records")[:4]
        raise RuntimeError("the machine went down")

    with pytest.raises(RuntimeError, match="went down"):
        artifact.index(rows())
    found = page(tmp_path, artifact)
    assert f"Summary {len(artifact)} queries for 1 document;" in found["summary"]
    assert "is unfinished: this report is about what was stored so far" in found["summary"]


def test_a_selection(tmp_path, queries, retriever):
    from pyterrier_inpars import evaluation

    with pytest.warns(UserWarning, match="only 6 queries: confidence"):
        choice = evaluation.select({"a": retriever, "b": retriever % 1}, queries)
    found = page(tmp_path, queries, experiment=choice)
    assert "Of 2 systems, a has the highest nDCG@10" in found["summary"]
    assert "candidate" in found["systems"]
    assert "perquery=True" in found["missing"]


def test_a_table_and_values(tmp_path, queries, values):
    table = pd.DataFrame({"name": ["BM25", "new"], "nDCG@10": [0.5, 0.6]})
    assert page(tmp_path, queries, experiment=table).count("svg") == 5 + 1
    assert page(tmp_path, queries, experiment=(table, values)).count("svg") == 5 + 2


def test_means_and_p_values(values):
    from scipy.stats import ttest_rel

    table = means_of(values)
    assert list(table) == ["name", "nDCG@10", "nDCG@10 p-value", "RR", "RR p-value"]
    assert table["nDCG@10"].tolist() == pytest.approx([0.5, 0.6])
    expected = ttest_rel([0.6, 0.4, 0.8], [0.2, 0.4, 0.9]).pvalue
    assert table["nDCG@10 p-value"].tolist()[1] == pytest.approx(expected)
    assert pd.isna(table["nDCG@10 p-value"][0])


def test_a_table_of_several_experiments(tmp_path, queries):
    table = pd.concat([TABLE.head(1), TABLE.tail(1).reset_index(drop=True)])  # two rows 0
    assert "b has the highest AP, 0.200" in page(tmp_path, queries, experiment=table)["summary"]


def test_texts_that_utf8_cannot_encode(tmp_path, queries):
    docnos = pd.Series(["d\ud800"] * 6, dtype=object)
    found = page(tmp_path, queries.drop(columns="text").assign(docno=docnos), title="T\ud800")
    assert found.headings[0] == "T?"
    assert "d?" in found["queries"]


def test_what_is_not_a_file_to_write(tmp_path, queries):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.html is a folder: give the path of an"):
        report.report(queries, path=tmp_path / "folder.html")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError, match=r"file is a file: .*report\.html cannot be in it"):
        report.report(queries, path=tmp_path / "file" / "report.html")
    assert page(tmp_path / "new" / "folder", queries[["query"]]).count("svg") == 2


def test_equal_inputs_give_equal_files(tmp_path, queries, retriever):
    first = report.report(queries, retriever=retriever, path=tmp_path / "a.html").read_bytes()
    second = report.report(queries, retriever=retriever, path=tmp_path / "b.html").read_bytes()
    assert first == second


def test_types_of_a_comparison(tmp_path, queries):
    table = pd.DataFrame({"type": ["all", "x"], "name": ["BM25"] * 2, "nDCG@10": [0.5, 0.6]})
    found = page(tmp_path, queries, experiment=table)
    assert "BM25 has a nDCG@10 of 0.500" in found["summary"]


class NotFinite:
    def encode(self, texts):
        return np.full((len(texts), 2), np.nan)


def of_one(queries):
    """Examples of one query."""
    return queries.assign(qid="q1", docno=queries["qid"], label=[1, 0, 0, 0, 0, 0])


DROPS = pt.apply.doc_score(lambda row: 1.0) % 1
TABLE = pd.DataFrame({"name": ["a", "b"], "AP": [0.1, 0.2]})
VALUES = pd.DataFrame({"name": "a", "qid": ["t1"], "measure": "AP", "value": 0.5})
BAD = [
    (lambda q: report.report("queries"), Error("queries must be SyntheticQueries", TypeError)),
    (lambda q: report.report(q.drop(columns="query")), Error("query", MISSING)),
    (lambda q: report.report(q.assign(query=None)), Error("query must be a string")),
    (lambda q: report.report(q, rerankers=["model"]), Error("must be a transformer", TypeError)),
    (lambda q: report.report(q, experiment="BM25"), Error("experiment must be what", TypeError)),
    (lambda q: report.report(q, experiment=q), Error("name", MISSING)),
    (lambda q: report.report(q, experiment=TABLE.assign(name="a")), Error("called 'a': give each")),
    (lambda q: report.report(q, experiment=TABLE.assign(AP=None)), Error("no measure")),
    (
        lambda q: report.report(q, experiment=TABLE.assign(AP=np.nan)),
        Error("AP is not a number at row 0"),
    ),
    (
        lambda q: report.report(q, experiment=pd.concat([VALUES, VALUES])),
        Error("the system 'a' has two values of AP at qid 't1'"),
    ),
    (
        lambda q: report.report(q, experiment=VALUES.assign(value="x")),
        Error("value is not a number at qid 't1': got 'x'"),
    ),
    (lambda q: report.report(q, examples="x"), Error("a DataFrame is needed", TypeError)),
    (
        lambda q: report.report(q, examples=of_one(q), rerankers=DROPS),
        Error("returned only 1 of 6"),
    ),
    (lambda q: report.report(q, encoder=NotFinite()), Error("not finite for 'why do corals")),
    (lambda q: report.report(q, path="queries.jsonl"), Error("path must end in .html, not 'quer")),
    (lambda q: report.report(q, path="."), Error("path must end in .html, not '.'")),
    (lambda q: report.report(q, CopyFilter), Error("pipeline must be a PyTerrier", TypeError)),
    (lambda q: report.report(q, pt.RankCutoff(1)), Error("drops rows")),
    (lambda q: report.report(q, retriever=1), Error("retriever must be", TypeError)),
    (lambda q: report.report(q.assign(text=1)), Error("text must be a string")),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case, queries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, error = BAD[case]
    gives(lambda: call(queries), error)
    assert not list(tmp_path.iterdir())


def test_copies_in_a_frame_with_a_column_index(tmp_path, queries):
    """As ``reset_index`` leaves it."""
    expected = page(tmp_path, queries)["source"]
    found = page(tmp_path, queries.set_axis(range(90, 90 + len(queries))).reset_index())["source"]
    assert "are a passage of their document" in expected and found == expected
