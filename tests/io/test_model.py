"""A saved model gives back what was saved, to the bit, or says what is wrong; scoring follows from it alone."""

import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from gpu_reml.io import Covariates, InputError, OutputError, design_matrix, read_bed, read_covariates
from gpu_reml.io.documents import checksum_of, digest
from gpu_reml.io.harmonise import harmonise
from gpu_reml.io.model import FixedTerms, Model, Scale, fixed_terms
from gpu_reml.io.model_file import read_model, write_model
from gpu_reml.io.scoring import (
    _values,
    complete_samples,
    complete_scales,
    fixed_columns,
    genetic_scores,
    scale_columns,
)
from gpu_reml.ops import MISSING
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.ops.genotypes import standardise
from gpu_reml.ops.packing import pack
from gpu_reml.validation.host_device import HostDevice

M, N = 40, 30
SCALES = (
    Scale("environment", "age", 1 / 3, 0.1 + 0.2),
    Scale("ancestry", "é", root=True),
    Scale("environment", "dose"),
)


def make_model(G=2, seed=0, m=M):
    """Variants like those of make_fileset, two covariates, and effects of some variants in every component."""
    rng = np.random.default_rng(seed)
    variants = pd.DataFrame(
        {
            "chrom": [str(1 + j % 22) for j in range(m)],
            "id": [f"rs{j}" for j in range(m)],
            "bp": np.array([100 * j for j in range(m)]),
            "a1": ["A"] * m,
            "a2": ["C"] * m,
        }
    )
    effects = sparse.csr_array(rng.standard_normal((m, G)) * (rng.random((m, G)) < 0.6))
    coded = (("age", None), ("sex", "2"), ("site", "é"), ("site", "z"))
    names = ("intercept", "age", "sex[2]", "site[é]", "site[z]")
    cov = rng.standard_normal((5, 5))
    return Model(
        "height (cm)",
        tuple(f"c{g}" for g in range(G)),
        (None, *(SCALES[g % 3] for g in range(G - 1))),
        ("residual_north", "residual_é"),
        rng.random(G + 2),
        rng.random(G + 2),
        pd.DataFrame({"fid": ["F 1", "é", ""], "iid": ["a", "b", "c"]}, dtype=str),
        rng.standard_normal(3),
        variants,
        rng.uniform(0.1, 1.9, m),
        1 / rng.uniform(0.1, 0.7, m),
        effects,
        FixedTerms(names, rng.standard_normal(5), cov @ cov.T, coded, {"sex": "1", "site": "a b"}),
        {"version": "0", "h2": {"estimate": 0.1 + 0.2}, "nothing": None, "path": "x/ü"},
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "deep" / "m.npz"
    write_model(path, make_model())
    return path


def assert_same(a: Model, b: Model):
    for name in ("theta", "theta_se", "Py", "mean", "inv_sd"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    pd.testing.assert_frame_equal(a.samples, b.samples)
    pd.testing.assert_frame_equal(a.variants, b.variants, check_dtype=False)
    assert a.variants["bp"].dtype == np.int64
    np.testing.assert_array_equal(a.effects.toarray(), b.effects.toarray())
    np.testing.assert_array_equal(a.fixed.estimate, b.fixed.estimate)
    np.testing.assert_array_equal(a.fixed.covariance, b.fixed.covariance)
    assert (a.phenotype, a.components, a.fixed.names) == (b.phenotype, b.components, b.fixed.names)
    assert (a.scales, a.residuals) == (b.scales, b.residuals)
    assert (a.fixed.columns, a.fixed.references, a.about) == (b.fixed.columns, b.fixed.references, b.about)


@pytest.mark.parametrize("G", [1, 4])
def test_a_model_comes_back_to_the_bit(tmp_path, G):
    model = make_model(G)
    write_model(tmp_path / "m.npz", model)
    assert_same(read_model(tmp_path / "m.npz"), model)
    # again, from what was read
    write_model(tmp_path / "again.npz", read_model(tmp_path / "m.npz"))
    assert_same(read_model(tmp_path / "again.npz"), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.npz", "m.npz"]


def test_the_file_is_open_to_numpy_without_pickles(saved):
    with np.load(saved, allow_pickle=False) as file:
        head = json.loads(file["document.json"].tobytes())
        assert all(file[name].dtype != object for name in file.files)
        assert file["variants.id"].tobytes().decode().split("\n")[:2] == ["rs0", "rs1"]
    assert head["format"] == "gpu-reml model" and head["num_variants"] == M and "phenotype units" in head["units"]


def rewrite(path, change):
    """The archive with its entries, name to array, as ``change`` leaves them."""
    with np.load(path) as file:
        entries = {name: file[name] for name in file.files}
    change(entries)
    with open(path, "wb") as out:
        np.savez(out, **entries)


def head_of(entries, **changes):
    head = json.loads(entries["document.json"].tobytes()) | changes
    entries["document.json"] = np.frombuffer(json.dumps(head).encode(), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["Py"].__setitem__(0, e["Py"][0] + 1e-12), "not those that were written"),
        (lambda e: e.update(theta=e["theta"].astype(np.float32)), "not those that were written"),
        (lambda e: e["variants.id"].__setitem__(2, ord("9")), "not those that were written"),
        (lambda e: head_of(e, phenotype="weight"), "not those that were written"),
        (lambda e: head_of(e, version=3), "a model file of version 3, and this program reads version 2"),
        (lambda e: head_of(e, format="other"), "not a saved model"),
        (lambda e: e.pop("Py"), "not those that were written"),
        (lambda e: e.pop("document.json"), "not a saved model"),
    ],
)
def test_a_file_that_was_changed_is_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(InputError, match=message):
        read_model(saved)


def test_a_file_that_is_no_model_is_refused(saved, tmp_path):
    with pytest.raises(InputError, match="model file not found"):
        read_model(tmp_path / "absent.npz")
    saved.write_bytes(saved.read_bytes()[:2000])
    with pytest.raises(InputError, match="not a saved model, or a damaged one"):
        read_model(saved)
    (tmp_path / "text.npz").write_text("FID IID\n")
    with pytest.raises(
        InputError, match=r"not a saved model, or a damaged one \(File is not a zip file\); give"
    ) as refused:
        read_model(tmp_path / "text.npz")
    assert "pickle" not in str(refused.value)
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(InputError, match="not a saved model"):
        read_model(tmp_path / "array.npy")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("a.npy", b"nothing")
    with pytest.raises(InputError, match="not a saved model"):
        read_model(tmp_path / "other.npz")


def test_a_failed_write_leaves_the_old_model(saved, monkeypatch):
    import os

    def fail(*_):
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_model(saved, make_model(seed=1))
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1


def test_a_model_whose_parts_do_not_fit_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match=re.escape(f"mean: expected ({M},)")):
        replace(model, mean=model.mean[:-1])
    with pytest.raises(ValueError, match="Py: has values that are not finite"):
        replace(model, Py=np.array([1.0, np.nan, 2.0]))
    with pytest.raises(ValueError, match="effects: has values that are not finite"):
        replace(model, effects=model.effects * np.inf)
    with pytest.raises(ValueError, match="its covariates make the columns intercept"):
        replace(model, fixed=replace(model.fixed, columns=(("height", None),)))
    with pytest.raises(ValueError, match=r"scales, residuals: expected 2 scales and a residual, found 1 and 2"):
        replace(model, scales=(None,))
    with pytest.raises(ValueError, match=re.escape("theta: expected (5,), found (4,)")):
        replace(model, residuals=("a", "b", "c"))
    with pytest.raises(ValueError, match="expected a kind of ancestry, environment, not place"):
        Scale("place", "north")
    with pytest.raises(ValueError, match="scale age: expected a finite centre and a positive SD"):
        Scale("environment", "age", 1.0, 0.0)
    broken = replace(model, variants=model.variants.assign(id=["a\nb", *model.variants["id"][1:]]))
    with pytest.raises(ValueError, match="an entry has a line break"):
        write_model("never.npz", broken)


