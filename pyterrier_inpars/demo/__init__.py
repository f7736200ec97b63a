"""The embedded default: models and a test collection that need no network but the package index."""

from pyterrier_inpars.demo.collection import StdlibDocs
from pyterrier_inpars.demo.models import encoder, language_model

__all__ = ["StdlibDocs", "encoder", "language_model"]
