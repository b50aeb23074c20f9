"""Names that files give to their key columns, as PLINK, GCTA, LDSC, regenie, UK Biobank and people write them.

A header is compared without regard to case, a ``#`` before it, and ``.``, ``-`` or a blank in the place of ``_``.
"""

import re
from collections.abc import Iterable, Sequence

from .errors import InputError

SAMPLE_NAMES = {
    "fid": "fid id_1 family family_id familyid famid fam_id pedigree",
    "iid": "iid id_2 id individual individual_id individualid indiv_id indid sample sample_id sampleid subject "
    "subject_id person person_id participant participant_id eid",
}
PEDIGREE_NAMES = {  # columns of these names are ids too, and neither traits nor covariates
    "the father's id": "pat father father_id paternal_id pid",
    "the mother's id": "mat mother mother_id maternal_id mid",
    "a second id of the sample": "sid",
}
VARIANT_NAMES = {
    "chrom": "chr chrom chromosome hm_chrom",
    "bp": "bp pos position base_pair_location genpos bp_position base_pair basepair bppos chromstart",
    "id": "snp id rsid rs rsids rs_id variant_id variantid variant varid marker markername marker_name marker_id snpid "
    "snp_id snpname rs_number hm_rsid",
    "cm": "cm cm_position centimorgan gen_dist genetic_distance",
    "a1": "a1 allele1 allele_1 effect_allele ea alt alt_allele tested_allele",
    "a2": "a2 allele2 allele_2 other_allele oa ref ref_allele nea non_effect_allele",
    "frequency": "maf freq frq af eaf a1freq a1_freq a1_frq effect_allele_frequency alt_freqs",
}
COMPONENT_NAMES = {
    "component": "component components set group category annotation annot class cluster",
    "weight": "weight weights w value",
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_BUILD = re.compile(r"_?(hg18|hg19|hg38|b36|b37|b38|grch37|grch38)$")


def plain(word: str) -> str:
    """A header's word as it is compared."""
    return re.sub(r"[.\- ]", "_", str(word).strip().removeprefix("#").casefold())


def key_of(word: str, *tables: dict[str, str]) -> str | None:
    """Which key column a header's word names, in any of the tables; a genome build after it makes no difference."""
    name = plain(word)
    names = (name, _BUILD.sub("", name))
    return next((key for table in tables for key, known in table.items() if set(names) & set(known.split())), None)


def variant_columns(where: str, words: Iterable[str]) -> tuple[dict[int, str], int | None]:
    """(key of every key column by its position, position of the ids) of a header of variants; None without ids.

    InputError, which starts with ``where``, for two columns of ids: either could be the one that is meant.
    """
    words = list(words)
    keys = {k: key for k, key in enumerate(key_of(word, VARIANT_NAMES) for word in words) if key is not None}
    ids = [k for k, key in keys.items() if key == "id"]
    if len(ids) > 1:
        raise InputError(f"{where}: columns {words[ids[0]]} and {words[ids[1]]} both name the variant's id; keep one")
    return keys, ids[0] if ids else None


def family_first(where: str, words: Sequence[str]) -> bool | None:
    """Whether a header of samples has the family's id first, not the sample's own; None where the line is no header.

    FID and IID make a line a header whatever follows.  By other names of ids it is one only where no number follows: a
    sample may be called so.  InputError, which starts with ``where``, for a family's id without the sample's after it.
    """
    words = [str(word) for word in words]
    keys = [key_of(word, SAMPLE_NAMES) for word in words[:2]]
    strict = is_strict(words)
    if not strict and any(_NUMBER.fullmatch(word) for word in words[1:]):
        return None
    if keys == ["fid", "iid"]:
        return True
    if strict and keys[0] == "fid":
        found = words[1] if len(words) > 1 else "nothing"
        raise InputError(f"{where}: expected IID after {words[0]}, found {found}; name or add the column")
    if keys == ["iid", "iid"]:
        raise InputError(f"{where}: {words[0]} and {words[1]} both name the sample; call them FID and IID")
    return False if keys[0] == "iid" else None


def is_strict(words: Sequence[str]) -> bool:
    """Whether a line begins with PLINK's and GCTA's own FID or IID."""
    return plain(words[0]) in ("fid", "iid")


def refuse_heading(where: str, words: Sequence[str]) -> None:
    """InputError where a file that should have no header has one: rows counted in it would be off by one."""
    if family_first(where, words) is not None:
        raise InputError(f"{where}: {' '.join(words[:2])} is a header, which this file does not have; remove the line")
