"""NegativeMiner: limits on scores, several retrievers and positives, random negatives, counts."""

from hashlib import sha256

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_inpars.mining import NegativeMiner

pytestmark = pytest.mark.filterwarnings("ignore:the retriever returned at most")
DOCNOS = [f"d{i}" for i in range(12)]
# d4 and d5 have the text of d3; d6 has none
TEXTS = {d: f"text of {d}" for d in DOCNOS} | {"d4": " Text  of d3", "d5": "TEXT of d3"}
del TEXTS["d6"]


def scored(rankings):
    """A retriever with fixed scores: ``{qid: {docno: score}}``."""
    rows = [(qid, d, s) for qid, found in rankings.items() for d, s in found.items()]
    table = pd.DataFrame(rows, columns=["qid", "docno", "score"])
    retriever = pt.Transformer.from_df(table)
    retriever.schematic = {"label": "Scores", "help_url": None}  # otherwise looked up on the web
    return retriever


def frame(positives):
    """Queries with one row for each positive: ``{qid: docnos}``."""
    rows = [
        (qid, f"query {qid[1:]}", d, TEXTS.get(d, "x")) for qid, of in positives.items() for d in of
    ]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])


def documents():
    return ({"docno": docno, "text": text} for docno, text in TEXTS.items())


def oracle(positives, rankings, num_negatives, depth, skip, strategy, least, most, margin, seed):
    """The documented rule, written out: the negatives of each query."""
    mined = {}
    for qid, own in positives.items():
        refused, windows = set(), []
        for ranking in rankings:
            found = sorted(ranking.get(qid, {}).items(), key=lambda pair: -pair[1])[:depth]
            limit = float("inf") if most is None else most
            if margin is not None:
                scores = [score for docno, score in found if docno in own]
                lowest = min(scores, default=float("-inf"))
                limit = min(limit, lowest - margin * abs(lowest)) if scores else float("-inf")
            for rank, (docno, score) in enumerate(found):
                if rank < skip or score > limit or (least is not None and score < least):
                    refused.add(docno)
            windows.append([docno for docno, _ in found[skip:]])
        merged = []
        for rank in range(depth):
            for window in windows:
                if rank < len(window) and window[rank] not in merged:
                    merged.append(window[rank])
        number = int(sha256(f"{seed} {qid}".encode()).hexdigest(), 16)
        order = np.random.default_rng(number).permutation(len(merged))
        texts = {" ".join(TEXTS.get(docno, "x").casefold().split()) for docno in own}
        drawn = [merged[i] for i in (range(len(merged)) if strategy == "top" else order)]
        drawn = [d for d in drawn if d not in own and d not in refused and d in TEXTS]
        drawn = [d for d in drawn if " ".join(TEXTS[d].casefold().split()) not in texts]
        if drawn:
            mined[qid] = drawn[:num_negatives]
    return mined


QIDS = st.sampled_from(["q0", "q1", "q2"])
RANKING = st.dictionaries(
    QIDS,
    st.permutations(DOCNOS).flatmap(
        lambda docnos: st.integers(0, 12).flatmap(
            lambda n: st.just({d: 6.5 - i for i, d in enumerate(docnos[:n])})
        )
    ),
)


@settings(max_examples=200, deadline=None)
@given(
    positives=st.dictionaries(
        QIDS, st.lists(st.sampled_from(DOCNOS), min_size=1, max_size=3, unique=True), min_size=1
    ),
    rankings=st.lists(RANKING, min_size=1, max_size=3),
    num_negatives=st.integers(1, 4),
    depth=st.integers(3, 12),
    skip=st.integers(0, 2),
    strategy=st.sampled_from(["random", "top"]),
    least=st.none() | st.sampled_from([-3, 0.5]),
    most=st.none() | st.sampled_from([0.5, 4]),
    margin=st.none() | st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 3),
    batch_size=st.integers(1, 3),
)
def test_oracle(positives, rankings, batch_size, **rule):
    miner = NegativeMiner(
        [scored(ranking) for ranking in rankings] if len(rankings) > 1 else scored(rankings[0]),
        texts=documents,
        batch_size=batch_size,
        num_negatives=rule["num_negatives"],
        depth=rule["depth"],
        skip=rule["skip"],
        sampling_strategy=rule["strategy"],
        min_score=rule["least"] if rule["most"] != 0.5 else None,
        max_score=rule["most"],
        relative_margin=rule["margin"],
        seed=rule["seed"],
    )
    rule["least"] = miner.min_score
    queries = frame(positives)
    out = miner(queries)
    expected = oracle(positives, rankings, **rule)
    found = out[out["label"] == 0].groupby("qid")["docno"].agg(list).to_dict()
    assert found == expected
    own = out[out["label"] == 1].groupby("qid")["docno"].agg(list).to_dict()
    assert own == {qid: positives[qid] for qid in expected}
    assert list(out["qid"].unique()) == list(expected) if expected else out.empty
    counts = miner.statistics
    assert counts["queries"] == len(positives) == miner.seen
    assert counts["dropped"] == len(positives) - len(expected) == miner.dropped
    assert counts["negatives"] == sum(map(len, expected.values()))
    retrieved = [list(r.get(qid, {}))[: rule["depth"]] for r in rankings for qid in positives]
    assert counts["retrieved"] == sum(map(len, retrieved))
    assert counts["skipped"] == sum(len(found[: rule["skip"]]) for found in retrieved)
    if rule["margin"] is not None:
        assert counts["positive_not_retrieved"] == sum(
            bool(found) and not set(found) & set(positives[qid])
            for found, qid in zip(retrieved, list(positives) * len(rankings), strict=True)
        )


