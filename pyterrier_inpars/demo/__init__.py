"""Demo models and test collection, installed as packages and usable offline."""

from pyterrier_inpars.demo.collection import StdlibDocs
from pyterrier_inpars.demo.models import encoder, language_model

__all__ = ["StdlibDocs", "encoder", "language_model"]