def test_hashes_tell_arrays_apart():
    a = np.arange(6.0)
    assert digest(a) == digest(a.copy())
    assert len({digest(a), digest(a.reshape(2, 3)), digest(a.astype(np.float32)), digest(a, a)}) == 4


def signed(entries, **changes):
    """The entries with another document, whose checksum is right."""
    head = json.loads(entries["document.json"].tobytes())
    for key, value in changes.items():
        head.pop(key) if value is None else head.update({key: value})
    head.pop("sha256")
    arrays = {name: value for name, value in entries.items() if name != "document.json"}
    head["sha256"] = checksum_of(head, arrays)
    entries["document.json"] = np.frombuffer(json.dumps(head).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": None}, "lacks scales; save the model again"),
        ({"residuals": None, "about": None}, "lacks residuals, about; save the model again"),
        ({"scales": [None, {"kind": "environment", "name": "a", "weight": 2}]}, "does not hold a whole model"),
        ({"scales": [None, {"kind": "place", "name": "a"}]}, "expected a kind of ancestry, environment, not place"),
        ({"scales": [None, {"kind": "environment", "name": "a", "sd": "1"}]}, "does not hold a whole model"),
        ({"scales": [None, {"kind": "environment", "name": "a", "root": "no"}]}, "a root that is true or false"),
        ({"components": "ab"}, "its components cannot be 'ab'"),
        ({"components": ["a", "a"]}, r"its components cannot be .*'a', 'a'"),
        ({"num_variants": -1}, "its num_variants cannot be '-1'"),
        ({"num_variants": 1e9}, "its num_variants cannot be"),
        ({"num_samples": 31}, r"samples.fid has \d+ entries"),
        ({"fixed": []}, "its fixed cannot be"),
        ({"fixed": {"names": ["intercept"], "columns": [1], "references": {}}}, "its fixed cannot be"),
        ({"about": [1]}, "its about cannot be"),
        ({"about": {"mean_proportions": {"a": "x"}}}, "its about cannot be"),
        ({"phenotype": 3}, "its phenotype cannot be '3'"),
        ({"version": "1\n"}, r"a model file of version '1\\n'"),
    ],
)
def test_a_document_that_lacks_what_it_should_say_is_refused(saved, changes, message):
    rewrite(saved, lambda entries: signed(entries, **changes))
    with pytest.raises(InputError, match=message):
        read_model(saved)


