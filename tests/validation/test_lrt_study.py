"""The study of likelihood-ratio tests: a replicate is tested both ways, and sizes are counted."""

import pandas as pd

from gpu_reml.validation.lrt_study import NULLS, Replicate, errors, replicate, sizes


def test_a_replicate_has_the_dense_ratio_and_one_of_random_probes_beside_it():
    rows = [replicate("others positive", True, seed) for seed in range(2)]
    for row in rows:
        assert abs(row.found - row.statistic) <= 4 * row.found_mc_se + 1e-3
        assert row.p <= row.p_half or row.p == row.p_half == 1
    assert "ratios: root mean square" in errors(pd.DataFrame(rows))


def test_sizes_are_shares_of_small_p_values():
    null = next(iter(NULLS))
    rows = [Replicate(null, 1.0, p, p, float("nan"), float("nan"), float("nan")) for p in (0.04, 0.2, 0.5, 1.0)]
    table = sizes(pd.DataFrame(rows)).set_index("p")
    assert table.loc["p", "size at 0.05"] == 0.25 and table.loc["p", "size at 0.25"] == 0.5
    assert "found_p" not in table.index
