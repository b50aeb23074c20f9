import numpy as np
import pytest

from gpu_reml.io import (
    InputError,
    Phenotype,
    SampleTable,
    align,
    read_covariates,
    read_phenotype,
    read_sample_list,
    write_samples,
)


@pytest.fixture
def phenotype(write):
    """Values 1.5 for a, 2.5 for b, ... in another order than any genotype source; d is missing, z not genotyped."""
    text = "FID IID y\nFf f 6.5\nFb b 2.5\nFz z 9\nFa a 1.5\nFd d NA\nFc c 3.5\nFe e 5.5\n"
    return read_phenotype(write("pheno.txt", text))


def listed(samples, has_fid=True):
    return SampleTable("list.txt", samples, has_fid)


def reasons(alignment):
    return dict(zip(alignment.dropped["iid"], alignment.dropped["reason"], strict=True))


def test_samples_and_values_follow_the_order_of_the_genotypes(ids, phenotype):
    aligned = align([ids("e", "a", "c", "b", "f")], phenotype)
    assert aligned.samples["iid"].tolist() == ["e", "a", "c", "b", "f"]
    assert aligned.y.tolist() == [5.5, 1.5, 3.5, 2.5, 6.5]
    assert aligned.indices[0].tolist() == [0, 1, 2, 3, 4]


def test_every_sample_that_is_out_has_its_first_reason(ids, phenotype, write):
    covariates = read_covariates(
        write("q.txt", "FID IID age pc1\nFa a 1 2\nFb b 1 NA\nFd d NA 1\nFf f 2 1\nFe e 3 1\n")
    )
    genotypes = ids("a", "b", "c", "d", "e", "f", "g", "h")
    keep = listed(ids("a", "b", "c", "d", "e", "f", "g"))
    remove = listed(ids("e"))
    aligned = align([genotypes], phenotype, [covariates], keep, remove)
    assert aligned.samples["iid"].tolist() == ["a", "f"]
    assert reasons(aligned) == {
        "b": "missing covariate pc1",
        "c": "no covariates",
        "d": "missing phenotype",
        "e": "in remove",
        "g": "no phenotype",
        "h": "not in keep",
        "z": "not genotyped",
    }
    assert aligned.dropped_counts == dict.fromkeys(reasons(aligned).values(), 1)
    assert aligned.dropped["fid"].tolist() == [f"F{iid}" for iid in aligned.dropped["iid"]]


def test_analysed_and_dropped_samples_are_all_the_samples_once(ids, phenotype):
    aligned = align([ids("a", "b", "c", "x"), ids("c", "y", "a")], phenotype)
    everyone = [*aligned.samples["iid"], *aligned.dropped["iid"]]
    assert sorted(everyone) == ["a", "b", "c", "d", "e", "f", "x", "y", "z"]


def test_several_sources_are_intersected_and_indexed_each_in_its_own_order(ids, phenotype):
    sources = [ids("a", "b", "c", "e"), ids("x", "e", "c", "a")]
    aligned = align(sources, phenotype, source_names=["chr1", "chr2"])
    assert aligned.samples["iid"].tolist() == ["a", "c", "e"]
    for samples, rows in zip(sources, aligned.indices, strict=True):
        assert samples["iid"].iloc[rows].tolist() == ["a", "c", "e"]
    assert reasons(aligned)["b"] == "not in chr2"
    assert reasons(aligned)["x"] == "not in chr1"


def test_sample_of_two_later_sources_is_dropped_once(ids, phenotype):
    aligned = align([ids("a", "b"), ids("a", "b", "x"), ids("x", "b", "a")], phenotype)
    assert aligned.dropped["iid"].tolist().count("x") == 1


def test_fid_distinguishes_samples_of_one_iid(ids, write):
    genotypes = ids("a", "b", "c")
    genotypes.loc[1, "iid"] = "a"
    phenotype = read_phenotype(write("p.txt", "FID IID y\nFb a 2\nFa a 1\nFc c 3\n"))
    assert align([genotypes], phenotype).y.tolist() == [1, 2, 3]


def test_table_of_iids_matches_by_iid_and_says_when_that_is_ambiguous(ids, write):
    phenotype = read_phenotype(write("p.txt", "IID y\nc 3\na 1\nz 5\n"))
    aligned = align([ids("a", "b", "c")], phenotype)
    assert aligned.y.tolist() == [1, 3]
    assert reasons(aligned) == {"b": "no phenotype", "z": "not genotyped"}
    genotypes = ids("a", "b", "c")
    genotypes.loc[1, "iid"] = "a"
    with pytest.raises(InputError, match=r"IID alone.*FID Fa IID a, FID Fb IID a.*add a FID column"):
        align([genotypes], phenotype)


