"""Fixtures of the tests of backends."""

import pytest
import tiny_llm


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """Folder of a tiny causal language model without sliding windows."""
    return tiny_llm.save(tmp_path_factory.mktemp("llama"), "llama")
