"""Files that change while they are read."""

import os

import numpy as np
import pytest

from gpu_reml.io import (
    InputError,
    check_same,
    check_unchanged,
    load_genotypes,
    read_bed,
    read_grm,
    read_pgen,
    read_w,
    shrunken_maps,
    stamp_of,
    stamp_of_map,
    write_grm,
)
from gpu_reml.ops import make_covariance, make_products


def rewrite(path, content=None):
    """Write a file in its place, as ``cp`` does."""
    content = path.read_bytes() if content is None else content
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(0, 0))  # time has gone by


def test_a_file_that_is_written_to_is_named_and_one_that_is_left_alone_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    stamp = stamp_of(path)
    check_unchanged([stamp])
    check_same([stamp])
    rewrite(path)
    for check in (check_unchanged, check_same):
        with pytest.raises(InputError, match=r"file: was changed while it was read.*run again"):
            check([stamp])


def test_a_file_that_is_replaced_or_removed_is_still_what_was_mapped_but_not_what_is_opened_again(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"content")
    stamp = stamp_of(path)
    other.write_bytes(b"content of another")
    os.replace(other, path)
    check_unchanged([stamp])
    with pytest.raises(InputError, match="was changed while it was read"):
        check_same([stamp])
    path.unlink()
    check_unchanged([stamp])
    with pytest.raises(InputError, match="was changed while it was read"):
        check_same([stamp])


def test_a_map_that_lost_its_end_is_found(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    stamp_of_map(path)
    assert str(path) not in shrunken_maps()
    os.truncate(path, 3)
    assert str(path) in shrunken_maps()


def test_a_bed_that_is_a_map_is_watched_and_one_that_is_copied_is_not(make_fileset, random_counts):
    prefix = make_fileset(random_counts(12, 14))
    mapped, copied = load_genotypes([read_bed(prefix)]), load_genotypes([read_bed(prefix)], [np.array([3, 1])])
    rewrite(prefix.with_suffix(".bed"))
    check_unchanged(copied.stamps)
    with pytest.raises(InputError, match=r"\.bed: was changed while it was read"):
        check_unchanged(mapped.stamps)


@pytest.mark.parametrize("cached", [False, True])
def test_a_pgen_that_changes_between_its_variants_and_its_genotypes_is_an_error(
    make_pgen, random_counts, tmp_path, cached
):
    prefix = make_pgen(random_counts(12, 14))
    opened = read_pgen(prefix)
    rewrite(prefix.with_suffix(".pgen"))
    with pytest.raises(InputError, match=r"\.pgen: was changed while it was read"):
        load_genotypes([opened], cache=tmp_path / "cache" if cached else None)


def test_an_entry_of_the_cache_is_watched_as_long_as_it_is_a_map(make_pgen, random_counts, tmp_path):
    prefix = make_pgen(random_counts(12, 14))
    genotypes = load_genotypes([read_pgen(prefix)], cache=tmp_path / "cache")
    (entry,) = (tmp_path / "cache").iterdir()
    rewrite(entry)
    with pytest.raises(InputError, match=r"\.packed: was changed while it was read"):
        check_unchanged(genotypes.stamps)


def test_a_relationship_matrix_that_changes_after_it_was_opened_is_an_error(make_fileset, random_counts, tmp_path):
    bed = read_bed(make_fileset(random_counts(12, 14)))
    write_grm(tmp_path / "k", make_covariance(make_products(load_genotypes([bed]), "cpu")), bed.samples)
    opened = read_grm(tmp_path / "k")
    rewrite(tmp_path / "k.grm.bin")
    with pytest.raises(InputError, match=r"k\.grm\.bin: was changed while it was read"):
        opened.matrix()


def test_a_matrix_of_genotypes_that_changed_is_not_written(make_fileset, random_counts, tmp_path):
    prefix = make_fileset(random_counts(12, 14))
    bed = read_bed(prefix)
    covariance = make_covariance(make_products(load_genotypes([bed]), "cpu"))
    rewrite(prefix.with_suffix(".bed"))
    with pytest.raises(InputError, match=r"\.bed: was changed while it was read"):
        write_grm(tmp_path / "k", covariance, bed.samples)
    assert not list(tmp_path.glob("*k.grm*"))


def test_weights_that_are_a_map_have_a_stamp(tmp_path):
    np.save(tmp_path / "w.npy", np.eye(3, dtype=np.float32))
    np.savetxt(tmp_path / "w.txt", np.eye(3))
    assert read_w(tmp_path / "w.npy").stamp == stamp_of(tmp_path / "w.npy")
    assert read_w(tmp_path / "w.txt").stamp is None
