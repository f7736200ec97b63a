"""Errors that several rooms of the package know."""


class LanguageModelError(RuntimeError):
    """A language model, or its server, does not answer: the queries that are stored can be used."""