def set_item(name, place, value):
    def change(entries):
        entries[name] = entries[name].copy()
        entries[name][place] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_item("effects.indices", 3, 2**30), "indices: expected 0 to 1, found 0 to 1073741824"),
        (set_item("effects.indices", 3, -1), "indices: expected 0 to 1, found -1 to 1"),
        (set_item("effects.indptr", 5, 2**40), "indptr: expected 41"),
        (set_item("effects.indptr", 5, 0), "indptr: expected 41"),
        (set_item("effects.indptr", -1, 0), "indptr: expected 41"),
        (lambda e: e.update({"effects.indptr": e["effects.indptr"][:-1]}), "indptr: expected 41"),
        (
            lambda e: e.update({"effects.indices": e["effects.indices"].astype(float)}),
            "effects.indices: expected int32",
        ),
        (lambda e: e.update({"effects.data": e["effects.data"].astype(complex)}), "effects.data: expected float64"),
        (lambda e: e.update({"theta": e["theta"].astype("U9")}), "theta: expected float64 of 1 dim.*found <U9"),
        (
            lambda e: e.update({"fixed.covariance": np.ones(25)}),
            r"fixed.covariance: .* 2 dimension\(s\), found float64",
        ),
        (lambda e: e.update({"variants.bp": e["variants.bp"][:-1]}), "does not hold a whole model"),
        (set_item("variants.id", 0, 255), "variants.id is not text"),
    ],
)
def test_a_model_whose_arrays_cannot_be_is_refused_though_its_checksum_is_right(saved, change, message):
    def rewritten(entries):
        change(entries)
        signed(entries)

    rewrite(saved, rewritten)
    with pytest.raises(InputError, match=message) as refused:
        read_model(saved)
    assert str(saved) in str(refused.value)


