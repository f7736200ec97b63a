"""Tests of the progress bar of ``SyntheticQueries.index``."""

import re

import pytest
import tiny_llm
from pyterrier.utils import GeneratorLen
from writer import Writer, corpus, index, rows

from pyterrier_inpars import CopyFilter, LengthFilter, QueryGenerator, SyntheticQueries, _progress


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    """Shows each step; stderr is no terminal in a test, so that it is a line."""
    monkeypatch.setitem(_progress.SECONDS, "log", 0)


def lines(capsys):
    """What was shown, without time of day, speed and times."""
    shown = []
    for line in capsys.readouterr().err.splitlines():
        line = re.sub(r"^\d\d:\d\d:\d\d ", "", line)
        shown.append(re.sub(r" \([\d.,]+/\w+\)|(, [\d:]+ (elapsed|left))", "", line))
    return shown


def test_one_bar_counts_documents_and_queries(tmp_path, capsys):
    queries = SyntheticQueries(tmp_path / "q", verbose=True)
    (Writer((1, 2)) >> queries).index(list(corpus(7)), batch_size=3)
    shown = lines(capsys)
    assert shown == [
        "synthetic queries: 3 of 7 documents (43%), 4 queries",
        "synthetic queries: 6 of 7 documents (86%), 9 queries",
        "synthetic queries: 7 of 7 documents (100%), 10 queries",
        "synthetic queries: 7 of 7 documents (100%), 10 queries",  # the end
    ]


def test_it_is_silent_by_default(tmp_path, capsys):
    index(tmp_path / "q", corpus(7))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("documents", [GeneratorLen(corpus(4), 4), list(corpus(4)), corpus(4)])
def test_the_total_is_the_length_of_the_corpus(tmp_path, capsys, documents):
    (Writer() >> SyntheticQueries(tmp_path / "q", verbose=True)).index(documents)
    total = "" if hasattr(documents, "send") else " of 4"
    assert f"4{total} documents" in lines(capsys)[-1]


def test_a_resumed_run_starts_at_what_is_stored(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path / "q", corpus(20), Writer(fail_at="13"))
    capsys.readouterr()
    queries = SyntheticQueries(tmp_path / "q", shard_size=5, verbose=True)
    (Writer() >> queries).index(list(corpus(20)), batch_size=3)
    shown = lines(capsys)
    assert shown[0] == "synthetic queries: 15 of 20 documents (75%), 15 queries"
    assert shown[-1] == "synthetic queries: 20 of 20 documents (100%), 20 queries"
    (Writer() >> queries).index(list(corpus(20)), batch_size=3)
    assert lines(capsys) == ["synthetic queries: 20 of 20 documents (100%), 20 queries"]


def test_damaged_shards_count_as_not_stored(tmp_path, capsys):
    index(tmp_path / "q", corpus(20))
    (tmp_path / "q/queries-00001.jsonl.gz").write_bytes(b"")
    queries = SyntheticQueries(tmp_path / "q", shard_size=5, verbose=True)
    (Writer() >> queries).index(list(corpus(20)), batch_size=3)
    shown = lines(capsys)
    assert shown[0] == "synthetic queries: 17 of 20 documents (85%), 17 queries"
    assert shown[-1] == "synthetic queries: 20 of 20 documents (100%), 20 queries"


def test_what_each_filter_dropped(tmp_path, capsys):
    filters = LengthFilter(max_words=3) >> CopyFilter()
    queries = SyntheticQueries(tmp_path / "q", verbose=True)
    (Writer((1, 2)) >> filters >> queries).index(list(corpus(6)), batch_size=3)
    assert lines(capsys)[-1].endswith("6 of 6 documents (100%), 0 queries, dropped: 9 LengthFilter")


def test_rows_without_a_generator(tmp_path, capsys):
    SyntheticQueries(tmp_path / "q").index(rows(4), verbose=True)
    assert lines(capsys)[-1] == "synthetic queries: 4 of 4 rows (100%), 4 queries"
    SyntheticQueries(tmp_path / "p").index(iter(rows(4)), verbose=True, total=5)
    assert lines(capsys)[-1] == "synthetic queries: 4 of 5 rows (80%), 4 queries"
    filtered = LengthFilter(1, 3) >> SyntheticQueries(tmp_path / "f", verbose=True)
    filtered.index([*rows(4), {**rows(5)[4], "query": "one two three four"}])
    assert lines(capsys)[-1] == (
        "synthetic queries: 5 of 5 rows (100%), 4 queries, dropped: 1 LengthFilter"
    )


def test_answers_move_the_bar_within_a_batch(tmp_path, capsys, model):
    generator = QueryGenerator(
        model, prompt="zero-shot", max_new_tokens=4, batch_size=2, verbose=True
    )
    documents = [{"docno": str(i), "text": text} for i, text in enumerate(tiny_llm.WORDS[:8])]
    (generator >> SyntheticQueries(tmp_path / "q")).index(documents)
    shown = [line for line in lines(capsys) if "documents" in line]
    assert [int(line.split()[2]) for line in shown] == [*range(1, 9), 8]
    assert all(line.startswith("synthetic queries: ") for line in shown)


def test_the_bar_ends_with_an_error(tmp_path, capsys):
    queries = SyntheticQueries(tmp_path / "q", verbose=True)
    with pytest.raises(OSError, match="corpus is gone"):
        (Writer() >> queries).index(corpus(9, stop=7), batch_size=3)
    assert lines(capsys)[-1] == "synthetic queries: 6 documents, 6 queries"
    list(_progress.Progress(range(1), "next"))  # it is hidden no more
    assert lines(capsys)[-1].startswith("next: 1 of 1 steps (100%)")
