"""Where machine code is kept, and kernels started by several threads of Python."""

import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import njit, prange

from gpu_reml.ops import compile as compile_module
from gpu_reml.ops.compile import cache_notes, compiled, kept, parallel, private_folder, sources_digest


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """None of numba's usual folders can be written; the temporary folder is ``tmp_path``."""
    numba.config.reload_config()  # or the first compilation of a process undoes what is set below
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(compile_module, "_notes", {})
    private_folder.cache_clear()
    yield tmp_path
    private_folder.cache_clear()


def add_one(x):
    return x + 1


def test_where_no_usual_folder_can_be_written_code_is_kept_in_a_folder_of_this_user_alone(nowhere):
    with pytest.raises(RuntimeError, match="cannot cache function"):
        njit(cache=True)(add_one)
    assert compiled(add_one)(1) == 2
    (folder,) = nowhere.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.rglob("*.nbc"))
    assert len(cache_notes()) == 1 and str(folder) in cache_notes()[0] and "NUMBA_CACHE_DIR" in cache_notes()[0]
    assert numba.config.CACHE_DIR == ""  # other people's functions are kept where they were
    again = compiled(add_one)
    assert again(1) == 2 and sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("why", ["writable by others", "a link", "a file", "in a folder where others can replace it"])
def test_code_is_never_taken_from_a_folder_that_others_can_write(nowhere, why):
    folder = nowhere / f"gpu-reml-{os.geteuid()}"
    if why == "writable by others":
        folder.mkdir()
        folder.chmod(0o777)
    elif why == "a link":
        (nowhere / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(nowhere / "elsewhere")
    elif why == "a file":
        folder.touch()
    else:
        nowhere.chmod(0o777)
    assert private_folder() is None
    kernel = compiled(add_one)
    assert kernel(1) == 2 and not list(nowhere.rglob("*.nbc"))
    assert "every run compiles anew" in cache_notes()[0]


def test_code_that_cannot_be_saved_or_read_back_does_not_fail_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compile_module, "_notes", {})
    assert compiled(add_one)(1) == 2
    for path in tmp_path.rglob("*.nbi"):
        path.write_bytes(path.read_bytes()[:20])
    assert compiled(add_one)(1) == 2
    assert any("could not be read" in note for note in cache_notes())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert compiled(add_one)(1.5) == 2.5
    assert any("could not be saved (No space left on device)" in note for note in cache_notes())


KERNEL = """
from neighbour import helper
from numba import prange
from gpu_reml.ops.compile import compiled, parallel

@compiled
def plain(x):
    return helper(x)

@parallel
def on_all_threads(x):
    total = 0
    for i in prange(3):
        total += i
    return helper(x) + total - 3
"""
NEIGHBOUR = """
from gpu_reml.ops.compile import compiled

@compiled
def helper(x):
    return x + {}
"""


