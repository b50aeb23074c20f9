"""How a command runs: threads first, then the work, then one line and an exit code for what went wrong.

Nothing heavy is imported before the number of threads is in the environment, where BLAS and numba look for it once.
"""

import os
import resource
import sys
import time
from collections.abc import Callable

from .process import lost_maps, report_stop

EXIT_OK, EXIT_INPUT, EXIT_NOT_CONVERGED, EXIT_DEVICE = 0, 2, 3, 4
CHECKPOINT = ".checkpoint.npz"
# Bytes of addresses that the libraries take, and each thread; without them BLAS, when it is imported, waits for ever
# for its buffers and hears no signal.
LIBRARIES, EACH_THREAD = 512 << 20, 64 << 20
SMALLER = {  # what makes these commands take less memory
    "gpu-reml-predict": "predict fewer samples at a time, by --keep",
    "gpu-reml-gwas": "test fewer variants at a time, by --chr, and fewer traits",
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def limit_threads(threads: int) -> int:
    """Put the number of threads where BLAS and numba read it; 0 means those this process may run on."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = threads or available
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    numba = sys.modules.get("numba")
    if numba is not None:  # its threads may run already, and then it refuses another number at the next compilation
        most = numba.config.NUMBA_NUM_THREADS
        os.environ["NUMBA_NUM_THREADS"] = str(most)
        numba.set_num_threads(min(threads, most))
    return threads


def run_command(name: str, command: Callable[[int], bool], threads: int, interrupted: str | Callable[[], str]) -> int:
    """Exit code of ``command(threads)``, True when all converged; one line on stderr for what a user can fix.

    ``command`` imports what is heavy itself.  ``interrupted``: what to say after Ctrl-C, and after TERM, or what
    tells it then.
    """
    threads = limit_threads(threads)
    allowed, needed = resource.getrlimit(resource.RLIMIT_AS)[0], LIBRARIES + threads * EACH_THREAD
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        text = f"ulimit -v allows {allowed >> 20} MiB of addresses, and libraries and threads take {needed >> 20}"
        print(f"{name}: error: {text}; raise it, or use fewer --threads", file=sys.stderr)
        return EXIT_INPUT
    try:
        from gpu_reml.io import pipes_kept, shrunken_maps
        from gpu_reml.ops.compile import cache_notes

        try:
            with pipes_kept(), lost_maps(name, shrunken_maps):
                converged = command(threads)
        finally:
            for note in cache_notes():
                print(f"{name}: note: {note}", file=sys.stderr)
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        return report_failure(name, error)
    except KeyboardInterrupt as stop:
        return report_stop(name, stop, interrupted() if callable(interrupted) else interrupted)
    return EXIT_OK if converged else EXIT_NOT_CONVERGED


def saved_text(out: str) -> str:
    """What an interrupted gpu-reml has left: its checkpoints, each with its age, and how to go on from them."""
    folder, name = os.path.split(out)
    found: list[os.DirEntry] = []
    if os.path.isdir(folder or "."):
        with os.scandir(folder or ".") as entries:
            found = [each for each in entries if each.name.startswith(f"{name}.") and each.name.endswith(CHECKPOINT)]
    if not found:
        return "nothing was saved: a run of this kind has no checkpoint, or had not come to the first one"
    ages = [f"{os.path.join(folder, entry.name)} of {time.time() - entry.stat().st_mtime:.0f} s ago" for entry in found]
    return f"saved: {', '.join(sorted(ages))}; the same command with --resume goes on from there"


def report_failure(name: str, error: Exception) -> int:
    """One line on stderr and the exit code, for errors that a user can fix; others are re-raised."""
    from gpu_reml.ops.device.interface import DeviceLostError
    from gpu_reml.ops.device.pool import DeviceMemoryError
    from gpu_reml.reml import BreakdownError, ConvergenceError

    from .wording import in_flags

    if isinstance(error, ConvergenceError | BreakdownError):
        print(f"{name}: not converged: {in_flags(str(error))}", file=sys.stderr)
        return EXIT_NOT_CONVERGED
    if isinstance(error, DeviceMemoryError | DeviceLostError):
        print(f"{name}: device: {in_flags(str(error))}", file=sys.stderr)
        return EXIT_DEVICE
    if isinstance(error, RuntimeError):
        raise error
    if isinstance(error, MemoryError):
        remedy = SMALLER.get(name, "use fewer --max-probes or fewer components")
        error = f"out of memory ({error}); {remedy}"
    elif isinstance(error, ArithmeticError):
        raise error
    print(f"{name}: error: {' '.join(in_flags(str(error)).split())}", file=sys.stderr)
    return EXIT_INPUT
