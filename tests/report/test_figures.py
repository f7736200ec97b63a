"""What the figures show, compared with plain computation."""

import re
import sys

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from bad_input import MISSING, Error, gives
from lxml import etree

from pyterrier_inpars import CopyFilter, LengthFilter, ScoreFusion, funnel, report
from pyterrier_inpars.report._numbers import MOST_RETRIEVED, MOST_TEXTS

pytest.importorskip("matplotlib", reason="needs the extra report")

SVG = "{http://www.w3.org/2000/svg}"


def heights(chart):
    return [patch.get_height() for patch in chart.axes[0].patches]


def widths(chart):
    names = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    return dict(zip(names, [p.get_width() for p in chart.axes[0].patches], strict=True))


def svg(chart):
    """The parsed SVG, which names no font and has no ids that another figure may have."""
    text = chart.to_svg()
    root = etree.fromstring(text.encode())
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert root.get("aria-label") == chart.alt == root.find(f"{SVG}title").text
    assert "font-family" not in text and "DejaVu" not in text and "<style" not in text
    return root


def test_lengths(queries):
    chart = report.query_lengths(queries)
    words = [len(query.split()) for query in queries["query"]]
    counts = [words.count(n) for n in range(min(words), max(words) + 1)]
    assert heights(chart) == counts
    assert chart.alt == "Histogram. Words per query: 6 values from 1 to 5, median 4."
    svg(chart)


def test_a_long_tail_is_cut_and_counted(queries):
    many = pd.concat([queries] * 100)
    many = pd.concat([many, queries.head(1).assign(query="word " * 400)])
    chart = report.query_lengths(many)
    assert sum(heights(chart)) == 600
    assert "1 above 5 are not drawn" in chart.axes[0].get_xlabel()
    assert "601 values from 1 to 400" in chart.alt


def test_log_probabilities(queries):
    chart = report.log_probabilities(queries)
    assert sum(heights(chart)) == 6
    assert "6 values from -3 to -0.5, median -1.75" in chart.alt
    scores = queries.drop(columns="log_probs").assign(score=[1.0, 2.0, np.nan, 4, 5, 6])
    assert "5 values from 1 to 6" in report.log_probabilities(scores).alt
    some = queries.assign(log_probs=[[-1.0], [], None, np.nan, [-2.0], [None, -3.0]])
    assert "2 values" in report.log_probabilities(some).alt


def test_first_words(queries):
    assert widths(report.first_words(queries)) == {
        "why do": 0.5,
        "coral polyps": pytest.approx(1 / 6),
        "script alert": pytest.approx(1 / 6),
        "sand": pytest.approx(1 / 6),
    }
    assert list(widths(report.first_words(queries, 1, most=1))) == ["why"]
    assert "(no words)" in widths(report.first_words(queries.assign(query="?!")))


def test_types(queries):
    assert widths(report.query_types(queries)) == {"question": 4, "keywords": 2}
    missing = pd.Series([None, "a"] * 3)
    for types in (missing, missing.astype("category")):
        assert widths(report.query_types(queries.assign(type=types))) == {"(none)": 3, "a": 3}


def test_overlaps(queries):
    words = [set(re.findall(r"\w+", q.lower())) for q in queries["query"]]
    texts = [set(re.findall(r"\w+", t.lower())) for t in queries["text"]]
    shares = [len(w & t) / len(w) for w, t in zip(words, texts, strict=True)]
    expected = np.histogram(shares, np.linspace(0, 1, 21))[0].tolist()
    assert heights(report.overlaps(queries)) == expected
    assert heights(report.overlaps(queries.rename(columns={"text": "body"}), "body")) == expected


def test_nearest_queries(queries, encoder):
    vectors = encoder.encode(queries["query"])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = [max(vectors[i] @ vectors[j] for j in range(6) if j != i) for i in range(6)]
    chart = report.nearest_queries(queries, encoder)
    assert f"median {np.median(nearest):.3g}" in chart.alt
    assert sum(heights(chart)) == 6


def test_ranks(queries, retriever):
    shares = widths(report.source_ranks(queries, retriever, depth=3))
    ranks = {}
    for qid, docno, query in queries[["qid", "docno", "query"]].itertuples(index=False):
        clean = " ".join(re.findall(r"\w+", query.lower()))
        found = retriever(pd.DataFrame({"qid": [qid], "query": [clean]}))["docno"].tolist()
        ranks[qid] = found.index(docno) + 1 if docno in found else None
    assert shares == {
        "rank 1": sum(rank == 1 for rank in ranks.values()),
        "rank 2 to 3": sum(rank in (2, 3) for rank in ranks.values()),
        "not in the top 3": sum(rank is None for rank in ranks.values()),
    }