def test_keep_list_of_iids_works(ids, phenotype):
    keep = ids("b", "a")
    keep["fid"] = ""
    assert align([ids("a", "b", "c")], phenotype, keep=listed(keep, has_fid=False)).samples["iid"].tolist() == [
        "a",
        "b",
    ]


@pytest.mark.parametrize("table", ["phenotype", "covariates", "keep"])
def test_people_are_matched_by_iid_where_all_fids_differ_and_a_note_says_so(ids, phenotype, write, table):
    stranger = {
        "phenotype": {"phenotype": read_phenotype(write("far.txt", "0 a 1\n0 b 2\n0 z 3\n"))},
        "covariates": {"covariates": [read_covariates(write("far.txt", "0 a 1\n0 b 2\n0 z 3\n"))]},
        "keep": {"keep": read_sample_list(write("far.txt", "0 a\n0 b\n0 z\n"))},
    }[table]
    aligned = align([ids("a", "b")], **{"phenotype": phenotype, **stranger})
    assert aligned.samples["iid"].tolist() == ["a", "b"]
    (note,) = (note for note in aligned.notes if "far.txt" in note)
    assert "matched by IID alone, as all FIDs differ from the genotypes' (FID 0 IID a is FID Fa IID a)" in note
    assert note.endswith("1 of 3 are not in the genotypes (FID 0 IID z)")


def test_iids_that_repeat_are_not_matched_without_their_fids(ids, write):
    genotypes = ids("a", "b", "c")
    genotypes.loc[2, "iid"] = "a"
    far = read_phenotype(write("far.txt", "0 a 1\n0 b 2\n"))
    with pytest.raises(InputError, match=r"genotyped with another FID: FID 0 IID a is FID Fa IID a"):
        align([genotypes], far)
    one_alike = read_phenotype(write("one.txt", "Fa a 1\nFb b 2\n0 c 3\n"))
    assert align([ids("a", "b", "c")], one_alike).samples["iid"].tolist() == ["a", "b"]


def test_genotype_files_whose_fids_all_differ_are_matched_by_iid(ids, phenotype):
    other = ids("b", "a").assign(fid="0")
    assert align([ids("a", "b"), other], phenotype).indices[1].tolist() == [1, 0]


def test_empty_keep_list_is_refused_and_empty_remove_list_is_not(ids, phenotype, write):
    empty = read_sample_list(write("empty.txt", ""))
    assert align([ids("a", "b")], phenotype, remove=empty).num_samples == 2
    with pytest.raises(InputError, match=r"empty\.txt shares no sample with the genotypes: it has nobody"):
        align([ids("a", "b")], phenotype, keep=empty)


def test_sources_without_a_common_sample_are_refused(ids, phenotype):
    with pytest.raises(
        InputError, match=r"chr2 shares no sample with chr1: it has FID Fc IID c, chr1 has FID Fa IID a"
    ):
        align([ids("a", "b"), ids("c")], phenotype, source_names=["chr1", "chr2"])


def test_nobody_left_is_refused_with_the_counts_of_reasons(ids, phenotype):
    with pytest.raises(InputError, match=r"no samples are left to analyse \(.*in remove: 2"):
        align([ids("a", "b", "d")], phenotype, remove=listed(ids("a", "b")))


def test_constant_phenotype_is_refused(ids, write):
    phenotype = read_phenotype(write("p.txt", "FID IID y\nFa a 2\nFb b 2\nFc c 3\n"))
    with pytest.raises(InputError, match=r"p\.txt: phenotype y is 2 for all 2 analysed samples"):
        align([ids("a", "b")], phenotype)


def test_first_line_that_is_a_genotyped_sample_is_not_swallowed_as_a_header(ids, write):
    phenotype = read_phenotype(write("p.txt", "Fa a missing\nFb b 2\nFc c 3\n"))
    with pytest.raises(InputError, match=r"the first line \(Fa a missing\) is sample a with no number, not a header"):
        align([ids("a", "b", "c")], phenotype)


def test_repeated_sample_in_a_source_is_refused(ids, phenotype):
    with pytest.raises(InputError, match=r"genotypes 2: samples occur more than once \(FID Fb IID b\)"):
        align([ids("a", "b"), ids("a", "b", "b")], phenotype)


@pytest.mark.parametrize("names", [["one"], None])
def test_sources_and_names_must_be_as_many(ids, phenotype, names):
    sources = [ids("a"), ids("a")] if names else []
    with pytest.raises(InputError, match="expected one table for each"):
        align(sources, phenotype, source_names=names)


