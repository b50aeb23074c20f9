import numpy as np
import pytest

from gpu_reml.reml import BreakdownError, pcg


def spd(n, rng, spread=3):
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return (Q * np.logspace(0, spread, n)) @ Q.T


def test_solves_equal_direct_solves_and_inputs_are_unmodified():
    rng = np.random.default_rng(0)
    V, B = spd(80, rng), rng.standard_normal((80, 6))
    before = B.copy()
    found = pcg(lambda P: V @ P, B, tol=1e-11)
    np.testing.assert_allclose(found.X, np.linalg.solve(V, B), atol=1e-9)
    np.testing.assert_array_equal(B, before)
    assert found.converged.all() and (found.residuals <= 2e-11).all()


def test_converged_columns_leave_the_block():
    rng = np.random.default_rng(1)
    V, B = spd(60, rng), rng.standard_normal((60, 3))
    widths = []

    def apply_v(P):
        widths.append(P.shape[1])
        return V @ P

    found = pcg(apply_v, B, tol=np.array([1e-1, 1e-4, 1e-10]), check=False)
    assert sum(widths) == found.iterations.sum()
    assert found.iterations[0] < found.iterations[1] < found.iterations[2]
    assert widths[-1] == 1


def test_a_start_at_the_solution_costs_one_product():
    rng = np.random.default_rng(2)
    V, B = spd(40, rng, 1), rng.standard_normal((40, 2))
    calls = []
    found = pcg(lambda P: calls.append(1) or V @ P, B, X0=np.linalg.solve(V, B), tol=1e-8)
    assert len(calls) == 1 and (found.iterations == 0).all() and found.converged.all()


def test_the_exact_inverse_as_preconditioner_needs_one_iteration():
    rng = np.random.default_rng(3)
    V, B = spd(40, rng), rng.standard_normal((40, 2))
    found = pcg(lambda P: V @ P, B, preconditioner=lambda R: np.linalg.solve(V, R), tol=1e-8)
    assert (found.iterations == 1).all()


def test_an_indefinite_operator_is_detected():
    with pytest.raises(BreakdownError, match="not positive definite"):
        pcg(lambda P: np.array([[1.0], [-2.0]]) * P, np.ones((2, 1)))


def test_the_reported_residual_is_the_true_one():
    rng = np.random.default_rng(4)
    V, B = spd(50, rng, 5).astype(np.float32), rng.standard_normal((50, 2)).astype(np.float32)
    found = pcg(lambda P: V @ P, B, tol=1e-9, max_iterations=500)
    true = np.linalg.norm(B - V @ found.X, axis=0) / np.linalg.norm(B, axis=0)
    np.testing.assert_allclose(found.residuals, true, rtol=1e-3)
    assert (true > 1e-9).any()  # single precision cannot reach it, and the result says so


def test_an_unfinished_solve_says_so():
    rng = np.random.default_rng(5)
    V, B = spd(80, rng), rng.standard_normal((80, 2))
    found = pcg(lambda P: V @ P, B, tol=1e-12, max_iterations=3)
    assert not found.converged.any() and (found.residuals > 1e-12).all()


def test_a_zero_column_is_solved_by_zero():
    found = pcg(lambda P: 2 * P, np.zeros((5, 1)))
    assert (found.X == 0).all() and found.converged.all() and found.residuals[0] == 0


def test_a_column_has_converged_where_its_true_residual_says_so():
    rng = np.random.default_rng(4)
    V, B = spd(50, rng, 5).astype(np.float32), rng.standard_normal((50, 2)).astype(np.float32)
    drifted = pcg(lambda P: V @ P, B, tol=1e-9, max_iterations=5000)
    assert (drifted.iterations < 5000).all() and (drifted.residuals > 1e-7).all()  # the recurrence says 1e-9
    assert not drifted.converged.any()
    assert pcg(lambda P: V @ P, B, tol=1e-9, max_iterations=5000, check=False).converged.all()
    assert pcg(lambda P: V @ P, B, tol=1e-2, max_iterations=5000).converged.all()