def test_the_funnel(queries):
    filters = LengthFilter(3) >> CopyFilter() >> CopyFilter()
    chart = report.filter_funnel(funnel(filters, queries))
    assert widths(chart) == {"before": 6, "LengthFilter": 5, "CopyFilter": 4, "CopyFilter (2)": 4}
    assert "LengthFilter: 5  (−1)" in chart.alt


def test_scores_of_examples(examples, encoder):
    scores = pd.Series(range(len(examples)), dtype=float)
    chart = report.example_scores(examples.assign(score=scores), {})
    positive = scores[examples["label"] == 1]
    assert f"median of the positives {np.median(positive):.3g}" in chart.alt.replace(".0,", ",")
    assert len(chart.axes) == 1
    svg(chart)


def test_share_of_ordered_pairs(examples):
    from pyterrier_inpars.report._numbers import scores_of_examples

    right = examples.assign(score=examples["label"].astype(float))
    _, table = scores_of_examples(right, {})
    assert table.loc[0, ["positives", "negatives", "ordered"]].tolist() == [1.0, 0.0, 1.0]
    _, table = scores_of_examples(examples.assign(score=1.0), {})
    assert table["ordered"].tolist() == [0.5]
    by_query = examples.assign(score=[3.0, 2.0, 4.0] * 6)
    assert scores_of_examples(by_query, {})[1]["ordered"].tolist() == [0.5]


def test_training_curves():
    log = pd.DataFrame(
        {
            "step": [0, 1, 2],
            "loss": [np.nan, 0.9, 0.5],
            "learning_rate": [1e-3, 1e-3, 0.0],
            "nDCG@10": [0.2, np.nan, 0.3],
        }
    )
    chart = report.training_curves(log)
    lines = [axes.lines[0].get_xydata().tolist() for axes in chart.axes]
    assert lines == [[[1, 0.9], [2, 0.5]], [[0, 0.2], [2, 0.3]]]
    assert "nDCG@10 on validation queries from 0.2 at step 0 to 0.3 at step 2" in chart.alt


def test_gains(values):
    chart = report.topic_gains(values)
    gains, losses = (patch.get_data().values.tolist() for patch in chart.axes[0].patches)
    assert gains == pytest.approx([0.4, 0, 0])
    assert losses == pytest.approx([0, 0, -0.1])
    assert "new: 1 of 3 queries gain, 1 lose, mean +0.100" in chart.alt
    assert "mean +0.050" in report.topic_gains(values, measure="RR").alt
    assert "BM25: 1 of 3 queries gain, 1 lose, mean -0.100" in report.topic_gains(values, "new").alt
    svg(chart)  # with a hatch


def test_means():
    table = pd.DataFrame(
        {"name": ["a", "b"], "nDCG@10": [0.1, 0.4], "low": [0.05, 0.3], "high": [0.2, 0.5]}
    )
    chart = report.system_means(table)
    names = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    assert names == ["b", "a"]
    assert [line.get_xdata().tolist() for line in chart.axes[0].lines] == [
        [0.3, 0.5],
        [0.4],
        [0.05, 0.2],
        [0.1],
    ]
    assert "low" not in report.system_means(table[["name", "nDCG@10"]]).axes[0].get_xlabel()


def test_large_inputs_are_sampled(queries, retriever):
    many = pd.concat([queries] * 2_000, ignore_index=True)
    many["qid"] = many.index.astype(str)
    label = report.overlaps(many).axes[0].get_xlabel()
    assert f"a sample of {MOST_TEXTS:,} of 12,000" in label
    assert (
        f"a sample of {MOST_RETRIEVED:,} of 12,000" in report.source_ranks(many, retriever, 3).alt
    )


def test_names_may_have_any_character(queries):
    chart = report.query_types(queries.assign(type=["$x^2$ <b>&", "a" * 99] * 3))
    text = "".join(svg(chart).itertext())
    assert "$x^2$ <b>&" in text
    assert "…" in text


