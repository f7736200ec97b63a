"""Collections by path or name."""

import pytest
from collection_files import documents, table, written

from pyterrier_inpars.datasets import (
    BeirFolder,
    IrDatasets,
    collection,
)


class TestCollection:
    def test_paths(self, folder, tmp_path):
        assert isinstance(collection(folder), BeirFolder)
        assert isinstance(collection(str(folder), source="pyserini"), BeirFolder)
        path = written(tmp_path / "c.csv", table(["doc_id", "text"], [["007", "a spy"]]))
        assert list(collection(str(path)).get_corpus_iter()) == documents(("007", "a spy"))

    @pytest.mark.parametrize(
        ("name", "irds"),
        [
            ("nfcorpus", "beir/nfcorpus/test"),
            ("cqadupstack-tex", "beir/cqadupstack/tex"),
            ("beir/nfcorpus/dev", "beir/nfcorpus/dev"),
            ("vaswani", "vaswani"),
        ],
    )
    def test_names(self, name, irds):
        dataset = collection(name)
        assert isinstance(dataset, IrDatasets)
        assert dataset.name == irds

    def test_columns(self, folder, tmp_path):
        path = written(tmp_path / "c.tsv", "007\tBond\ta spy\n")
        found = collection(path, docno=0, text=[1, 2])
        assert list(found.get_corpus_iter()) == documents(("007", "Bond a spy"))
        assert collection("vaswani", text="text").text == "text"
        for columns in ({"docno": "key"}, {"text": "body"}):
            with pytest.raises(ValueError, match="no columns to choose: docno is for a"):
                collection(folder, **columns)

    def test_unknown(self):
        message = "'corpsu.csv' is not a file or folder, not known to ir_datasets, and not a BEIR "
        with pytest.raises(ValueError, match=message):
            collection("corpsu.csv")
        with pytest.raises(ValueError, match="irds does not have 'bioasq'"):
            collection("bioasq")
        with pytest.raises(ValueError, match="'ir_datasets' or 'pyserini', not 'hub'"):
            collection("nfcorpus", source="hub")
        for name in ("", " "):
            with pytest.raises(ValueError, match="name must not be empty"):
                collection(name)
