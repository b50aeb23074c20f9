import pytest

from gpu_reml.io.errors import InputError
from gpu_reml.io.headings import SAMPLE_NAMES, VARIANT_NAMES, family_first, key_of, refuse_heading, variant_columns


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("CHR", "#CHROM", "chrom", "Chromosome"), "chrom"),
        (("BP", "POS", "position", "base.pair.location", "bp_hg19", "POS_GRCh38", "GENPOS"), "bp"),
        (("SNP", "ID", "rsid", "variant_id", "MarkerName", "Marker Name", "rs-id"), "id"),
        (("CM", "cm"), "cm"),
        (("A1", "effect_allele", "ALT"), "a1"),
        (("A2", "REF", "other_allele"), "a2"),
        (("MAF", "A1FREQ", "freq"), "frequency"),
        (("coding", "maf_adj", "base", "CHR_state", "posterior"), None),
    ],
)
def test_key_columns_of_variants_are_known_by_the_names_that_people_use(words, key):
    assert {key_of(word, VARIANT_NAMES) for word in words} == {key}


def test_no_name_stands_for_two_keys():
    for table in (SAMPLE_NAMES, VARIANT_NAMES):
        names = [name for known in table.values() for name in known.split()]
        assert len(names) == len(set(names))


def test_key_columns_have_their_positions_and_two_of_ids_are_refused():
    keys = {1: "chrom", 2: "bp", 3: "id", 4: "bp"}
    assert variant_columns("x", ["coding", "#CHROM", "POS", "SNP", "BP_hg38"]) == (keys, 3)
    assert variant_columns("x", ["coding", "CHR"]) == ({1: "chrom"}, None)
    with pytest.raises(InputError, match="x: columns SNP and rsid both name the variant's id; keep one"):
        variant_columns("x", ["CHR", "SNP", "rsid"])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("FID IID 1 2", True),
        ("#FID IID", True),
        ("IID y", False),
        ("#IID", False),
        ("ID_1 ID_2 missing", True),
        ("family_id individual_id y", True),
        ("eid height", False),
        ("sample", False),
        ("FID sample_id y", True),
        ("ID1 ID1 2.5", None),
        ("ID_1 ID_2 2.5", None),
        ("sample x 3", None),
        ("1 a 2", None),
        ("a b", None),
    ],
)
def test_a_header_of_samples_is_known_by_its_ids(line, found):
    assert family_first("x", line.split()) is found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("FID age y", "x: expected IID after FID, found age"),
        ("FID", "x: expected IID after FID, found nothing"),
        ("ID IID y", "x: ID and IID both name the sample"),
    ],
)
def test_a_header_whose_ids_are_unclear_is_refused(line, message):
    with pytest.raises(InputError, match=message):
        family_first("x", line.split())


def test_a_header_where_none_belongs_is_refused():
    refuse_heading("x", "id a 0 0 1 -9".split())
    with pytest.raises(InputError, match="x: FID IID is a header, which this file does not have"):
        refuse_heading("x", "FID IID PAT MAT SEX PHENO".split())
