"""What a path holds comes in once and whole, or is refused in one line that names it."""

import bz2
import gzip
import io
import os
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from gpu_reml.io import content as content_module
from gpu_reml.io import read_component_spec, read_phenotype, read_phenotypes, read_sample_list
from gpu_reml.io.content import pipes_kept, read_content, read_stored
from gpu_reml.io.errors import InputError
from gpu_reml.io.frames import gzip_fault, zstd_fault
from gpu_reml.io.pvar import read_pvar

zstandard = pytest.importorskip("zstandard")

TABLE = "FID IID height weight\n" + "".join(f"F{i} s{i} {i / 7:.6f} {i % 9}\n" for i in range(2000))  # past one buffer


def text_of(path):
    with read_content(path, "test file").text() as file:
        return file.read()


@pytest.fixture
def fifo(tmp_path):
    """fifo(data) -> path of a FIFO into which a thread writes ``data`` once."""
    threads = []

    def write(path, data):
        with suppress(BrokenPipeError):  # the reader has seen enough
            path.write_bytes(data)

    def make(data, name="pipe"):
        path = tmp_path / name
        os.mkfifo(path)
        threads.append(threading.Thread(target=write, args=(path, data)))
        threads[-1].start()
        return path

    yield make
    for thread in threads:
        thread.join(5)


@pytest.fixture
def unnamed_pipe():
    """unnamed_pipe(data) -> path of a pipe, as a shell's <(command) gives it, that holds ``data`` and is closed."""
    ends = []

    def make(data):
        reading, writing = os.pipe()
        ends.append(reading)
        os.write(writing, data)
        os.close(writing)
        return f"/dev/fd/{reading}"

    yield make
    for end in ends:
        os.close(end)


def test_a_table_from_a_pipe_has_its_first_lines(fifo, unnamed_pipe):
    found = read_phenotype(fifo(TABLE.encode()), name="weight")
    assert found.num_samples == 2000 and found.values[0] == 0 and found.values[1999] == 1999 % 9
    assert read_sample_list(unnamed_pipe(b"a b\nc d\n")).num_samples == 2


def test_what_names_lines_needs_the_pipe_no_more(fifo):
    with pytest.raises(InputError, match=r"pipe, line 3 \(FID b IID b\): 'x' in column t is not a number"):
        read_phenotype(fifo(b"FID IID t\na a 1\nb b x\n"))


def test_within_a_command_a_pipe_serves_every_reader_and_flag(fifo):
    path = fifo(TABLE.encode())
    with pipes_kept():
        assert [trait.name for trait in read_phenotypes(path, "weight, height")] == ["weight", "height"]
        assert [trait.name for trait in read_phenotypes(path, "all")] == ["height", "weight"]
        assert read_sample_list(path).num_samples == 2000


def test_a_slow_writer_is_waited_for(fifo, tmp_path):
    path = tmp_path / "slow"
    os.mkfifo(path)

    def write_late():
        time.sleep(0.15)
        with open(path, "w") as file:
            time.sleep(0.15)
            file.write("a b\n")
            file.flush()
            time.sleep(0.15)
            file.write("c d\n")

    thread = threading.Thread(target=write_late)
    thread.start()
    assert text_of(path) == "a b\nc d\n"
    thread.join()


def test_a_fifo_without_a_writer_is_an_error_and_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(content_module, "PATIENCE", 0.1)
    os.mkfifo(tmp_path / "alone")
    with pytest.raises(InputError, match=r"alone: no process writes to this pipe; start the one that gives the test"):
        text_of(tmp_path / "alone")


def test_a_pipe_that_does_not_end_is_refused(fifo, monkeypatch):
    monkeypatch.setattr(content_module, "PIPE_LIMIT", 3 << 20)
    with pytest.raises(InputError, match=r"pipe: more than 3 MiB came through this pipe; write the test file to disk"):
        text_of(fifo(b"1 2\n" * (2 << 20)))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/full"])
def test_a_device_is_no_file(device):
    with pytest.raises(InputError, match=rf"{device}: the test file cannot be read, as this is a device"):
        text_of(device)


def test_the_null_device_is_an_empty_file():
    assert text_of("/dev/null") == ""
    assert read_sample_list("/dev/null").num_samples == 0


