"""Demo models and test collection, installed as packages and usable offline."""

from pyterrier_inpars._native_output import mute_native_log
from pyterrier_inpars.demo.collection import StdlibDocs
from pyterrier_inpars.demo.models import (
    encoder,
    instruct_gguf,
    instruct_model,
    language_model,
    small_instruct_model,
    strong_encoder,
)

__all__ = [
    "StdlibDocs",
    "encoder",
    "instruct_gguf",
    "instruct_model",
    "language_model",
    "mute_native_log",
    "small_instruct_model",
    "strong_encoder",
]