@pytest.fixture
def next_process(tmp_path, monkeypatch):
    """next_process(number): a module of kernels, imported anew, whose neighbour adds this number."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kernels_of_a_test.py").write_text(KERNEL)

    def imported(number, other=""):
        (tmp_path / "neighbour.py").write_text(NEIGHBOUR.format(number))
        (tmp_path / "not_imported.py").write_text(other)
        for name in ("kernels_of_a_test", "neighbour"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        sources_digest.cache_clear()
        return importlib.import_module("kernels_of_a_test")

    yield imported
    for name in ("kernels_of_a_test", "neighbour"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["plain", "on_all_threads"])
def test_kept_code_counts_until_a_module_that_it_inlines_changes(next_process, name):
    assert getattr(next_process(1), name)(1) == 2
    again = getattr(next_process(1, other="x = 1"), name)
    assert again(1) == 2 and sum(again.stats.cache_hits.values()) == 1
    changed = getattr(next_process(10), name)
    assert changed(1) == 11 and sum(changed.stats.cache_hits.values()) == 0


def kernels_of_the_package():
    """(module, function) of every function that ``compile`` makes a kernel of."""
    root = Path(compile_module.__file__).parents[1]
    for folder in ("io", "ops", "reml"):
        for path in (root / folder).rglob("*.py"):
            if re.search(r"^@(compiled|parallel)$", path.read_text(), re.MULTILINE):
                module = importlib.import_module(".".join(["gpu_reml", *path.relative_to(root).with_suffix("").parts]))
                found = (getattr(value, "_kernel", value) for value in vars(module).values())
                yield from ((module, kernel.py_func) for kernel in found if hasattr(kernel, "py_func"))


def test_kernels_take_code_from_their_own_folder_only():
    """What lies in another folder could change without their kept code being made anew."""
    checked = 0
    for module, function in kernels_of_the_package():
        own = Path(module.__file__).parent
        for name in function.__code__.co_names:
            source = getattr(getattr(module, name, None), "__code__", getattr(module, name, None))
            source = getattr(getattr(source, "py_func", None), "__code__", source)
            file = getattr(source, "co_filename", None)
            assert file is None or Path(file).parent == own, f"{function.__name__} takes {name} from {file}"
            checked += file is not None
    assert checked > 20


def test_an_error_that_is_not_of_the_cache_is_not_hidden():
    def jit(**options):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        kept(jit, add_one)


def test_a_parallel_kernel_gives_its_name_and_its_signatures():
    @parallel
    def doubled(x, out):
        """Twice x."""
        for i in prange(len(x)):
            out[i] = 2 * x[i]

    x, out = np.arange(5.0), np.empty(5)
    doubled(x, out)
    assert (out == 2 * x).all() and doubled.__doc__ == "Twice x." and len(doubled.signatures) == 1


THREADS = """
import os, threading
import numpy as np
from gpu_reml import ops, reml
rng = np.random.default_rng(0)
genotypes = ops.standardise([ops.pack(rng.integers(0, 3, (200, 400)).astype(np.int8))], 200)
covariance = ops.make_covariance(ops.make_products(genotypes, "cpu"))
y, answers = rng.standard_normal(200), [None] * 8

def answer():
    return reml.fit(y, np.ones((200, 1)), covariance, reml.draw_probes(200, seed=1)).theta

def one(i):
    answers[i] = answer()

answer()  # compiles everything: numba's lock, held by a thread that compiles, does not survive a fork
threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
[t.start() for t in threads]
if not (child := os.fork()):  # while kernels run
    os._exit(not np.array_equal(answer(), answer()))
_, status = os.waitpid(child, 0)
[t.join() for t in threads]
assert status == 0, status
assert all(np.array_equal(each, answer()) for each in answers), answers
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_fits_from_several_threads_and_a_forked_process_give_equal_answers():
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # OpenBLAS's own lock does not survive a fork
    command = [sys.executable, "-W", "ignore", "-c", THREADS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **one})
    assert done.returncode == 0, done.stderr


def test_no_module_keeps_machine_code_in_a_way_of_its_own():
    root = Path(compile_module.__file__).parents[1]
    sources = [path for folder in ("io", "ops", "reml", "cli") for path in (root / folder).rglob("*.py")]
    own = [path.name for path in sources if re.search(r"jit\([^)]*cache=True", path.read_text())]
    assert own == ["compile.py"] and len(sources) > 100


def test_the_sources_of_a_kernel_are_its_module_and_all_that_this_imports_from_its_folder(tmp_path):
    """On one line or several, by any of the forms in use, and no others."""
    modules = {"kernel": "from . import (\n    first,\n    second,\n)\n", "first": "from .third import (\n    x,\n)\n"}
    modules |= {"second": "from fourth import y\n", "third": "", "fourth": "from .kernel import z\n", "other": ""}
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    before = sources_digest(tmp_path / "kernel.py")
    for name in modules:
        (tmp_path / f"{name}.py").write_text(modules[name] + "# changed\n")
        sources_digest.cache_clear()
        assert (sources_digest(tmp_path / "kernel.py") != before) == (name != "other")
        (tmp_path / f"{name}.py").write_text(modules[name])
