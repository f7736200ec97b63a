import ir_datasets
import pytest

from pyterrier_inpars.datasets.beir import COLLECTIONS, SOURCES, names

# The 18 of BEIR's paper, and MS MARCO.
EIGHTEEN = """
    trec-covid nfcorpus bioasq nq hotpotqa fiqa signal1m trec-news robust04 arguana webis-touche2020
    cqadupstack quora dbpedia-entity scidocs fever climate-fever scifact
""".split()


def known(source):
    """BEIR's name to the source's, for those that the source has."""
    found = {}
    for collection in COLLECTIONS:
        try:
            found[collection] = names(collection, source)
        except ValueError as error:
            assert f"does not have {collection!r}" in str(error)
    return found


def test_the_eighteen_and_msmarco():
    forums = [c for c in COLLECTIONS if c.startswith("cqadupstack-")]
    assert len(forums) == 12
    assert set(COLLECTIONS) - set(forums) == {*EIGHTEEN, "msmarco"}


def test_ir_datasets():
    """Each id is registered, with documents, topics and judgements, and none is left out."""
    registered = set(ir_datasets.registry)
    ids = known("irds")
    assert set(ids.values()) <= registered
    for irds in ids.values():
        dataset = ir_datasets.load(irds)
        assert dataset.has_docs() and dataset.has_queries() and dataset.has_qrels(), irds
    corpora = {"/".join(irds.split("/")[:2]) for irds in registered if irds.startswith("beir/")}
    forums = {irds for irds in registered if irds.startswith("beir/cqadupstack/")}
    mine = {irds for irds in ids.values() if irds.startswith("beir/")}
    assert forums <= mine
    assert {"/".join(irds.split("/")[:2]) for irds in mine} == corpora
    assert set(COLLECTIONS) - set(ids) == {"bioasq", "signal1m", "trec-news", "cqadupstack"}


@pytest.mark.parametrize("collection", ["nfcorpus", "quora", "scifact", "fever"])
def test_test_split(collection):
    """Where ir_datasets has several splits, the test split it is."""
    assert names(collection, "irds") == f"beir/{collection}/test"


def test_inpars_v1():
    """The published files, as the issue lists them."""
    files = """
        msmarco robust04 nq trec_covid fiqa dbpedia scidocs scifacts arguana bioasq climate_fever
        cqadupstack fever hotpotqa nfcorpus quora signal touche trec_news
    """.split()
    assert sorted(known("inpars-v1").values()) == sorted(files)
    assert set(known("inpars-v1")) == {*EIGHTEEN, "msmarco"}


def test_inpars_v2_fewshot_and_runs():
    v2 = known("inpars-v2")
    assert set(v2) == set(known("fewshot")) == {*EIGHTEEN, "msmarco"}
    assert {c: name for c, name in v2.items() if c != name} == {"signal1m": "signal"}
    assert all(c == name for source in ("fewshot", "run") for c, name in known(source).items())
    assert set(COLLECTIONS) - set(known("run")) == {"cqadupstack"}


def test_pyserini_names():
    """Checked against Pyserini's own tables in test_lucene.py, where Java runs."""
    assert names("cqadupstack-tex", "pyserini") == "beir-v1.0.0-cqadupstack-tex.flat"
    assert names("cqadupstack-tex", "pyserini-topics") == "beir-v1.0.0-cqadupstack-tex-test"
    assert names("msmarco", "pyserini-topics") == "msmarco-v1-passage-dev"
    assert set(known("pyserini")) == set(known("pyserini-topics"))
    assert set(known("pyserini")) == set(COLLECTIONS) - {"cqadupstack"}


def test_unknown_names_are_listed():
    with pytest.raises(
        ValueError, match="'nfcorups' is not a BEIR collection; choose one of trec-covid, nfcorpus,"
    ):
        names("nfcorups", "irds")
    with pytest.raises(
        ValueError, match="'hub' is not a source of BEIR collections; choose one of irds, pyserini"
    ):
        names("nfcorpus", "hub")
    with pytest.raises(ValueError, match="irds does not have 'cqadupstack'; .*cqadupstack-android"):
        names("cqadupstack", "irds")
    for collection in ("bioasq", "signal1m", "trec-news"):
        with pytest.raises(ValueError, match=f"'{collection}', but Pyserini .*source='pyserini'"):
            names(collection, "irds")
    assert all(source in SOURCES for source in ("irds", "pyserini", "inpars-v1", "inpars-v2"))