# what multiplies components


@pytest.fixture
def scale_tables(write):
    Q = pd.DataFrame({"north": [0.25, 1.0, 0.0], "south": [0.75, 0.0, 1.0]})
    who = pd.DataFrame({"fid": ["Fb", "Fa", "Fd"], "iid": ["b", "a", "d"]})
    ancestries = Covariates(path="a.Q", samples=who, has_fid=True, kind="quantitative", values=Q)
    gxe = read_covariates(write("e.txt", "FID IID age\nFa a 30\nFb b 40\nFc c 1\nFd d NA\n"))
    # another age, which comes second, and letters that are no environment
    q = read_covariates(write("q.txt", "FID IID dose age\nFa a 1 99\nFb b -2 99\nFd d 0 99\n"))
    c = read_covariates(write("c.txt", "FID IID dose\nFa a 5\nFb b 6\n"), "categorical")
    return ancestries, (gxe, c, q)


def test_scales_of_new_samples_are_those_of_the_fit(scale_tables, ids):
    north, south = (Scale("ancestry", name, root=True) for name in ("north", "south"))
    age, dose = Scale("environment", "age", 35.0, 2.0), Scale("environment", "dose")
    found = scale_columns((north, south, None, age, dose, north), *scale_tables, ids("b", "a"))
    expected = [[0.5, np.sqrt(0.75), 1, 2.5, -2, 0.5], [1, 0, 1, -2.5, 1, 1]]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scale_columns((None, None), None, (), ids("a", "x")), np.ones((2, 2)))
    assert (north.formula, dose.formula) == ("sqrt(ancestry north)", "environment dose")
    assert age.formula == "(environment age - 35.0) / 2.0"


def test_samples_without_a_number_that_scales_are_told_apart(scale_tables, ids):
    ancestries, tables = scale_tables
    north, age, dose = (
        Scale("ancestry", "north", root=True),
        Scale("environment", "age", 35.0, 2.0),
        Scale("environment", "dose"),
    )
    reasons = complete_scales((None, north, age, dose), ancestries, tables, ids("a", "c", "d", "x"))
    assert {text: mask.tolist() for text, mask in reasons.items() if mask.any()} == {
        "no ancestries in a.Q": [False, True, False, True],
        f"no environments in {tables[0].path}": [False, False, False, True],
        "missing environment age": [False, False, True, False],
        f"no environments in {tables[2].path}": [False, True, False, True],
    }
    assert complete_scales((None,), None, (), ids("a")) == {}
    with pytest.raises(InputError, match=r"`ancestries`: .* scaled by ancestry north, and no file was given"):
        complete_scales((north,), None, tables, ids("a"))
    with pytest.raises(InputError, match=r"`environments`: .* environment heat, and there are age, dose, age; name"):
        scale_columns((Scale("environment", "heat"),), ancestries, tables, ids("a"))


# covariates


@pytest.fixture
def tables(write):
    quantitative = write("q.txt", "FID IID age dose\nFa a 30 1\nFb b 40 2\nFc c NA 1\nFd d 25 0\nFe e 51 1\n")
    categorical = write("c.txt", "FID IID site sex\nFa a z 1\nFb b é 2\nFc c z 1\nFd d é 2\n")
    return read_covariates(quantitative), read_covariates(categorical, "categorical")


def test_columns_of_new_samples_are_those_of_the_fit(tables, ids):
    quantitative, categorical = tables
    who = ids("a", "b", "d", "e")
    design = design_matrix(quantitative, None, who)
    terms = fixed_terms(design, np.zeros(3), np.eye(3))
    assert terms.quantitative == ("age", "dose") and not terms.levels
    np.testing.assert_array_equal(fixed_columns(terms, tables, who), design.X)
    both = make_model().fixed
    expected = [[1, 25, 1, 1, 0], [1, 30, 0, 0, 1], [1, 40, 1, 1, 0]]  # site a b is the reference
    np.testing.assert_array_equal(fixed_columns(both, tables[::-1], ids("d", "a", "b")), expected)
    reasons = complete_samples(both, tables, ids("a", "c", "x"))
    assert {text: mask.tolist() for text, mask in reasons.items() if mask.any()} == {
        f"no covariates in {quantitative.path}": [False, False, True],
        "missing covariate age": [False, True, False],
        f"no covariates in {categorical.path}": [False, False, True],
    }


