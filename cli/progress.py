"""Progress on stderr: a bar on a terminal; a line every half minute where stderr is a file or a pipe."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gpu_reml.reml import Record
from gpu_reml.reml.residuals import Layout

from .flags.output import Screen

EVERY = 30.0  # seconds between two lines


class MeanTraces(NamedTuple):
    """tr(K) / n of the components and tr(R) / n of the residuals: what makes h2 of variances."""

    genetic: np.ndarray
    residual: np.ndarray

    @classmethod
    def of(cls, layout: Layout) -> "MeanTraces":
        return cls(np.asarray(layout.mean_traces), np.asarray(layout.residual_traces))

    def h2(self, theta: tuple[float, ...]) -> float:
        """Share of the components in the variance at theta; NaN where it is not of these components."""
        if len(theta) != len(self.genetic) + len(self.residual):
            return math.nan
        parts = np.asarray(theta) * np.append(self.genetic, self.residual)
        return float(parts[: len(self.genetic)].sum() / parts.sum())


class Progress:
    """Follows column-passes and iterations of one fit; ``seconds`` since the start at every iteration.

    ``traces``: of the components, for h2 so far.  ``clock``: seconds, for tests.
    """

    def __init__(
        self,
        tol: float,
        screen: Screen,
        traces: MeanTraces | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._tol, self._screen, self._traces, self._clock = tol, screen, traces, clock
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            unit="product", leave=False, file=sys.stderr, disable=screen.quiet or not terminal, smoothing=0.1
        )
        self._lines = not (screen.quiet or terminal)
        self._start = self._said = clock()
        self._done, self._total, self._state = 0.0, 0.0, "before the first iteration"
        self.seconds: list[float] = []

    def passes(self, done: float) -> None:
        """Called after every product with the column-passes done so far."""
        self._done = done
        self._bar.update(done - self._bar.n)
        now = self._clock()
        if self._lines and now - self._said >= EVERY:
            self._said = now
            print(f"progress: {self.line(now)}", file=sys.stderr, flush=True)

    def line(self, now: float) -> str:
        """What is done, how far the fit is, and how long it may take yet."""
        spent = now - self._start
        text = f"{self._done:,.0f} products in {duration(spent)}; {self._state}"
        if self._total > self._done > 0:
            text += f"; about {duration(spent * (self._total - self._done) / self._done)} left"
        return text

    def iteration(self, record: Record) -> None:
        """Called after every iteration; the expected total extrapolates how fast the step shrinks.

        A first iteration begins the next of several fits.
        """
        if record.iteration == 1:
            self.seconds = []
        self.seconds.append(self._clock() - self._start)
        each = record.column_passes / record.iteration
        left = max(1.0, math.log10(max(record.decrement / self._tol, 1.0)) / 2) + 1.5
        self._total = self._bar.total = record.column_passes + each * left
        self._state = state_of(record, math.nan if self._traces is None else self._traces.h2(record.theta))
        self._bar.set_postfix_str(self._state)
        if self._screen.verbose:
            theta = " ".join(f"{value:.6g}" for value in record.theta)
            solves = f"basis of {record.basis}" if record.basis else f"{record.pcg_iterations} PCG steps"
            tqdm.write(
                f"iteration {record.iteration}: theta {theta}; step {math.sqrt(record.decrement):.3g} SE; "
                f"score {record.score_norm:.2g}; {solves}; {record.num_probes} probes; "
                f"{record.column_passes:.0f} products",
                file=sys.stderr,
            )

    def clear(self) -> None:
        """Take the bar off the screen, for lines that are printed; it is drawn again with the next step."""
        self._bar.clear()

    def close(self) -> None:
        self._bar.close()


@contextmanager
def under_way(phase: str, *, quiet: bool, every: float = EVERY) -> Iterator[None]:
    """While work goes on that reports no steps of its own, a line on stderr every half minute."""
    ended, start = threading.Event(), time.perf_counter()

    def tell() -> None:
        while not ended.wait(every):
            print(f"progress: {phase}, {duration(time.perf_counter() - start)} so far", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    if not quiet:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


def state_of(record: Record, h2: float) -> str:
    """How far a fit is: its iteration, h2 so far, and the probes; Monte-Carlo errors are known at the end."""
    parts = [f"iteration {record.iteration}"]
    if h2 == h2:
        parts.append(f"h2 so far {h2:.3f}")
    parts.append(f"last change {math.sqrt(record.decrement):.2g} SE")
    if record.num_probes:
        parts.append(f"{record.num_probes} probes")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
