"""Rerankers as artifacts of PyTerrier: folders, packages, the hub, and other packages."""

import html
import json
import shutil

import numpy as np
import pyterrier as pt
import pytest
from hub import uploading
from huggingface_hub import ModelCard
from tiny_training import QUICK, make_examples, scores

from pyterrier_inpars import SyntheticQueries
from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, MonoT5, ScoreFusion, base
from pyterrier_inpars.training.provenance import model_card

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:.*without a scoring head",
        "ignore:The inplace keyword",
        "ignore:training did not help",
    ),
]
FORMATS = {MonoT5: "monot5", CrossEncoder: "cross_encoder", BiEncoder: "bi_encoder"}


@pytest.fixture(scope="module")
def trained(models):
    """A trained reranker of each class, and the examples it was trained on."""
    examples = make_examples(12, 2, 0, "pair")
    options = {"dtype": "float32", "device": "cpu", "training": QUICK | {"held_out": 0.3}}
    return {cls: cls(models[cls], **options).fit(examples) for cls in FORMATS}


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return {cls: reranker.save(folder / cls.__name__) for cls, reranker in trained.items()}


class TestFolder:
    def test_metadata(self, cls, saved):
        found = json.loads((saved[cls] / "pt_meta.json").read_text())
        assert found == {
            "type": "reranker",
            "format": FORMATS[cls],
            "package_hint": "pyterrier_inpars",
        }

    def test_pyterrier_loads_it(self, cls, trained, saved, frame):
        loaded = pt.Artifact.load(str(saved[cls]), dtype="float32", device="cpu")
        assert type(loaded) is cls and loaded.path == saved[cls]
        np.testing.assert_array_equal(scores(loaded, frame), scores(trained[cls], frame))
        assert type(cls.load(str(saved[cls]))) is cls

    def test_path(self, cls, models):
        assert str(cls(models[cls]).path) == models[cls]
        assert cls("owner/name").path is pt.Artifact.NO_PATH

    def test_saving_over_another_class(self, cls, trained, saved, tmp_path):
        path = shutil.copytree(saved[cls], tmp_path / "model")
        other = MonoT5 if cls is BiEncoder else BiEncoder
        trained[other].save(path, overwrite=True)
        assert type(pt.Artifact.load(str(path))) is other

    def test_another_artifact_is_not_overwritten(self, cls, trained, tmp_path):
        rows = [{"qid": "q", "query": "a", "docno": "d", "text": "b"}]
        queries = SyntheticQueries(tmp_path / "queries").index(rows)
        with pytest.raises(FileExistsError, match="holds an artifact of type 'synthetic_queries'"):
            trained[cls].save(queries.path, overwrite=True)
        assert len(queries) == 1
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged" / "pt_meta.json").write_text("{")
        with pytest.raises(FileExistsError, match="type 'unknown': give another path"):
            trained[cls].save(tmp_path / "damaged", overwrite=True)

    def test_a_file_is_not_a_folder(self, cls, trained, tmp_path):
        (tmp_path / "file").write_text("kept")
        with pytest.raises(FileExistsError, match="file is a file: give the path of a folder"):
            trained[cls].save(tmp_path / "file", overwrite=True)
        assert (tmp_path / "file").read_text() == "kept"

    @pytest.mark.parametrize("content", ["{", "[]", '{"class": "of another program"}'])
    def test_damaged_provenance(self, cls, saved, tmp_path, content):
        """It is shown as untrained; what needs the provenance names the file before any work."""
        path = shutil.copytree(saved[cls], tmp_path / "model")
        (path / "inpars_training.json").write_text(content)
        reranker = cls(path, dtype="float32", device="cpu", training=QUICK)
        assert "@" not in repr(reranker) and "not by this package" in reranker._repr_html_()
        before = reranker.scores_fingerprint()
        for use in (
            lambda: reranker.training_log,
            lambda: reranker.verdict,
            lambda: reranker.save(tmp_path / "new"),
            lambda: reranker.fit(make_examples(4, 2, 0, "pair")),
        ):
            with pytest.raises(ValueError, match="inpars_training.json of .*: delete or restore"):
                use()
        assert reranker.scores_fingerprint() == before and not (tmp_path / "new").exists()

    def test_in_a_pipeline(self, cls, trained):
        """An artifact is still shown and inspected as a transformer."""
        fusion = ScoreFusion(trained[cls])
        assert pt.inspect.subtransformers(fusion) == {"rerankers": [trained[cls]]}
        assert f">{cls.__name__}<" in pt.schematic.draw(fusion)


class TestOtherPackages:
    def test_sentence_transformers(self, trained, saved, frame):
        import sentence_transformers

        pairs = list(zip(frame["query"], frame["text"], strict=True))
        cross = sentence_transformers.CrossEncoder(str(saved[CrossEncoder]), device="cpu")
        found = cross.predict(pairs, show_progress_bar=False)
        np.testing.assert_allclose(found, scores(trained[CrossEncoder], frame), atol=1e-5)
        encoder = sentence_transformers.SentenceTransformer(str(saved[BiEncoder]), device="cpu")
        queries, texts = (
            encode(frame[column].tolist(), normalize_embeddings=True)
            for encode, column in (
                (encoder.encode_query, "query"),
                (encoder.encode_document, "text"),
            )
        )
        expected = scores(trained[BiEncoder], frame)
        np.testing.assert_allclose((queries * texts).sum(axis=1), expected, atol=1e-5)

    def test_pyterrier_t5(self, trained, saved, frame):
        from pyterrier_t5 import MonoT5ReRanker

        theirs = MonoT5ReRanker(
            tok_model=str(saved[MonoT5]), model=str(saved[MonoT5]), batch_size=1, verbose=False
        )
        np.testing.assert_allclose(scores(theirs, frame), scores(trained[MonoT5], frame), atol=1e-5)

    def test_transformers(self, saved):
        import transformers

        auto = {
            MonoT5: transformers.AutoModelForSeq2SeqLM,
            CrossEncoder: transformers.AutoModelForSequenceClassification,
            BiEncoder: transformers.AutoModel,
        }
        for cls, loader in auto.items():
            model, info = loader.from_pretrained(saved[cls], output_loading_info=True)
            assert not info["missing_keys"] and not info["unexpected_keys"], cls
            assert transformers.AutoTokenizer.from_pretrained(saved[cls]) is not None


class TestPackage:
    def test_round_trip_over_the_hub(self, cls, trained, frame, tmp_path, monkeypatch):
        """The page says how to load it, and whether training helped."""
        monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path / "home"))
        with uploading(monkeypatch) as hub:
            trained[cls].to_hf("someone/reranker")
            loaded = pt.Artifact.from_hf("someone/reranker", dtype="float32", device="cpu")
        assert hub.created == [("dataset", "someone/reranker")]
        assert type(loaded) is cls and loaded.verdict.equals(trained[cls].verdict)
        np.testing.assert_array_equal(scores(loaded, frame), scores(trained[cls], frame))
        page = ModelCard(hub.files["someone/reranker@main"]["README.md"].decode())
        assert f"pyterrier-artifact.reranker.{FORMATS[cls]}" in page.data.tags
        assert "pt.Artifact.from_hf('someone/reranker')" in page.text
        assert trained[cls].provenance["verdict"]["summary"] in page.text

    def test_untrained(self, cls, models, monkeypatch):
        with uploading(monkeypatch) as hub:
            cls(models[cls]).to_hf("someone/reranker", pretty_name="My reranker")
        page = ModelCard(hub.files["someone/reranker@main"]["README.md"].decode())
        assert "# My reranker" in page.text and "trained" not in page.text

    def test_round_trip_over_zenodo(self, cls, trained, frame, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path / "home"))
        with uploading(monkeypatch) as hub:
            trained[cls].to_zenodo(pretty_name="Mine")
            loaded = pt.Artifact.from_zenodo("17", dtype="float32", device="cpu")
        np.testing.assert_array_equal(scores(loaded, frame), scores(trained[cls], frame))
        assert (
            hub.described["title"] == "Mine" and "pyterrier-artifact" in hub.described["keywords"]
        )
        page = html.unescape(hub.described["description"])
        assert "pt.Artifact.from_zenodo('17')" in page
        assert trained[cls].provenance["verdict"]["summary"] in page

    def test_default_name(self, cls, saved, tmp_path):
        path = shutil.copytree(saved[cls], tmp_path / "model")
        reranker = cls(path, dtype="float32", device="cpu")
        assert reranker.build_package(verbose=False) == f"{path}.tar.lz4"

    def test_path_of_the_package(self, cls, trained, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a folder: give a file, such as .*tar.lz4"):
            trained[cls].build_package(tmp_path, verbose=False)
        path = tmp_path / "new" / "model.tar.lz4"
        assert trained[cls].build_package(path, verbose=False) == str(path) and path.exists()

    def test_no_name(self, cls):
        with pytest.raises(ValueError, match=r"give its path, as in build_package\('reranker"):
            cls("owner/name").build_package()


class TestModelCard:
    def test_verdict_and_course(self, cls, trained, saved):
        card = ModelCard.load(saved[cls] / "README.md")
        text, log = card.text, trained[cls].training_log
        assert card.data.tags == ["pyterrier", "inpars", "reranker"]
        for row in trained[cls].verdict.itertuples():
            assert f"| {row.system} | {row._2:.4f} |" in text
        assert f"| 3 | {log['loss'].iloc[-1]:.4f} | {log['nDCG@10'].iloc[-1]:.4f} |" in text
        assert "| queries | 8 |" in text and "nan" not in text

    def test_base_model_of_the_hub(self, trained):
        """A folder's name is not a model of the hub."""
        provenance = trained[MonoT5].provenance
        assert "base_model" not in model_card(provenance, "MonoT5")
        changed = json.loads(json.dumps(provenance))
        changed["settings"]["reranker"]["model"] = "google-t5/t5-base"
        assert ModelCard(model_card(changed, "MonoT5")).data.base_model == "google-t5/t5-base"


class TestHtml:
    def test_untrained_loads_and_downloads_nothing(self, cls, models, monkeypatch):
        monkeypatch.setattr(base, "read_json", None)
        for model, trained in (("owner/na<me", "not known"), (models[cls], "not by this package")):
            reranker = cls(model, max_length=64)
            shown = reranker._repr_html_()
            assert reranker._network is None
            assert trained in shown and "<svg" not in shown.split('class="inpars"')[1]
            assert shown.count('class="repr_html') == 1 and "na<me" not in shown

    def test_trained_and_saved(self, cls, trained, saved):
        reranker = cls(saved[cls], dtype="float32", device="cpu")
        for shown in (trained[cls], reranker):
            page = shown._repr_html_()
            assert "examples of 8 queries" in page
            assert trained[cls].provenance["verdict"]["summary"] in page
            assert "training loss by step" in page and "nDCG@10 of the validation by step" in page
            assert "average (0.25 start)" in page and "nan" not in page.split('class="inpars"')[1]
        assert reranker._network is None

    def test_no_schematic(self, cls, models, monkeypatch):
        monkeypatch.setenv("PYTERRIER_DISABLE_NOTEBOOK_SCHEMATIC", "1")
        assert cls(models[cls])._repr_html_().startswith('<div class="inpars">')
