import json

import numpy as np
import pytest
import tiny_llm
from tiny_training import scores

from pyterrier_inpars.rerankers import BiEncoder, CrossEncoder, load_reranker

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*without a scoring head", "ignore:The inplace keyword"),
]


class TestLoadReranker:
    def test_what_each_class_saves(self, cls, make, frame, tmp_path):
        saved = make(max_length=20)
        path = saved.save(tmp_path / "checkpoint")
        loaded = load_reranker(path, dtype="float32", device="cpu")
        assert type(loaded) is cls
        np.testing.assert_array_equal(scores(loaded, frame), scores(saved, frame))

    def test_encoder_without_a_head(self, models):
        assert type(load_reranker(models[CrossEncoder])) is CrossEncoder

    def test_old_folder_of_a_bi_encoder(self, models, frame, tmp_path):
        """Before version 5.2 sentence-transformers did not write the class into a folder."""
        saved = BiEncoder(models[BiEncoder], dtype="float32")
        path = saved.save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        config = json.loads(file.read_text())
        assert config.pop("model_type") == "SentenceTransformer"
        for change in (lambda: file.write_text(json.dumps(config)), file.unlink):
            change()
            assert type(load_reranker(path)) is BiEncoder

    def test_options(self, models):
        path = models[CrossEncoder]
        reranker = load_reranker(path, training={"loss": "binary"}, batch_size=3)
        assert (reranker.batch_size, reranker.model) == (3, path)
        assert reranker.training_options.loss == "pointwise"
        for options in ({"labels": ("a", "b")}, {"self": 1}):
            with pytest.raises(TypeError, match=f"is for CrossEncoder: .*'{[*options][0]}'"):
                load_reranker(path, **options)

    def test_language_model(self, tmp_path):
        path = tiny_llm.save(tmp_path / "monot5", "llama")
        with pytest.raises(ValueError, match="monot5' is a LlamaForCausalLM, which is not a rera"):
            load_reranker(path)

    def test_another_kind_of_sentence_transformers(self, models, tmp_path):
        path = BiEncoder(models[BiEncoder]).save(tmp_path / "checkpoint")
        file = path / "config_sentence_transformers.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "SparseEncoder"}))
        with pytest.raises(ValueError, match="is a SparseEncoder, which is not a reranker"):
            load_reranker(path)

    @pytest.mark.parametrize("model", ["/no/such/folder", "no/such-model"])
    def test_no_such_model(self, model):
        with pytest.raises(OSError, match=f"cannot load the model '{model}': give"):
            load_reranker(model)

    def test_folder_without_a_model(self, tmp_path):
        with pytest.raises(OSError, match="cannot load the model .*config.json"):
            load_reranker(tmp_path)