def test_quantitative_columns_may_follow_levels(write, ids):
    """As environments do."""
    people = [("a", 1.5, "u"), ("b", 3.0, "v"), ("c", 1.0, "u"), ("d", 2.0, "v"), ("e", 0.5, "v")]
    q = read_covariates(write("q.txt", "FID IID warmth\n" + "".join(f"F{i} {i} {x}\n" for i, x, _ in people)))
    c = read_covariates(
        write("c.txt", "FID IID sex\n" + "".join(f"F{i} {i} {s}\n" for i, _, s in people)), "categorical"
    )
    who = ids(*"abcde")
    design = design_matrix(None, c, who, q)
    assert design.names == ("intercept", "sex[v]", "warmth")
    terms = fixed_terms(design, np.zeros(3), np.eye(3))
    np.testing.assert_array_equal(fixed_columns(terms, [q, c], who), design.X)


def test_a_categorical_design_is_taken_apart_and_put_together(write, ids):
    text = "".join(
        f"F{name} {name} {sex} {site}\n" for name, sex, site in zip("abcdef", "121212", "xxyyzz", strict=True)
    )
    table = read_covariates(write("c.txt", "FID IID sex site\n" + text), "categorical")
    who = ids(*"abcdef")
    design = design_matrix(None, table, who)
    terms = fixed_terms(design, np.zeros(4), np.eye(4))
    assert terms.levels == {"sex": ("1", "2"), "site": ("x", "y", "z")}
    np.testing.assert_array_equal(fixed_columns(terms, [table], who), design.X)


def test_a_name_that_could_be_a_level_is_refused(write, ids):
    people = [("a", 1.5, "u"), ("b", 3.0, "v"), ("c", 1.0, "u"), ("d", 2.0, "v"), ("e", 0.5, "v")]
    q = write("q.txt", "FID IID sex[9]\n" + "".join(f"F{i} {i} {x}\n" for i, x, _ in people))
    c = write("c.txt", "FID IID sex\n" + "".join(f"F{i} {i} {level}\n" for i, _, level in people))
    design = design_matrix(read_covariates(q), read_covariates(c, "categorical"), ids(*"abcde"))
    assert design.names == ("intercept", "sex[9]", "sex[v]")
    with pytest.raises(InputError, match=r"covariate sex\[9\]: reads like a level of sex; rename it"):
        fixed_terms(design, np.zeros(3), np.eye(3))


def test_what_a_model_lacks_of_covariates_is_named(tables, ids, write):
    fixed = make_model().fixed
    with pytest.raises(
        InputError, match=r"`quantitative`: the model has the quantitative covariate age, and no file was given"
    ):
        fixed_columns(fixed, tables[1:], ids("a"))
    other = read_covariates(write("other.txt", "FID IID weight\nFa a 3\n"))
    with pytest.raises(InputError, match=r"covariate age, and the file has weight"):
        complete_samples(fixed, [other], ids("a"))
    strange = read_covariates(write("s.txt", "FID IID site sex\nFa a z 1\nFb b Q 1\n"), "categorical")
    with pytest.raises(
        InputError, match=r"covariate site has level Q for FID Fb IID b; the model has levels a b, é, z"
    ):
        fixed_columns(fixed, [tables[0], strange], ids("a", "b"))


# genetic values


def dense_values(model, counts, picked=None):
    """sum_j (count - mean) effect in float64, a missing count the mean; variants that are not there left out."""
    columns = np.arange(counts.shape[1]) if picked is None else picked
    centred = np.where(counts == MISSING, 0.0, counts - model.mean[columns])
    return centred @ model.effects.toarray()[columns]


