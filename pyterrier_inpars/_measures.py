"""Measures of ``ir_measures``, as a user gives them: an object or a name, one or several."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
from ir_measures import DefaultPipeline, Measure, parse_measure, parse_trec_measure

DECIMALS = 9
"""Decimals at which means are compared: summed in another order, equal values differ below."""


def as_measures(measures: Measure | str | Iterable[Measure | str]) -> list[Measure | str]:
    """Returns distinct measures that can be computed; names of trec_eval stay names.

    Raises:
        TypeError: One is not a measure.
        ValueError: There are none, or one lacks a cutoff or a provider.
    """
    listed: list = [measures]
    if isinstance(measures, Iterable) and not isinstance(measures, str):
        listed = list(measures)
    if not listed:
        raise ValueError("measures is empty: give one measure or more, such as [nDCG @ 10]")
    return list(dict.fromkeys(map(checked_measure, listed)))


def as_measure(measure: Measure | str) -> Measure:
    """Returns a measure that can be computed, by its name or itself.

    Raises:
        TypeError: It is not a measure.
        ValueError: It lacks a cutoff or a provider.
    """
    found = checked_measure(measure)
    return parse_trec_measure(found)[0] if isinstance(found, str) else found


def checked_measure(measure: Measure | str) -> Measure | str:
    """Returns a measure that can be computed; a name of trec_eval stays a name.

    Raises:
        TypeError: It is not a measure.
        ValueError: It lacks a cutoff or a provider.
    """
    parsed = measure
    if isinstance(measure, str):
        with suppress(NameError, ValueError):
            parsed = parse_measure(measure)
        if isinstance(parsed, str):
            with suppress(ValueError):
                if len(parse_trec_measure(measure)) == 1:
                    return measure
    if not isinstance(parsed, Measure):
        raise TypeError(
            f"a measure must be one of ir_measures, such as nDCG @ 10, not {measure!r:.200}"
        )
    try:
        parsed.validate_params()
    except AssertionError as error:
        raise ValueError(
            f"the measure {parsed} needs other parameters ({str(error).partition('=')[0]}): "
            f"most measures need a cutoff, such as {parsed.NAME} @ 10"
        ) from None
    if not hasattr(parsed, "runtime_impl") and not DefaultPipeline.supports(parsed):
        raise ValueError(
            f"no installed package computes the measure {parsed} with these parameters: give "
            "others, such as rel=1, or another measure, or install what ir_measures needs for it"
        )
    return parsed


def comparable(means: Any) -> Any:
    """Returns a mean, or an array or Series of them, rounded so that equal ones tie."""
    return np.round(means, DECIMALS)
