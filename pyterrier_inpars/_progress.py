"""The progress bar of the package: in a terminal, a notebook or a log file."""

from __future__ import annotations

import html
import operator
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.std import tqdm
from tqdm.utils import disp_len

SECONDS = {"terminal": 0.2, "notebook": 0.5, "log": 60.0}
"""Time between two displays, by place."""
_STEPS = "{n:,}/{total:,} {unit} [{elapsed}<{remaining}{postfix}]"
_BARS = (
    "{desc}: {percentage:.0f}%|{bar:12}| " + _STEPS,
    "{desc}: {percentage:.0f}%|{bar:5}| " + _STEPS,
    "{desc}: " + _STEPS,
    _STEPS,
    "{n:,}/{total:,} [{remaining} left{postfix}]",
)
"""Formats of a bar, of which the first one that fits the terminal is shown."""
_NO_TOTAL = ("{desc}: {n:,} {unit} [{elapsed}{postfix}]", "{n:,} {unit} [{elapsed}{postfix}]")

_hidden: ContextVar[bool] = ContextVar("pyterrier_inpars_hidden_bars", default=False)


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Hides the bars that begin in the block, in this thread: another bar shows what they do."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


class Progress(tqdm):
    """A tqdm bar that fits the place where it is shown.

    - In a terminal, it is a bar. Where the line is too long, details are shortened, then the bar.
    - In a notebook, it is one output that is replaced, without widgets. A notebook that is stored
      or converted keeps its last state.
    - Elsewhere, such as in a log file, it is a line a minute, and one at the end.

    Args:
        iterable: What to iterate over. None if `update` is called instead.
        title: Name of the work.
        total: Number of steps. None for the length of ``iterable``, if it has one.
        unit: Name of a step, in the plural.
        verbose: Whether to show the bar.
        initial: Number of steps that an earlier run has done.
        details: Function from the seconds since the start to short texts, which are shown after
            the bar. Of a pair of texts, the second is for terminals that the first does not fit.
            None for the speed.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Progress:
        """Lets the bars of this class and of tqdm itself, such as PyTerrier's, share the screen."""
        tqdm(disable=True)
        return super().__new__(cls)

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        title: str = "",
        *,
        total: int | None = None,
        unit: str = "steps",
        verbose: bool = True,
        initial: int = 0,
        details: Callable[[float], Sequence[str | tuple[str, str]]] | None = None,
    ):
        self._details = details
        self._ended = False
        self._output: Any = None
        self._place = _place()
        if total is None and iterable is not None:
            total = operator.length_hint(iterable) or None
        # TQDM_DISABLE in the environment is the default of ``disable``
        hidden = not verbose or _hidden.get() or sys.stderr is None
        super().__init__(
            iterable,
            title,
            total,
            unit=unit,
            initial=initial,
            mininterval=SECONDS[self._place],
            miniters=1,
            smoothing=0,
            **({"disable": True} if hidden else {}),
            **_size(),
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that tqdm formats."""
        values = dict(super().format_dict)
        details: list[str | tuple[str, str]] = [values["postfix"]]
        if self._details is None:
            details.insert(0, rate(values["n"] - values["initial"], values["elapsed"]))
        else:
            details[:0] = self._details(values["elapsed"])
        pairs = [(text, text) if isinstance(text, str) else text for text in details if text]
        most = values["total"] and max(values["total"], values["n"])
        return values | {
            "postfix": ", ".join(long for long, _ in pairs),
            "short_postfix": ", ".join(short for _, short in pairs),
            "total": most,
        }

    def __str__(self) -> str:
        """The bar, in the longest format that fits the terminal."""
        values = self.format_dict
        columns, short = values.pop("ncols"), values.pop("short_postfix")
        formats = _BARS if values["total"] else _NO_TOTAL
        shortened = values | {"postfix": short}
        for given, layout in [(values, formats[0]), *((shortened, f) for f in formats)]:
            line = self.format_meter(**given | {"ncols": None, "bar_format": layout})
            if columns is None or disp_len(line) <= columns:
                return line
        return self.format_meter(**shortened | {"ncols": columns, "bar_format": formats[-1]})

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Shows the present state."""
        if self._place == "terminal":
            return super().display(msg, pos)
        if msg == "":  # nothing to clear
            return False
        if self._place == "notebook":
            self._show()
        elif self.n != self.initial or self._ended:
            line = ", ".join(self._texts())
            self.fp.write(f"{time.strftime('%H:%M:%S')} {self.desc}: {line}\n")
            self.fp.flush()
        return True

    def close(self) -> None:
        """Shows the last state and ends the bar."""
        if not self.disable and self._place != "terminal":
            self._ended = True
            self.refresh()
            self.leave = False
        super().close()

    def _texts(self) -> list[str]:
        """Returns steps, details and times."""
        values = self.format_dict
        n, total, elapsed = values["n"], values["total"], values["elapsed"]
        steps = f"{n:,} {self.unit}"
        times = [f"{tqdm.format_interval(elapsed)} elapsed"]
        if total:
            steps = f"{n:,} of {total:,} {self.unit} ({n / total:.0%})"
            done = n - self.initial
            if done > 0 and n < total:
                left = elapsed * (total - n) / done
                times += [f"{tqdm.format_interval(left)} left"]
        return [steps, *filter(None, [values["postfix"]]), *times]

    def _show(self) -> None:
        """Replaces the output of a notebook."""
        from IPython.display import display

        texts = self._texts()
        value = f' value="{self.n / self.total:.4f}"' if self.total else ""
        bar = f'<progress max="1"{value} style="width:10em;vertical-align:middle"></progress>'
        if not self.total and self._ended:
            bar = ""
        shown = " · ".join(html.escape(text) for text in texts)
        data = {
            "text/html": (
                f'<div style="font-size:13px"><b>{html.escape(self.desc)}</b> {bar} {shown}</div>'
            ),
            "text/plain": f"{self.desc}: {', '.join(texts)}",
        }
        if self._output is None:
            self._output = display(data, raw=True, display_id=True)
        else:
            self._output.update(data, raw=True)


def rate(count: float, seconds: float) -> str:
    """Returns a speed, such as ``12/s`` or ``1.5/min``; empty if there is none yet."""
    if count <= 0 or seconds <= 0:
        return ""
    speed, unit = count / seconds, "s"
    for longer in ("min", "h"):
        if speed < 1:
            speed, unit = speed * 60, longer
    return f"{speed:,.0f}/{unit}" if speed >= 9.95 else f"{speed:.1f}/{unit}"


def _size() -> dict[str, Any]:
    """Returns tqdm's arguments for the size of a terminal, which some leave at 0."""
    try:
        columns, _ = os.get_terminal_size(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # not a terminal
        columns = 0
    return {"dynamic_ncols": True} if columns > 0 else {"ncols": 80, "nrows": 24}


def _place() -> str:
    """Returns where a bar is shown: ``terminal``, ``notebook`` or ``log``."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if getattr(shell, "kernel", None) is not None:
        return "notebook"
    is_terminal = getattr(sys.stderr, "isatty", None)
    return "terminal" if is_terminal is not None and is_terminal() else "log"