def test_a_notebook_shows_svg_in_the_color_of_its_surroundings(queries):
    shown = report.query_lengths(queries)._repr_html_()
    assert "currentColor" in shown and "<svg" in shown
    assert "http://matplotlib" not in shown


def test_no_state_of_matplotlib_changes(queries):
    import matplotlib

    before = dict(matplotlib.rcParams)
    report.query_lengths(queries).to_svg()
    assert dict(matplotlib.rcParams) == before
    assert report.query_lengths(queries).to_svg() == report.query_lengths(queries).to_svg()


def test_a_figure_can_be_saved(queries, tmp_path):
    report.query_lengths(queries).savefig(tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


def empty(frame):
    return frame.head(0)


BAD = [
    (lambda q: report.query_lengths(empty(q)), Error("there are no queries")),
    (lambda q: report.query_lengths(q.drop(columns="query")), Error("query", MISSING)),
    (lambda q: report.query_lengths(q.assign(query=1)), Error("query must be a string")),
    (lambda q: report.query_lengths("queries.jsonl"), Error("DataFrame is needed", TypeError)),
    (lambda q: report.log_probabilities(q[["query"]]), Error("score", MISSING)),
    (lambda q: report.log_probabilities(q.assign(log_probs=None)), Error("no query has log_probs")),
    (lambda q: report.first_words(q, 0), Error("words must be a whole number of at least 1")),
    (lambda q: report.first_words(q, most=0), Error("most must be a whole number of at least 1")),
    (lambda q: report.query_types(q.drop(columns="type")), Error("type", MISSING)),
    (lambda q: report.overlaps(q.drop(columns="text")), Error("text", MISSING)),
    (lambda q: report.nearest_queries(q, "model"), Error("encoder must be a BiEncoder", TypeError)),
    (lambda q: report.source_ranks(q, "bm25"), Error("retriever must be", TypeError)),
    (lambda q: report.filter_funnel(q), Error("stage", MISSING)),
    (lambda q: report.example_scores(q, {}), Error("label", MISSING)),
    (lambda q: report.example_scores(q.assign(label=1), {}), Error("6 positives .* 0 negatives")),
    (lambda q: report.example_scores(q.assign(label=1), {"a": 1}), Error("6 positives")),
    (lambda q: report.training_curves(q), Error("step", MISSING)),
    (lambda q: report.training_curves(pd.DataFrame({"step": [1]})), Error("neither a loss nor")),
    (lambda q: report.topic_gains(q), Error("name", MISSING)),
    (lambda q: report.system_means(pd.DataFrame({"name": []})), Error("has no systems")),
    (lambda q: report.system_means(pd.DataFrame({"name": ["a"]})), Error("has no measure")),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case, queries):
    call, error = BAD[case]
    gives(lambda: call(queries), error)


def test_bad_systems(values):
    gives(lambda: report.topic_gains(values, "old"), Error("no system 'old', only BM25, new"))
    gives(lambda: report.topic_gains(values, measure="P"), Error("no measure 'P', only nDCG@10"))
    one = values[values["name"] == "new"]
    gives(lambda: report.topic_gains(one), Error("two systems or more"))


def test_without_matplotlib_the_error_names_the_extra(queries, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "pyterrier_inpars.report.chart", raising=False)
    monkeypatch.delattr(report, "chart", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyterrier_inpars\[report\]'"):
        report.query_lengths(queries)


def test_rerankers_that_need_the_scores_of_the_examples(examples, encoder):
    """As ScoreFusion does; the labels are not shown to them."""
    from pyterrier_inpars.report._numbers import scores_of_examples

    seen = []

    def scored(results):
        if len(results):  # pt.inspect tries frames without rows
            seen.append(list(results.columns))
        return pt.model.add_ranks(results.assign(score=1.0))

    examples = examples.assign(score=[3.0, 2.0, 4.0] * 6)
    fusion = ScoreFusion(pt.apply.generic(scored), (1, 1))
    _, table = scores_of_examples(examples, {"fusion": fusion})
    assert table["ordered"].tolist() == [0.5, 0.5]
    assert seen and all("score" in columns and "label" not in columns for columns in seen)


def test_intervals_of_another_confidence():
    table = pd.DataFrame({"name": ["a"], "RR": [0.5], "RR low": [0.4], "RR high": [0.6]})
    chart = report.system_means(table)
    assert "RR, and its confidence interval" in chart.to_svg() + chart.axes[0].get_xlabel()
