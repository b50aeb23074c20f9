"""The packed cache: a second run maps what the first one packed, and nothing stale or unfinished is ever taken."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from gpu_reml.io import InputError, OutputError, PackedCache, PgenFile, load_genotypes, read_bed, read_pgen, stamps
from gpu_reml.ops import pack

KEEP, SOME = np.array([7, 2, 10, 3, 0]), np.array([0, 3, 4, 11])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "some" / "cache"


@pytest.fixture
def unread(monkeypatch):
    """unread(): from now on, reading a .pgen fails the test."""

    def forbid():
        for name in ("read_packed", "read_dosages"):
            monkeypatch.setattr(PgenFile, name, lambda *_: pytest.fail("genotypes were read again"))

    return forbid


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def load(prefix, folder, keep=KEEP, some=SOME, **options):
    return load_genotypes([read_pgen(prefix)], [keep], [some], cache=folder, **options).parts[0]


@pytest.mark.parametrize("bits", [None, 8, 16])
def test_a_second_run_maps_what_the_first_one_packed(make_pgen, random_counts, folder, unread, bits):
    prefix = make_pgen(random_counts(12, 14))
    options = {} if bits is None else {"dosage": True, "dosage_bits": bits}
    fresh = load_genotypes([read_pgen(prefix)], [KEEP], [SOME], **options).parts[0]
    first = load(prefix, folder, **options)
    np.testing.assert_array_equal(first, fresh)
    unread()
    again = load(prefix, folder, **options)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    np.testing.assert_array_equal(again, fresh)
    assert len(entries(folder)) == 1


def test_a_subset_of_a_bed_is_kept_and_a_whole_one_is_not(make_fileset, random_counts, folder):
    counts = random_counts(12, 14)
    bed = read_bed(make_fileset(counts))
    assert load_genotypes([bed], cache=folder).parts[0] is bed.packed
    assert entries(folder) == []
    np.testing.assert_array_equal(load_genotypes([bed], [KEEP], cache=folder).parts[0], pack(counts[KEEP]))
    assert len(entries(folder)) == 1


def test_other_samples_orders_variants_and_codings_are_other_entries(make_pgen, random_counts, folder):
    counts = random_counts(12, 14)
    prefix = make_pgen(counts)
    choices = [(KEEP, SOME), (KEEP[::-1], SOME), (KEEP[:4], SOME), (KEEP, SOME[1:]), (KEEP, SOME + 1)]
    for _ in range(2):
        for keep, some in choices:
            np.testing.assert_array_equal(load(prefix, folder, keep, some), pack(counts[np.ix_(keep, some)]))
        load(prefix, folder, dosage=True)
        load(prefix, folder, dosage=True, dosage_bits=8)
    assert len(entries(folder)) == len(choices) + 2


@pytest.mark.parametrize("same_time", [False, True], ids=["later", "with the same time and size"])
def test_a_changed_source_is_packed_again(make_pgen, random_counts, folder, same_time):
    before, after = random_counts(12, 14), random_counts(12, 14, seed=1)
    prefix = make_pgen(before)
    path = prefix.with_suffix(".pgen")
    status = path.stat()
    load(prefix, folder)
    make_pgen(after)
    if same_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(load(prefix, folder), pack(after[np.ix_(KEEP, SOME)]))


def test_a_change_at_the_end_or_in_the_middle_of_a_large_file_is_seen(tmp_path):
    path = tmp_path / "large"
    content = bytearray(os.urandom(stamps.HEAD_BYTES + 63 * stamps.SAMPLED_BYTES))
    keys = set()
    for change in (None, len(content) - 1, stamps.HEAD_BYTES + 100, 5):
        if change is not None:
            content[change] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))
        keys.add(stamps.digest_of_files([path]))
    assert len(keys) == 4


def test_a_source_that_was_written_again_is_packed_again_whatever_was_sampled(make_pgen, random_counts, folder):
    prefix = make_pgen(random_counts(12, 14))
    load(prefix, folder)
    os.utime(prefix.with_suffix(".pgen"), ns=(0, 0))
    load(prefix, folder)
    assert len(entries(folder)) == 2


def test_renamed_samples_are_another_entry(make_pgen, random_counts, folder):
    counts = random_counts(12, 14)
    load(make_pgen(counts, "one"), folder)
    load(make_pgen(counts, "one", [f"t{i}" for i in range(12)]), folder)
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00v\x00{'descr", b"something else altogether"])
def test_a_damaged_entry_is_made_again(make_pgen, random_counts, folder, damage):
    counts = random_counts(12, 14)
    prefix = make_pgen(counts)
    load(prefix, folder)
    (entry,) = folder.iterdir()
    entry.write_bytes(damage)
    np.testing.assert_array_equal(load(prefix, folder), pack(counts[np.ix_(KEEP, SOME)]))
    assert entries(folder) == [entry.name]


def test_a_run_that_fails_leaves_nothing(make_pgen, random_counts, folder, monkeypatch):
    prefix = make_pgen(random_counts(12, 14))

    def fail(self, samples, variants, out):
        out[0] = 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PgenFile, "read_packed", fail)
        load(prefix, folder)
    assert entries(folder) == []


def wait_half_way(prefix, folder, reached):
    def read(self, samples, variants, out):
        out[0] = 1
        reached.set()
        time.sleep(60)

    PgenFile.read_packed = read
    load(prefix, folder)


def test_what_a_killed_run_leaves_is_never_taken_and_removed_in_time(make_pgen, random_counts, folder):
    counts = random_counts(12, 14)
    prefix = make_pgen(counts)
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    run = context.Process(target=wait_half_way, args=(prefix, folder, reached))
    run.start()
    assert reached.wait(60)
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    (left,) = folder.iterdir()
    assert left.suffix == ".part"
    np.testing.assert_array_equal(load(prefix, folder), pack(counts[np.ix_(KEEP, SOME)]))
    assert not left.exists()
    assert len(entries(folder)) == 1


def test_what_a_run_that_is_at_work_has_not_finished_is_left_to_it(make_pgen, random_counts, folder):
    counts = random_counts(12, 14)
    prefix = make_pgen(counts)
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    run = context.Process(target=wait_half_way, args=(prefix, folder, reached))
    run.start()
    assert reached.wait(60)
    (its,) = folder.iterdir()
    np.testing.assert_array_equal(load(prefix, folder), pack(counts[np.ix_(KEEP, SOME)]))
    assert its.exists()
    os.kill(run.pid, signal.SIGKILL)
    run.join()


def test_runs_that_write_the_same_entry_at_once_both_succeed(make_pgen, random_counts, folder, monkeypatch):
    counts = random_counts(12, 14)
    prefix = make_pgen(counts)
    expected = pack(counts[np.ix_(KEEP, SOME)])
    read = PgenFile.read_packed
    nested = []

    def read_while_another_run_does(self, *arguments):
        if not nested:
            nested.append(True)
            np.testing.assert_array_equal(load(prefix, folder), expected)
        return read(self, *arguments)

    monkeypatch.setattr(PgenFile, "read_packed", read_while_another_run_does)
    np.testing.assert_array_equal(load(prefix, folder), expected)
    assert nested
    assert len(entries(folder)) == 1


def test_a_source_that_changes_while_it_is_read_is_not_kept(make_pgen, random_counts, folder, monkeypatch):
    prefix = make_pgen(random_counts(12, 14))
    read = PgenFile.read_packed

    def read_and_change(self, *arguments):
        found = read(self, *arguments)
        make_pgen(random_counts(12, 14, seed=1))
        return found

    monkeypatch.setattr(PgenFile, "read_packed", read_and_change)
    with pytest.raises(InputError, match=r"cohort: its files changed while they were read; run again"):
        load(prefix, folder)
    assert entries(folder) == []


def test_a_folder_that_cannot_be_made_is_named(write, tmp_path):
    write("file", "not a folder")
    with pytest.raises(OutputError, match=r"cache \S*file cannot be made \(File exists\)"):
        PackedCache(tmp_path / "file")


def test_a_full_disk_is_an_error_with_the_size_that_was_wanted(make_pgen, random_counts, folder, monkeypatch):
    prefix = make_pgen(random_counts(12, 14))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"cache \S*: no room for .* GiB \(No space left on device\); free some"):
        load(prefix, folder)
    assert entries(folder) == []


@pytest.mark.parametrize("where", [0, 7, -1, -9])
def test_an_entry_with_one_bit_turned_is_made_again_with_a_note(make_pgen, random_counts, folder, where):
    prefix = make_pgen(random_counts(12, 14))
    fresh = load(prefix, folder).copy()
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[where] ^= 4
    path.write_bytes(content)
    cache = PackedCache(folder)
    np.testing.assert_array_equal(load(prefix, cache), fresh)
    assert cache.notes == [f"{path}: the genotypes kept there are damaged; they are made again"]
    cache = PackedCache(folder)
    np.testing.assert_array_equal(load(prefix, cache), fresh)
    assert not cache.notes


def test_an_entry_that_was_cut_short_is_made_again(make_pgen, random_counts, folder):
    prefix = make_pgen(random_counts(12, 14))
    fresh = load(prefix, folder).copy()
    (path,) = folder.iterdir()
    os.truncate(path, 5)
    np.testing.assert_array_equal(load(prefix, folder), fresh)