def test_inputs_are_not_modified(ids, phenotype):
    genotypes = ids("b", "a", "d")
    before = genotypes.copy(), phenotype.values.copy()
    align([genotypes], phenotype)
    assert genotypes.equals(before[0])
    np.testing.assert_array_equal(phenotype.values, before[1])


def test_alignment_does_not_depend_on_the_order_of_the_phenotype_file(ids, phenotype):
    order = np.random.default_rng(0).permutation(phenotype.num_samples)
    shuffled = Phenotype(
        path=phenotype.path,
        samples=phenotype.samples.iloc[order].reset_index(drop=True),
        has_fid=True,
        name="y",
        values=phenotype.values[order],
    )
    genotypes = ids("a", "b", "c", "d", "e", "f")
    np.testing.assert_array_equal(align([genotypes], shuffled).y, align([genotypes], phenotype).y)


def test_written_samples_are_read_back(tmp_path, ids):
    write_samples(tmp_path / "new" / "kept.txt", ids("a", "b"))
    assert (tmp_path / "new" / "kept.txt").read_text() == "#FID\tIID\nFa\ta\nFb\tb\n"
    assert read_sample_list(tmp_path / "new" / "kept.txt").samples.equals(ids("a", "b"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Fa,a\nFb,b\n", r"it has IID Fa,a, .*separated by commas, which is read in a file named \.csv only"),
        ("Fa A\nFb B\n", "another case of letters: FID Fa IID A is FID Fa IID a"),
        ("Fa_a Fa_a\n", "its IIDs are the genotypes' FID_IID: FID Fa_a IID Fa_a is FID Fa IID a"),
        ('"Fa" "a"\n', 'its ids are in quotes; in R, write.table.quote = FALSE.: FID "Fa" IID "a" is FID Fa IID a'),
        ("IID\nFb\nFa\n", "its IIDs are the genotypes' FIDs: IID Fb is FID Fb IID b"),
        (
            "a 7\nb 8\n",
            "first column has the genotypes' IIDs, and no header begins with IID: FID a IID 7 is FID Fa IID a",
        ),
        ("q q\n", r"they have FID Fx IID x; make FID and IID agree"),
    ],
)
def test_a_remove_list_that_matches_nobody_is_an_error_with_the_reason(ids, phenotype, write, text, reason):
    remove = read_sample_list(write("rm.txt", text))
    with pytest.raises(InputError, match=rf"^`remove` \S*rm\.txt shares no sample with the genotypes: .*{reason}"):
        align([ids("x", "a", "b", "c")], phenotype, remove=remove)


def test_samples_of_lists_and_tables_that_are_not_genotyped_are_counted(ids, phenotype, write):
    keep = read_sample_list(write("keep.txt", "Fa a\nFb b\nFc c\nFo o\n"))
    remove = read_sample_list(write("rm.txt", "Fb b\nb b\nq q\n"))
    covariates = read_covariates(write("q.txt", "FID IID age\nFa a 1\nFb b 3\nFc c 5\n"))
    aligned = align([ids("a", "b", "c", "d", "e", "f")], phenotype, [covariates], keep, remove)
    assert aligned.samples["iid"].tolist() == ["a", "c"]
    assert aligned.notes == (
        f"`keep` {keep.path}: 1 of 4 samples are not in the genotypes (FID Fo IID o)",
        f"`remove` {remove.path}: 2 of 3 samples are not in the genotypes (FID b IID b, FID q IID q); 1 "
        "would be but for zeros before the IID, or for the FID",
        f"{phenotype.path}: 1 of 7 samples are not in the genotypes (FID Fz IID z)",
    )
    assert align([ids("a", "b"), ids("b", "a", "z")], phenotype).notes == (
        f"{phenotype.path}: 4 of 7 samples are not in the genotypes "
        "(FID Ff IID f, FID Fd IID d, FID Fc IID c, FID Fe IID e)",
    )


def test_zeros_that_a_spreadsheet_took_from_ids_are_named(ids, write):
    remove = read_sample_list(write("rm.txt", "F001 1\nF002 2\nF030 030\n"))
    phenotype = read_phenotype(write("p.txt", "F001 001 1\nF002 002 2\nF030 030 4\nF031 031 3\n"))
    notes = align([ids("001", "002", "030", "031")], phenotype, remove=remove).notes
    assert len(notes) == 1 and "2 of 3" in notes[0] and "2 would be but for zeros before the IID" in notes[0]


def test_an_empty_remove_list_removes_nobody_and_says_so(ids, phenotype, write):
    aligned = align([ids("a", "b", "c", "d", "e", "f", "z")], phenotype, remove=read_sample_list(write("rm.txt", "")))
    assert aligned.num_samples == 6 and [note.split("rm.txt")[1] for note in aligned.notes] == [": lists nobody"]
