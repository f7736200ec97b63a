"""Storage of synthetic queries: an artifact on disk that an interrupted run resumes."""

from pyterrier_inpars.queries._status import Status
from pyterrier_inpars.queries.artifact import SyntheticQueries

__all__ = ["Status", "SyntheticQueries"]
