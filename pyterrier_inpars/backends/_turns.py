"""Turns of threads while answers of a server are awaited."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TURN_SECONDS = 0.0005
"""Time that a thread computes while others wait for their turn, while answers are awaited.

After each system call, the thread of the event loop waits for its turn. By default, that takes 5 ms
while another thread builds prompts or writes queries, in which no request is sent.
"""

_turns = threading.Lock()
_awaiting = 0
_turn_before = 0.0


@contextmanager
def short_turns() -> Iterator[None]:
    """Lets threads take turns often while an answer is awaited; see `TURN_SECONDS`."""
    global _awaiting, _turn_before
    with _turns:
        if not _awaiting:
            _turn_before = sys.getswitchinterval()
            sys.setswitchinterval(min(_turn_before, TURN_SECONDS))
        _awaiting += 1
    try:
        yield
    finally:
        with _turns:
            _awaiting -= 1
            if not _awaiting:
                sys.setswitchinterval(_turn_before)


def _reset_turns() -> None:
    """Ends the short turns of the process that this one was forked from."""
    global _turns, _awaiting
    if _awaiting:
        sys.setswitchinterval(_turn_before)
    _turns, _awaiting = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_turns)
