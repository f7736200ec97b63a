"""Names of the BEIR collections (Thakur et al., arXiv 2104.08663) and MS MARCO in each source."""

# "=" is the collection's own name, "-" marks a collection that the source lacks, and "*" stands for
# each of CQADupStack's forums.
#
# split      the split that BEIR evaluates on
# irds       the id in ir_datasets with the documents, and the topics and judgements of that split.
#            BEIR may not distribute bioasq, signal1m, trec-news and robust04. Robust04 is TREC's
#            own data set: NIST provides the documents on request, and its topics have a title and
#            a description.
# pyserini   the prebuilt index, "=" for beir-v1.0.0-NAME.flat; topics and judgements have the same
#            name with "-split" in place of ".flat"
# inpars-v1  the file NAME_synthetic_queries_100k.jsonl of the InPars authors
# inpars-v2  the folder in their data set inpars/generated-data
# own        "yes" where a topic is a document of the collection under the same id; BEIR leaves that
#            document out of the topic's results
#
# Their few-shot examples and BM25 runs have the collection's own name. CQADupStack has examples for
# the whole collection and runs for each forum.
_TABLE = """
collection       split irds                          pyserini           inpars-v1     inpars-v2 own
trec-covid       test  beir/trec-covid               =                  trec_covid    =         -
nfcorpus         test  beir/nfcorpus/test            =                  =             =         -
bioasq           test  -                             =                  =             =         -
nq               test  beir/nq                       =                  =             =         -
hotpotqa         test  beir/hotpotqa/test            =                  =             =         -
fiqa             test  beir/fiqa/test                =                  =             =         -
signal1m         test  -                             =                  signal        signal    -
trec-news        test  -                             =                  trec_news     =         -
robust04         test  disks45/nocr/trec-robust-2004 =                  =             =         -
arguana          test  beir/arguana                  =                  =             =         yes
webis-touche2020 test  beir/webis-touche2020/v2      =                  touche        =         -
cqadupstack      test  -                             -                  =             =         -
cqadupstack-*    test  beir/cqadupstack/*            =                  -             -         -
quora            test  beir/quora/test               =                  =             =         yes
dbpedia-entity   test  beir/dbpedia-entity/test      =                  dbpedia       =         -
scidocs          test  beir/scidocs                  =                  =             =         -
fever            test  beir/fever/test               =                  =             =         -
climate-fever    test  beir/climate-fever            =                  climate_fever =         -
scifact          test  beir/scifact/test             =                  scifacts      =         -
msmarco          dev   beir/msmarco/dev              msmarco-v1-passage =             =         -
"""

_FORUMS = """
    android english gaming gis mathematica physics programmers stats tex unix webmasters wordpress
""".split()

SOURCES = ("irds", "pyserini", "pyserini-topics", "inpars-v1", "inpars-v2", "fewshot", "run")


def _read(table: str) -> dict[str, dict[str, str]]:
    header, *rows = (line.split() for line in table.strip().splitlines())
    known = {}
    for row in rows:
        for forum in _FORUMS if "*" in row[0] else [""]:
            cells = dict(zip(header, (cell.replace("*", forum) for cell in row), strict=True))
            name = cells["collection"]
            if cells["pyserini"] == "=":
                cells["pyserini"] = f"beir-v1.0.0-{name}.flat"
            index = cells["pyserini"].removesuffix(".flat")
            cells["pyserini-topics"] = "-" if index == "-" else f"{index}-{cells['split']}"
            cells["fewshot"] = "-" if forum else "="
            cells["run"] = "-" if name == "cqadupstack" else "="
            known[name] = {s: name if cell == "=" else cell for s, cell in cells.items()}
    return known


_NAMES = _read(_TABLE)
COLLECTIONS = tuple(_NAMES)

# The collections whose topics are documents; see evaluation.ExcludeQueryDocument.
QUERY_IS_DOCUMENT = tuple(name for name, cells in _NAMES.items() if cells["own"] == "yes")


def names(collection: str, source: str) -> str:
    """Returns the name of a BEIR collection in a source.

    Args:
        collection: BEIR's name, one of ``COLLECTIONS``, such as ``"nfcorpus"`` or
            ``"cqadupstack-android"``.
        source: One of ``SOURCES``. ``"irds"`` is an id of ir_datasets with the documents, topics
            and judgements that BEIR evaluates on, ``"pyserini"`` a prebuilt flat index, and
            ``"pyserini-topics"`` its topics and judgements. ``"inpars-v1"``, ``"inpars-v2"``,
            ``"fewshot"`` and ``"run"`` are files of the InPars authors.

    Raises:
        ValueError: There is no such collection or source, or the source lacks the collection; the
            error lists the valid names.
    """
    if source not in SOURCES:
        raise ValueError(
            f"{source!r} is not a source of BEIR collections; choose one of {', '.join(SOURCES)}"
        )
    if collection not in _NAMES:
        raise ValueError(
            f"{collection!r} is not a BEIR collection; choose one of {', '.join(COLLECTIONS)}"
        )
    if (name := _NAMES[collection][source]) == "-":
        available = [other for other, cells in _NAMES.items() if cells[source] != "-"]
        remedy = ""
        if source == "irds" and _NAMES[collection]["pyserini"] != "-":
            remedy = ", but Pyserini does: give source='pyserini'"
        raise ValueError(
            f"{source} does not have {collection!r}{remedy}; it has {', '.join(available)}"
        )
    return name