def test_a_right_hand_side_of_one_dimension_has_an_answer_of_one():
    rng = np.random.default_rng(6)
    V, b = spd(40, rng), rng.standard_normal(40)
    found, block = pcg(V, b, tol=1e-10, X0=b), pcg(V, b[:, None], tol=1e-10, X0=b[:, None])
    assert found.X.shape == found.R.shape == (40,) and np.ndim(found.residuals) == 0
    np.testing.assert_array_equal(found.X, block.X[:, 0])
    assert (found.converged, found.iterations) == (True, block.iterations[0])
    np.testing.assert_allclose(pcg(V, b.tolist(), tol=1e-10).X, np.linalg.solve(V, b), rtol=1e-6)


def test_a_product_that_is_not_finite_never_passes_for_a_solution():
    start = np.ones((5, 1))
    with pytest.raises(BreakdownError, match=r"b - V x is not finite in column 0"):
        pcg(lambda P: P * np.nan, np.ones((5, 1)), X0=start)
    answers = iter([1.0, np.nan])
    with pytest.raises(BreakdownError, match=r"b - V x is not finite in column 0"):
        pcg(lambda P: P * next(answers), np.ones((5, 1)))


def test_one_bad_column_among_good_ones_is_an_error():
    axes = np.eye(3)[:, [0, 2]]
    with pytest.raises(BreakdownError, match=r"p'Vp = -1 in column 1"):
        pcg(lambda P: np.array([[1.0], [1.0], [-1.0]]) * P, axes)
    with pytest.raises(BreakdownError, match=r"b - V x is not finite in column 1"):
        pcg(lambda P: P * np.array([1.0, np.nan]), axes, X0=2 * axes)


def test_a_preconditioner_that_is_not_finite_later_is_an_error():
    rng = np.random.default_rng(7)
    V, B = spd(40, rng), rng.standard_normal((40, 2))
    answers = iter([1.0, 1.0, np.nan])
    with pytest.raises(BreakdownError, match="the preconditioner is not positive definite, or not finite"):
        pcg(V, B, preconditioner=lambda R: R * next(answers), tol=1e-10)


def test_residuals_are_multiplied_out_where_a_column_was_solved_before_the_first_step():
    rng = np.random.default_rng(8)
    V, B = spd(40, rng), np.column_stack([np.zeros(40), rng.standard_normal(40)])
    calls = []
    found = pcg(lambda P: calls.append(P.shape[1]) or V @ P, B, tol=1e-8)
    assert found.iterations[0] == 0 and calls == [1] * found.iterations[1] + [2]
    np.testing.assert_allclose(found.R, B - V @ found.X, atol=1e-12)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_a_start_at_the_solution_of_numbers_whose_squares_floats_lack_is_one_too(unit):
    rng = np.random.default_rng(9)
    V, B = spd(40, rng, 1), np.column_stack([rng.standard_normal(40), unit * rng.standard_normal(40)])
    found = pcg(V, B, X0=np.linalg.solve(V, B), tol=1e-8)
    assert (found.iterations == 0).all() and found.converged.all()
    solved = pcg(V, B, tol=1e-10)
    np.testing.assert_allclose(solved.X / [1, unit], np.linalg.solve(V, B / [1, unit]), rtol=1e-6)


def test_the_default_is_a_tolerance_of_1e_4_and_400_iterations():
    rng = np.random.default_rng(10)
    V, B = spd(300, rng, 4), rng.standard_normal((300, 2))
    found, asked = pcg(V, B), pcg(V, B, tol=1e-4, max_iterations=1000)
    np.testing.assert_array_equal(found.X, asked.X)
    assert (pcg(V, B, tol=1e-16, check=False).iterations == 400).all()
    assert (pcg(V, B, tol=2e-4).iterations < found.iterations).all()
    assert (pcg(V, B, tol=5e-5).iterations > found.iterations).all()