def test_documents_below_a_share_of_the_score_of_the_positive():
    """TopK-PercPos: at 0.05, at most 0.95 of it, exactly included."""
    scores = {"d7": 12.0, "d0": 10.0, "d1": 9.6, "d2": 9.5, "d3": 4.0}
    mine = NegativeMiner(
        scored({"q0": scores, "q1": {"d7": 1.0, "d1": 0.9}}),
        texts=documents,
        num_negatives=9,
        depth=5,
        relative_margin=0.05,
        sampling_strategy="top",
    )
    out = mine(frame({"q0": ["d0"], "q1": ["d0"]}))
    assert out["docno"].tolist() == ["d0", "d2", "d3"]
    assert mine.statistics | {"queries": 2, "dropped": 1, "negatives": 2} == {
        **mine.statistics,
        "retrieved": 7,
        "outside_scores": 4,
        "positive_not_retrieved": 1,
    }


def test_random_negatives_are_uniform_over_what_was_not_retrieved():
    qids = [f"q{i}" for i in range(1500)]
    retrieved = {"d0": 3.0, "d1": 2.0, "d2": 1.0}
    miner = NegativeMiner(
        scored(dict.fromkeys(qids, retrieved)),
        texts=documents,
        num_negatives=4,
        depth=3,
        random_share=0.5,
    )
    out = miner(frame(dict.fromkeys(qids, ["d3"])))
    by_qid = out[out["label"] == 0].groupby("qid")["docno"].agg(list)
    assert (by_qid.map(len) == 4).all()
    assert by_qid.map(lambda found: set(found[:2]) <= set(retrieved)).all()
    assert by_qid.map(lambda found: len(set(found[2:]))).eq(2).all()
    counts = pd.Series([d for found in by_qid for d in found[2:]]).value_counts()
    # not the positive d3 and its copies d4, d5, and not d6, which the collection lacks
    assert set(counts.index) == {"d7", "d8", "d9", "d10", "d11"}
    assert counts.min() > 500 and counts.max() < 700  # 3,000 draws of five: mean 600
    assert miner.statistics["random_negatives"] == 3000
    again = miner(frame(dict.fromkeys(qids[:7], ["d3"])))
    pd.testing.assert_frame_equal(again, out[out["qid"].isin(qids[:7])].reset_index(drop=True))


def test_all_negatives_can_be_random():
    miner = NegativeMiner(
        scored({"q0": {"d0": 1.0}}), texts=documents, num_negatives=20, depth=1, random_share=1
    )
    out = miner(frame({"q0": ["d1"], "q1": ["d1"]}))
    assert set(out["docno"]) == set(TEXTS) - {"d0"}  # all others, with the positive
    assert miner.dropped == 1  # nothing was retrieved for q1


def test_fewer_than_twice_the_random_negatives_are_left():
    ranking = {d: 1.0 - i for i, d in enumerate(DOCNOS[1:11])}
    miner = NegativeMiner(
        scored({"q0": ranking}), texts=documents, num_negatives=4, depth=20, random_share=0.5
    )
    with pytest.warns(UserWarning, match="at most 10 documents"):
        out = miner(frame({"q0": ["d1"]}))
    assert out["docno"].tolist()[-1] in ("d0", "d11")
    assert set(out["docno"][3:]) == {"d0", "d11"} and miner.random_negatives == 2


def test_inspection_of_several_retrievers():
    retrievers = [scored({}), scored({"q0": {"d1": 1.0}})]
    miner = NegativeMiner(retrievers, texts=documents, relative_margin=0.05)
    assert pt.inspect.subtransformers(miner) == {"retriever": retrievers}
    assert "relative_margin=0.05" in repr(miner)
    out = NegativeMiner(retrievers, texts=documents, depth=1)(frame({"q0": ["d2"]}))
    assert out["docno"].tolist() == ["d2", "d1"]
