"""Progress on stderr: a bar when it is a terminal, silence when it is not."""

import math
import sys
import time

from tqdm import tqdm

from gpu_reml.reml import Record

from .flags.output import Screen


class Progress:
    """Follows column-passes and iterations of one fit; ``seconds`` since the start at every iteration."""

    def __init__(self, tol: float, screen: Screen):
        self._tol, self._verbose = tol, screen.verbose
        self._bar = tqdm(
            unit="product", leave=False, file=sys.stderr, disable=True if screen.quiet else None, smoothing=0.1
        )
        self._start = time.perf_counter()
        self.seconds: list[float] = []

    def passes(self, done: float) -> None:
        """Called after every product with the column-passes done so far."""
        self._bar.update(done - self._bar.n)

    def iteration(self, record: Record) -> None:
        """Called after every iteration; the expected total extrapolates how fast the step shrinks.

        A first iteration begins the next of several fits.
        """
        if record.iteration == 1:
            self.seconds = []
        self.seconds.append(time.perf_counter() - self._start)
        each = record.column_passes / record.iteration
        left = max(1.0, math.log10(max(record.decrement / self._tol, 1.0)) / 2) + 1.5
        self._bar.total = record.column_passes + each * left
        self._bar.set_postfix_str(f"iteration {record.iteration}, change {math.sqrt(record.decrement):.2g} SE")
        if self._verbose:
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
