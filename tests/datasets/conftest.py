import pytest
from collection_files import MOJIBAKE, lines, written


@pytest.fixture
def folder(tmp_path):
    """A collection in BEIR's layout, with ids that a number parser would spoil."""
    corpus = [
        {"_id": "007", "title": "Bond", "text": "a spy", "metadata": {}},
        {"_id": "1e5", "title": "", "text": "many words"},
        {"_id": "NA", "text": "sodium"},
        {"_id": "null", "title": "None", "text": ""},
    ]
    queries = [{"_id": q, "text": t} for q, t in [("1", "one"), ("01", MOJIBAKE), ("3", "three")]]
    written(tmp_path / "corpus.jsonl.gz", lines(corpus))
    written(tmp_path / "queries.jsonl", lines(queries))
    (tmp_path / "qrels").mkdir()
    head = "query-id\tcorpus-id\tscore\n"
    test = head + "01\tNA\t2\n1\t007\t1\n1\t1e5\t0\n1\tgone\t1\n"
    written(tmp_path / "qrels" / "test.tsv", test)
    written(tmp_path / "qrels" / "train.tsv", head + "3\t007\t1\n")
    return tmp_path
