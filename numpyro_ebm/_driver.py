"""Long work in short compiled calls, with a progress bar; Ctrl-C stops it between two calls."""

import contextlib
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ._checks import user_level


class Progress(NamedTuple):
    """What one call did.

    - **num_steps**: the steps it made.
    - **shown**: the text beside the bar.
    - **ends**: whether the work is done.
    - **share**: of the whole work that is done, an estimate where the bar is in per cent.
    """

    num_steps: int
    shown: str
    ends: bool = False
    share: float = 0.0


def drive(
    call: Callable[[int], Progress],
    num_steps: int,
    *,
    progress_bar: bool,
    resume: str | None,
    is_shared: bool = False,
    label: str | None = None,
    in_percent: bool = False,
) -> int:
    """Make `num_steps` steps in calls of `call(length)`, each making at most `length` steps.

    An interrupt takes effect at the end of a call, and warns: `resume` says how to continue.
    Work that cannot be resumed is abandoned, by `KeyboardInterrupt`.

    **Arguments**

    - `is_shared`: whether several processes make the same calls, so lengths must agree.
    - `label`: what is done, in front of a bar that appears only if that takes two seconds.
    - `in_percent`: whether the bar shows the share that is done, because fewer steps than
      `num_steps` may do.

    **Returns** the number of steps made.
    """
    done, length = 0, _FIRST_CALL
    total, delay = 100 if in_percent else max(num_steps, 0), 0 if label is None else _PATIENCE
    bar = tqdm(total=total, disable=not progress_bar, desc=label, delay=delay)
    with bar, delayed_interrupt() as interrupted:
        while done < num_steps and not interrupted():
            start = time.perf_counter()
            progress = call(min(length, num_steps - done))
            seconds = time.perf_counter() - start
            bar.set_postfix_str(progress.shown, refresh=False)
            percent = max(int(100 * progress.share), bar.n) - bar.n
            bar.update(percent if in_percent else progress.num_steps)
            if progress.ends:
                return done + progress.num_steps
            has_compiled = done == 0 and seconds > _SECONDS_A_CALL
            if is_shared:
                length = min(2 * length, _MOST_GROWTH * _FIRST_CALL)
            elif not has_compiled:
                growth = min(_MOST_GROWTH, _SECONDS_A_CALL / max(seconds, 1e-9))
                length = max(1, int(growth * progress.num_steps))
            done += progress.num_steps
    if done < num_steps and resume is None:
        raise KeyboardInterrupt
    if done < num_steps:
        warnings.warn(
            f"Interrupted at step {done} of {num_steps}, and returning what there is so far; "
            f"go on with `{resume}`.",
            stacklevel=user_level(),
        )
    return done


#: Steps of the first call, and seconds of later ones: the bar moves, and interrupts get
#: through. A call is at most this many times as long as the one before.
_FIRST_CALL = 16
_SECONDS_A_CALL = 0.3
_MOST_GROWTH = 64
#: Seconds without a bar, for work that is usually quick.
_PATIENCE = 2.0


@contextlib.contextmanager
def delayed_interrupt() -> Iterator[Callable[[], bool]]:
    """Report whether Ctrl-C was pressed, instead of aborting a call that holds its buffers.

    A second Ctrl-C interrupts at once.
    """
    pressed = threading.Event()

    def handle(*_: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
