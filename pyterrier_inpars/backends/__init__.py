"""LLM backends: one module per runtime.

A backend is any object with the methods of `base.Backend` (to generate queries) or of
`base.LikelihoodBackend` (to score queries).
"""

from pyterrier_inpars.backends.base import Backend, Completion, LikelihoodBackend, Sampling
from pyterrier_inpars.backends.huggingface import HuggingFaceBackend
from pyterrier_inpars.backends.openai import OpenAIBackend
from pyterrier_inpars.backends.openai_batch import OpenAIBatch
from pyterrier_inpars.backends.pyterrier_rag import PyTerrierRagBackend
from pyterrier_inpars.backends.vllm import VLLMBackend

__all__ = [
    "Backend",
    "Completion",
    "HuggingFaceBackend",
    "LikelihoodBackend",
    "OpenAIBackend",
    "OpenAIBatch",
    "PyTerrierRagBackend",
    "Sampling",
    "VLLMBackend",
]