def test_a_directory_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path}: the test file cannot be read \(Is a directory\)"):
        text_of(tmp_path)
    with pytest.raises(InputError, match=r"test file not found: \S*none; check the path"):
        text_of(tmp_path / "none")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_byte_order_mark_is_dropped_and_compression_seen_through(tmp_path, suffix):
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    path = tmp_path / f"t.txt{suffix}"
    path.write_bytes(compress("\ufeffé 1\n".encode()))
    assert text_of(path) == "é 1\n"
    assert text_of(path.rename(tmp_path / "t")) == "é 1\n"  # by what it is, whatever its name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a b\nc \0d\n", "is not UTF-8 text (a zero byte)"),
        (b"a b\nc \xe9\n", "is not UTF-8 text (invalid continuation byte)"),
        (b"a b\nc \xc3", "is not UTF-8 text (unexpected end of data)"),
        ("a b\n".encode("utf-16"), "is not UTF-8 text (invalid start byte)"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_what_is_no_text_is_refused_wherever_it_is(tmp_path, text, message, suffix):
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    path = tmp_path / f"t.txt{suffix}"
    path.write_bytes(compress(text))
    with pytest.raises(InputError) as refused:
        text_of(path)
    assert f"{path}: the test file {message}" in str(refused.value)


def zstd_of(text, **options):
    return zstandard.ZstdCompressor(**options).compress(text)


@pytest.mark.parametrize("checked", [False, True])
def test_a_cut_zst_is_refused_wherever_it_is_cut(tmp_path, checked):
    lines = "".join(f"{i} {i * i % 977}\n" for i in range(30_000)).encode()
    parts = [lines[:100_003], lines[100_003:]]  # in the middle of a line, as compressors in parallel do
    stored = b"".join(zstd_of(part, write_checksum=checked) for part in parts)
    (tmp_path / "t.zst").write_bytes(stored)
    assert text_of(tmp_path / "t.zst") == lines.decode()
    between = len(zstd_of(parts[0], write_checksum=checked))
    cuts = {0, 1, 3, 5, 9, between - 1, between + 1, between + 4, between + 7, len(stored) - 1, len(stored) - 4}
    for cut in {*cuts, *range(700, len(stored), 9973)}:
        (tmp_path / "t.zst").write_bytes(stored[:cut])
        with pytest.raises(InputError, match=r"t\.zst: the test file cannot be read \("):
            text_of(tmp_path / "t.zst")


def test_a_zst_cut_between_its_frames_is_seen_by_its_last_line(tmp_path):
    two = [zstd_of(b"a b\nc "), zstd_of(b"d\ne f\n"), zstd_of(b"g h\n")]
    assert zstd_fault(b"".join(two), True) == ""
    (tmp_path / "t.zst").write_bytes(zstd_of(b"x y\n") + two[0])
    with pytest.raises(InputError, match="its last part ends in the middle of a line"):
        text_of(tmp_path / "t.zst")
    (tmp_path / "t.zst").write_bytes(zstd_of(b"a b\nc d"))  # a table that never had a last line end
    assert text_of(tmp_path / "t.zst") == "a b\nc d"


def test_frames_are_measured_as_the_library_writes_them():
    rng = np.random.default_rng(0)
    for size in (0, 1, 300, 70_000, 400_000):
        text = bytes(rng.integers(97, 101, size, np.uint8)) + bytes(size // 3)
        for options in ({}, {"write_content_size": False}, {"write_checksum": True}, {"level": 19}):
            whole = zstd_of(text, **options)
            skipped = b"\x50\x2a\x4d\x18\x04\0\0\0skip"
            for stored in (whole, whole + whole, skipped + whole + skipped):
                assert zstd_fault(stored, True) == ""
                assert zstd_fault(stored[:-1], True)
        buffer = io.BytesIO()
        with zstandard.ZstdCompressor(write_content_size=False).stream_writer(buffer, closefd=False) as writer:
            writer.write(text)
            writer.flush()
            writer.write(text)
        assert zstd_fault(buffer.getvalue(), True) == "" and zstd_fault(buffer.getvalue()[:-1], True)


def test_a_cut_gz_is_refused_wherever_it_is_cut(tmp_path):
    stored = gzip.compress(TABLE.encode())
    for cut in (0, 1, 2, 9, 10, 11, 500, len(stored) - 9, len(stored) - 8, len(stored) - 1):
        (tmp_path / "t.gz").write_bytes(stored[:cut])
        with pytest.raises(InputError, match=r"t\.gz: the test file cannot be read \("):
            text_of(tmp_path / "t.gz")


def test_a_gz_cut_between_its_members_is_seen_by_its_last_line(tmp_path):
    members = [gzip.compress(b"a b\nc "), gzip.compress(b"d\n")]
    (tmp_path / "t.gz").write_bytes(b"".join(members) + bytes(40))  # tape drives pad with zeros
    assert text_of(tmp_path / "t.gz") == "a b\nc d\n"
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"x y\n") + members[0])
    with pytest.raises(InputError, match="its last part ends in the middle of a line"):
        text_of(tmp_path / "t.gz")
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"x y\nz"))
    assert text_of(tmp_path / "t.gz") == "x y\nz"