@pytest.mark.parametrize("G", [1, 3])
@pytest.mark.parametrize("batch_bytes", [1 << 28, 64])
def test_genetic_values_are_the_dense_sums(make_fileset, random_counts, G, batch_bytes):
    model, counts = make_model(G), random_counts(N, M)
    bed = read_bed(make_fileset(counts))
    matching = harmonise(model.variants, bed.variants)
    rows = [np.array([5, 2, 29, 11])]
    expected = dense_values(model, counts[rows[0]])
    for dtype, tol in ((np.float64, 1e-12), (np.float32, 1e-5)):
        found = genetic_scores(model, [bed], rows, matching, dtype=dtype, batch_bytes=batch_bytes).values
        np.testing.assert_allclose(found, expected, rtol=0, atol=tol * np.abs(expected).max())


def test_pieces_of_a_genome_with_swapped_alleles_and_absent_variants(make_fileset, random_counts, tmp_path):
    model, counts = make_model(2), random_counts(N, M)
    present = np.random.default_rng(1).permutation(M)[:31]
    swapped = np.arange(31) % 3 == 0
    written = counts[:, present].copy()
    written[:, swapped] = np.where(written[:, swapped] == MISSING, MISSING, 2 - written[:, swapped])
    beds = []
    for k, part in enumerate((slice(0, 12), slice(12, 31))):
        prefix = make_fileset(written[:, part], name=f"piece{k}")
        lines = [
            f"{1 + j % 22} rs{j} 0 {100 * j} {'C A' if swap else 'A C'}"
            for j, swap in zip(present[part], swapped[part], strict=True)
        ]
        (tmp_path / f"piece{k}.bim").write_text("\n".join(lines) + "\n")
        beds.append(read_bed(prefix))
    table = pd.concat([bed.variants for bed in beds], ignore_index=True)
    matching = harmonise(model.variants, table)
    assert matching.num_matched == 31
    found = genetic_scores(model, beds, [np.arange(N)] * 2, matching, dtype=np.float64).values
    np.testing.assert_allclose(found, dense_values(model, counts[:, present], present), rtol=0, atol=1e-12)


def test_dosages_are_scored_as_they_are(make_pgen, random_dosages):
    from gpu_reml.io import read_pgen

    model, dosages = make_model(2), random_dosages(N, M)
    pgen = read_pgen(make_pgen(dosages))
    chrom = pgen.variants["chrom"]
    model = replace(model, variants=model.variants.assign(chrom=chrom))
    matching = harmonise(model.variants, pgen.variants)
    assert matching.num_matched == M and not matching.swapped.any()
    found = genetic_scores(model, [pgen], [np.arange(N)], matching, dosage=True, dtype=np.float64).values
    expected = np.where(np.isnan(dosages), 0.0, dosages - model.mean) @ model.effects.toarray()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("G", [1, 3])
def test_a_device_gives_the_sums_of_the_cpu(random_counts, G):
    model, counts = make_model(G), random_counts(N, M)
    genotypes = replace(standardise([pack(counts)], N), mean=model.mean, inv_sd=np.ones(M))
    found = _values(make_device_products(genotypes, [HostDevice()]), model.effects)
    np.testing.assert_allclose(found, dense_values(model, counts), rtol=0, atol=2e-5)


def test_memory_is_that_of_a_batch(make_fileset, random_counts, monkeypatch):
    from gpu_reml.io import scoring

    model, counts = make_model(2), random_counts(N, M)
    bed = read_bed(make_fileset(counts))
    loaded = []
    real = scoring.load_genotypes

    def load(*arguments):
        found = real(*arguments)
        loaded.append(found.num_bytes)
        return found

    monkeypatch.setattr(scoring, "load_genotypes", load)
    genetic_scores(model, [bed], [np.arange(N)], harmonise(model.variants, bed.variants), batch_bytes=80)
    assert max(loaded) <= 80 and len(loaded) == 4
