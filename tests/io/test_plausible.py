import gzip
import json
import os

import numpy as np
import pandas as pd
import pytest

from gpu_reml.io import (
    InputError,
    components_from_intervals,
    read_bed,
    read_component_spec,
    read_covariates,
    read_pgen,
    read_phenotype,
    read_phenotypes,
    read_sample_list,
)
from gpu_reml.io.annotations import components_from_annotations, components_from_table
from gpu_reml.io.association import gzipped
from gpu_reml.io.plausible import check_words
from gpu_reml.io.writers import json_text, write_all


@pytest.mark.parametrize("word", ["8.988465674311579e307", "-1e101", "1e154"])
def test_a_number_that_no_measurement_has_is_refused_with_its_line(write, word):
    path = write("p.txt", f"FID IID y\n1 a 2\n1 b {word}\n")
    for read in (read_phenotype, read_covariates):
        with pytest.raises(InputError, match=r"line 3 \(FID 1 IID b\): '\S*' in column y is larger than any measure"):
            read(path)
    assert read_phenotype(write("q.txt", "FID IID y\n1 a 2\n1 b 1e99\n")).values[1] == 1e99


@pytest.mark.parametrize("position", ["1e19", "-1e19", "99999999999999999999", "1.5", "100000000001"])
def test_a_position_that_no_chromosome_has_is_refused_with_its_line(make_fileset, make_pgen, random_counts, position):
    prefix = make_fileset(random_counts(8, 3))
    for read, path, old, changed in (
        (read_bed, f"{make_fileset(random_counts(8, 3))}.bim", "\t100\t", f"\t{position}\t"),
        (read_pgen, f"{make_pgen(random_counts(8, 3))}.pvar", "\t100\t", f"\t{position}\t"),
    ):
        with open(path) as file:
            text = file.read()
        assert text.count(old) == 1
        with open(path, "w") as file:
            file.write(text.replace(old, changed))
        with pytest.raises(InputError, match=r"line [23] \(variant rs1\): expected a whole number of at most 1e\+11"):
            read(prefix)


def test_negative_and_long_positions_are_kept_as_they_are(make_fileset, random_counts):
    prefix = make_fileset(random_counts(8, 3))
    bim = prefix.with_name("cohort.bim")
    bim.write_text(bim.read_text().replace("\t100\t", "\t-5\t").replace("\t200\t", "\t5000000001\t"))
    assert read_bed(prefix).variants["bp"].tolist() == [0, -5, 5000000001]


def test_weights_that_float32_does_not_have_are_refused(write, make_variants):
    variants = make_variants(["r0", "r1"])
    with pytest.raises(InputError, match=r"line 2: variant r1: .* found '1e\+31'; at most 1e\+30"):
        components_from_table(write("t.txt", "r0 a 1e30\nr1 a 1e+31\n"), variants)
    with pytest.raises(InputError, match=r"line 2: variant r0: .* annotation x, found 1e\+200; .* at most 1e\+30"):
        components_from_annotations([write("a.annot", "SNP x\nr0 1e200\nr1 1\n")], variants)
    spec = [{"name": "a", "variant_indices": [0, 1], "weights": [1, 1e40]}]
    with pytest.raises(InputError, match=r"weights\[1\] is 1e\+40; expected 0 to 1e\+30"):
        read_component_spec(write("s.json", json.dumps(spec)), 2)
    with pytest.raises(InputError, match=r"line 1: expected chrom start end"):
        components_from_intervals([write("i.bed", "1 5 100000000001\n")], variants)


@pytest.mark.parametrize("character", ["\x01", "\x1b[31m", "\x0b", "\x7f", "\x1a"])
def test_a_control_character_is_refused_in_every_text(write, make_fileset, random_counts, character):
    prefix = make_fileset(random_counts(8, 3))
    for suffix in ("fam", "bim"):
        path = prefix.with_name(f"cohort.{suffix}")
        good = path.read_text()
        path.write_text(good.replace("s1", f"s{character}1", 1))
        with pytest.raises(InputError, match=rf"cohort\.{suffix}: the \.{suffix} file has a control character \(.x"):
            read_bed(prefix)
        path.write_text(good)
    for read in (read_phenotype, read_sample_list):
        with pytest.raises(InputError, match=r"p\.txt: the .* file has a control character"):
            read(write("p.txt", f"FID IID y\n1 a{character} 2\n"))
    with pytest.raises(InputError, match="control character"):
        read_phenotype(write("p.txt.gz", gzip.compress(f"FID IID y{character}\n1 a 2\n".encode())))


def test_names_that_no_table_can_hold_are_refused(write):
    for name in ("a\tb", "a\nb", "a\x00", "\ud800"):
        spec = [{"name": name, "variant_indices": [0]}]
        with pytest.raises(InputError, match=r"s\.json: .* has a character that no name may have"):
            read_component_spec(write("s.json", json.dumps(spec)), 2)
    with pytest.raises(InputError, match=r"p\.csv: 'y\\nz' has a character that no name may have"):
        read_phenotype(write("p.csv", 'FID,IID,"y\nz"\n1,a,2\n'))
    with pytest.raises(InputError, match=r"p\.csv, line 1: value column 2 has no name"):
        read_phenotypes(write("p.csv", "FID,IID,y,\n1,a,2,3\n"))
    check_words("x", ["a b", "\u00e9", "", os.fsdecode(b"caf\xe9")])
    check_words("x", [])


def test_names_of_files_that_are_not_utf8_are_written(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    table = pd.DataFrame({"a": [name]}).to_csv(index=False)
    write_all({tmp_path / f"{name}.json": json_text({"path": name}), tmp_path / f"{name}.txt": table})
    assert json.loads((tmp_path / f"{name}.json").read_bytes().decode()) == {"path": name}
    assert (tmp_path / f"{name}.txt").read_bytes() == b"a\ncaf\xe9\n" == gzip.decompress(gzipped(table))
    assert np.isfinite(json.loads(json_text({"x": 1.5}))["x"])