@pytest.mark.parametrize(("error", "met"), [(0.0, True), (1.7e-6, True), (3e-6, False)])
def test_rounding_of_up_to_a_tolerance_more_leaves_a_column_converged(error, met):
    b = np.array([[3.0], [4.0]])
    answers = iter([0.0, 5 * error])  # of the step's product, and of the one that checks it
    found = pcg(lambda P: P + next(answers) * np.array([[1.0], [0.0]]), b, tol=1e-6)
    assert bool(found.converged[0]) == met and found.residuals[0] == pytest.approx(error)


def test_columns_with_a_covariance_each_are_solved_by_their_own():
    rng = np.random.default_rng(11)
    Vs, B = [spd(30, rng), spd(30, rng)], rng.standard_normal((30, 2))

    def apply_v(P, which):
        return np.column_stack([Vs[k] @ p for k, p in zip(which, P.T, strict=True)])

    found = pcg(apply_v, B, tol=np.array([1e-3, 1e-11]), by_column=True)
    assert found.iterations[0] < found.iterations[1]
    np.testing.assert_allclose(found.X[:, 1], np.linalg.solve(Vs[1], B[:, 1]), atol=1e-8)
    assert np.linalg.norm(B[:, 0] - Vs[0] @ found.X[:, 0]) <= 2e-3 * np.linalg.norm(B[:, 0])


@pytest.mark.parametrize("unit", [2.0**-664, 2.0**-10, 2.0**664])
def test_residuals_of_any_size_are_those_of_unit_size_times_that(unit):
    rng = np.random.default_rng(12)
    V, B = spd(40, rng), rng.standard_normal((40, 2))
    found, scaled = pcg(V, B, tol=1e-3), pcg(V, unit * B, tol=1e-3)
    np.testing.assert_allclose(scaled.R / unit, found.R, rtol=1e-6)
    np.testing.assert_allclose(scaled.residuals, found.residuals, rtol=1e-6)


@pytest.mark.parametrize("inverse", [-1.0, 0.0])
def test_a_preconditioner_that_is_not_positive_definite_is_an_error_before_any_step(inverse):
    with pytest.raises(BreakdownError, match="the preconditioner is not positive definite"):
        pcg(np.eye(3), np.ones((3, 2)), preconditioner=lambda R: inverse * R)


def test_one_column_whose_form_rounding_leaves_negative_is_solved_all_the_same():
    V, B = np.diag([1.0, 2.0, 4.0]), np.eye(3)[:, 1:]
    found = pcg(V, B, preconditioner=lambda R: np.array([[1.0], [1.0], [-1e-9]]) * R, tol=1e-10)
    np.testing.assert_allclose(found.X, np.linalg.solve(V, B), rtol=1e-9)


def test_a_preconditioner_that_is_not_finite_for_one_column_is_an_error():
    with pytest.raises(BreakdownError, match="the preconditioner is not positive definite, or not finite"):
        pcg(np.eye(3), np.eye(3)[:, :2], preconditioner=lambda R: R * np.array([1.0, np.nan]))


def test_a_direction_without_any_variance_is_detected():
    with pytest.raises(BreakdownError, match=r"p'Vp = 0 in column 0: the covariance is not positive definite"):
        pcg(np.diag([1.0, 0.0]), np.array([[0.0], [1.0]]))


def test_a_list_is_one_right_hand_side_and_a_list_of_rows_a_block():
    assert pcg(2 * np.eye(1), [3.0]).X.tolist() == [1.5]
    assert pcg(2 * np.eye(2), [[2.0, 0.0], [0.0, 4.0]]).X.tolist() == [[1, 0], [0, 2]]
    with pytest.raises(ValueError, match=r"B: expected"):
        pcg(np.eye(1), [])
