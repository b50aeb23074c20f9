"""The study of scans: a null and a planted window on a small cohort, and its tables."""

import numpy as np

from gpu_reml.validation.scan_study import Planted, by_saturation, null_p, planted, planted_table, sizes_of_tests

SHAPE = (150, 600, 8)


def test_a_null_phenotype_has_a_p_for_every_set_and_a_planted_window_is_found():
    p = null_p(SHAPE, 64, seed=1)
    assert p.shape == (8,) and (p > 1e-4).all() and (p <= 1).all()
    found = planted(SHAPE, 64, ("window", 0.3), seed=2)
    assert found.log10p > 2 and found.lrt_p < 0.01
    assert abs(found.full - 0.3) < 4 * found.full_se
    assert abs(found.top_lrt / found.lrt - 1) < 0.6


def test_tables_have_sizes_over_levels_and_the_slope_through_zero():
    p = np.linspace(0, 1, 1001)[1:].reshape(10, 100)
    table = sizes_of_tests(p, np.repeat([10, 20], 50)).set_index("variants")
    assert abs(table.loc["all", "lambda"] - 1) < 0.01 and abs(table.loc["all", "at 0.1"] - 1) < 0.01
    rows = [Planted("window", 0.1, 2 * x, 0.1, 4.0, x, 0.1, 9.0, 0.01, x, 3 * x, 6.0) for x in (0.1, 0.2)]
    row = planted_table(rows).iloc[0]
    assert np.isclose(row["slope"], 2) and row["power of p"] == 1 and row["power of lrt"] == 0
    assert np.isclose(row["slope of top"], 3) and np.isclose(row["slope of lrt"], 6 / 9)
    unfollowed = (np.nan, np.nan)
    sizes = by_saturation([*rows, Planted("window", 0.1, 0.05, 0.1, 1.0, 0.04, 0.1, 1.0, 0.2, 2.0, *unfollowed)])
    assert sizes["saturation"].tolist() == ["(0.0, 0.1]", "(0.1, 0.3]", "(1.0, 3.0]"]
    np.testing.assert_allclose(sizes["slope"], [2, 2, 1.25])