def bgzf(*parts):
    """What bgzip writes: a member with its size for each part, and an empty one."""
    blocks = []
    for part in (*parts, b""):
        deflated = gzip.compress(part, mtime=0)[10:]
        size = (10 + 8 + len(deflated) - 1).to_bytes(2, "little")
        blocks.append(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + size + deflated)
    blocks[-1] = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    return b"".join(blocks)


def test_a_bgzip_file_without_its_last_block_is_refused(tmp_path):
    whole = bgzf(b"a b\nc ", b"d\n")
    assert gzip_fault(whole, True) == "" and gzip.decompress(whole) == b"a b\nc d\n"
    (tmp_path / "t.gz").write_bytes(whole)
    assert text_of(tmp_path / "t.gz") == "a b\nc d\n"
    (tmp_path / "t.gz").write_bytes(whole[:-28])
    with pytest.raises(InputError, match="bgzip's last block is missing"):
        text_of(tmp_path / "t.gz")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damage_in_an_archive_is_one_line(tmp_path, suffix):
    compress = {".gz": gzip.compress, ".zst": lambda text: zstd_of(text, write_checksum=True)}[suffix]
    stored, path = compress(TABLE.encode()), tmp_path / f"t{suffix}"
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(stored)
        damaged[rng.integers(20, len(stored))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"t{suffix}: the test file") as refused:
            text_of(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_expands_beyond_measure_is_refused_and_large_tables_are_not(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(content_module, "EXPANDED", 1 << 20)
    compress, path = {".gz": gzip.compress, ".zst": zstandard.compress}[suffix], tmp_path / f"t{suffix}"
    path.write_bytes(compress(b"0 " * (1 << 21)))
    with pytest.raises(InputError, match=r"expands to more than 250 times its \d+ bytes; .* expand it and give"):
        text_of(path)
    annotations = "".join(f"1 {i * 977} rs{i * 7919 % 99991} 0" + " 0 1 0" * 33 + "\n" for i in range(20_000)).encode()
    path.write_bytes(compress(annotations))
    assert len(annotations) > 20 * path.stat().st_size > 0 and len(annotations) > 3 << 20
    assert text_of(path) == annotations.decode()


def test_a_line_of_endless_fields_is_no_table(write, tmp_path):
    message = r"line 1: has 200000 fields, more than 100000; is it a table"
    for name, text in (("t.txt", "1 " * 200_000), ("t.csv", ",".join(["1"] * 200_001))):
        with pytest.raises(InputError, match=message):
            read_phenotype(write(name, text))
    with pytest.raises(InputError, match=message):
        read_pvar(write("t.pvar", "1 " * 200_000))


def test_a_file_larger_than_memory_is_refused_unread(tmp_path):
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(1 << 42)  # takes no room on disk
    with pytest.raises(InputError, match=r"huge\.txt: the test file has 4096 GiB, and this machine \d+ GiB of memory"):
        read_stored(tmp_path / "huge.txt", "test file")


def test_other_compression_is_no_text(tmp_path):
    (tmp_path / "t.txt").write_bytes(bz2.compress(b"a b\n"))
    with pytest.raises(InputError, match=r"t\.txt: the test file is not UTF-8 text"):
        text_of(tmp_path / "t.txt")


def test_a_component_spec_from_a_pipe_is_read(fifo):
    specs = read_component_spec(fifo(b'[{"variant_indices": [0, 2]}]', "spec.json"), 3)
    assert specs[0].indices.tolist() == [0, 2]
