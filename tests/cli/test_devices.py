"""The command with a device: its plan, its budget, its memory; on a device made of NumPy."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from gpu_reml import ops
from gpu_reml.cli.flags.compute import Compute
from gpu_reml.cli.flags.estimation import Estimation
from gpu_reml.cli.main import main
from gpu_reml.cli.plan import Sizes, device_plan, host_plan
from gpu_reml.ops.cuda import driver
from gpu_reml.ops.device import plan as plan_module
from gpu_reml.ops.device.interface import DeviceLostError
from gpu_reml.ops.device.plan import BudgetError
from gpu_reml.ops.device.products import make_device_products
from gpu_reml.validation import SPARSE, HostDevice, dense, simulate_cohort, write_plink

N, M = 300, 3000


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    people = simulate_cohort(N, M, 5, haplotypes=SPARSE)
    write_plink(people, folder / "data")
    rng = np.random.default_rng(2)
    Z = dense.standardised(people.counts)
    y = 4 * (Z @ rng.standard_normal(M) / np.sqrt(M)) + 4 * rng.standard_normal(N)
    ids = people.samples[["fid", "iid"]].set_axis(["FID", "IID"], axis=1)
    ids.assign(height=y).to_csv(folder / "pheno.txt", sep="\t", index=False)
    spec = [{"name": str(g), "variant_indices": list(range(M * g // 3, M * (g + 1) // 3))} for g in range(3)]
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Genotypes are moved in pieces that suit a cohort of 400 KB."""
    monkeypatch.setattr(plan_module, "LEAST_PIECE", 1 << 14)


@pytest.fixture
def devices(monkeypatch):
    """Devices made of NumPy stand in for CUDA ones; those of the last run."""
    made = []

    def make(genotypes, device, dtype, *, residency=None, limit=None, num_devices=1, cuts=None):
        if device == "cpu":
            return ops.CpuProducts(genotypes, dtype)
        made[:] = [HostDevice(limit=limit, label=f"device {d}") for d in range(num_devices)]
        return make_device_products(genotypes, made, residency, cuts)

    monkeypatch.setattr(ops, "make_products", make)
    monkeypatch.setattr(ops, "resolve_backend", lambda device: "cpu" if device == "cpu" else "cuda")
    return made


def run(folder, *arguments, out="out"):
    paths = ["--bfile", folder / "data", "--pheno", folder / "pheno.txt", "--out", folder / out]
    return main([str(a) for a in [*paths, "--method", "stochastic", *arguments]])


def record(folder, out="out"):
    return json.loads((folder / f"{out}.json").read_text())


@pytest.mark.parametrize("components", [[], ["--component-spec"]])
@pytest.mark.parametrize("more", [[], ["--num-gpus", "2"], ["--ring-depth", "2"]])
def test_estimates_on_a_device_are_those_on_the_cpu(cohort, devices, components, more, capsys):
    chosen = [*components, cohort / "spec.json"] if components else []
    assert run(cohort, *chosen, "--device", "cpu", out="cpu") == 0
    budget = 0.0012 if not components else 0.012  # with less, a basis that starts again ends 0.01 se from there
    assert run(cohort, *chosen, "--device", "cuda", "--gpu-budget-gib", budget, *more, out="gpu") == 0
    found, expected = record(cohort, "gpu"), record(cohort, "cpu")
    for one, other in zip(found["components"], expected["components"], strict=True):
        assert abs(one["variance"] - other["variance"]) <= 1e-3 * other["se"]
    assert found["backend"] == "cuda" and expected["device_memory"] is None
    memory = found["device_memory"]
    assert len(memory["peak"]) == len(devices)
    assert max(memory["peak"].values()) <= memory["planned"] <= budget * 2**30
    assert re.search(r"device 0: at most [\d.]+ MiB held, [\d.]+ planned", capsys.readouterr().out)


def test_scaled_samples_and_several_residuals_stay_within_their_plan(cohort, devices):
    rng = np.random.default_rng(3)
    table = pd.read_csv(cohort / "pheno.txt", sep="\t", dtype=str)[["FID", "IID"]]
    table.assign(age=rng.normal(50, 9, N), dose=rng.random(N)).to_csv(cohort / "env.txt", sep="\t", index=False)
    table.assign(site=rng.choice(["a", "b"], N)).to_csv(cohort / "site.txt", sep="\t", index=False)
    flags = ["--gxe", cohort / "env.txt", "--gxe-noise", "--residual-groups", cohort / "site.txt"]
    assert run(cohort, *flags, "--device", "cpu", out="cpu") == 0
    assert run(cohort, *flags, "--device", "cuda", "--gpu-budget-gib", "0.02", out="gpu") == 0
    found, expected = record(cohort, "gpu"), record(cohort, "cpu")
    for part in ("components", "residuals"):
        for one, other in zip(found[part], expected[part], strict=True):
            assert abs(one["variance"] - other["variance"]) <= 1e-3 * other["se"]
    memory = found["device_memory"]
    assert max(memory["peak"].values()) <= memory["planned"] <= 0.02 * 2**30


@pytest.mark.parametrize("groups", ["one.npy,two.npy,three.npy", "one.npy;two.npy,three.npy"])
def test_blocks_of_weights_stay_within_their_plan(cohort, devices, groups, monkeypatch):
    rng = np.random.default_rng(4)
    for name, size in (("one", 1000), ("two", 1500), ("three", 500)):
        root = rng.standard_normal((size, 100))
        np.save(cohort / f"{name}.npy", root @ root.T / 100)
    monkeypatch.chdir(cohort)
    assert run(cohort, "--grm-groups", groups, "--device", "cpu", out="cpu") == 0
    assert run(cohort, "--grm-groups", groups, "--device", "cuda", "--gpu-budget-gib", "0.1", out="gpu") == 0
    found, expected = record(cohort, "gpu"), record(cohort, "cpu")
    for one, other in zip(found["components"], expected["components"], strict=True):
        assert abs(one["variance"] - other["variance"]) <= 1e-3 * other["se"]
    memory = found["device_memory"]
    assert max(memory["peak"].values()) <= memory["planned"] <= 0.1 * 2**30


def plan(capsys, folder, *arguments):
    code = run(folder, "--device", "cuda", "--plan", *arguments)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def planned_mib(text):
    return float(re.search(r"device memory at most ([\d.,]+) MiB", text)[1].replace(",", ""))


def test_the_plan_is_printed_without_a_device_and_without_loading_the_cohort(cohort, capsys, monkeypatch):
    monkeypatch.setattr("gpu_reml.cli.inputs.load", lambda *_: pytest.fail("all genotypes were read"))
    code, text = plan(capsys, cohort, "--gpu-budget-gib", "1")
    assert code == 0
    assert "resident" in text and planned_mib(text) < 1024
    assert re.search(r"phase Lanczos steps +[\d.]+ MiB", text)
    assert not (cohort / "out.json").exists()


def plans(sizes, budgets, first_probes=32):
    """(kind, vectors of the basis, columns) of the plans of a cohort for falling budgets, each once."""
    found = []
    for budget in budgets:
        try:
            made = device_plan(sizes, Estimation(first_probes=first_probes), Compute(gpu_budget_gib=budget))
        except BudgetError:
            found.append(("refused", 0, None))
            continue
        assert made.peak <= budget * 2**30
        found.append(("streamed" if made.ring else "resident", made.basis, made.columns))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("num_components", [1, 22])
def test_the_host_keeps_a_copy_of_what_a_checkpoint_takes_from_a_device(num_components):
    sizes = Sizes(100_000, (500_000,), num_components, 1, 10, 500_000)
    made = device_plan(sizes, Estimation(), Compute(gpu_budget_gib=80))
    mib = host_plan(sizes, "stochastic", Estimation(), "float32", made)["checkpoint"]
    assert mib == 4 * 100_000 * (made.basis or 2 * (32 + 1 + 10)) / 2**20 and (made.basis > 0) == (num_components > 1)


def test_a_smaller_budget_streams_then_has_a_smaller_basis_then_narrows_and_then_refuses():
    budgets = np.geomspace(80, 0.1, 60)
    found = plans(Sizes(100_000, (500_000,), 22, 1, 10, 500_000), budgets)
    assert found[:2] == [("resident", 1024, None), ("streamed", 1024, None)] and found[-1][0] == "refused"
    bases = [basis for kind, basis, _ in found if kind == "streamed"]
    assert bases == sorted(bases, reverse=True) and bases[-1] == 6 * 33 and len(set(bases)) == 7
    wide = plans(Sizes(100_000, (20_000,), 3, 1, 10, 20_000), budgets, first_probes=200)
    narrowed = [columns for kind, basis, columns in wide if columns is not None]
    assert narrowed == sorted(narrowed, reverse=True) and narrowed and wide[-1][0] == "refused"
    assert all(basis == 6 * 201 for kind, basis, columns in wide if columns is not None)


def test_a_budget_that_nothing_fits_names_the_smallest_that_would(cohort, capsys):
    code, text = plan(capsys, cohort, "--gpu-budget-gib", "0.0001")
    assert code == 2
    needed = re.search(r"the smallest that can is --gpu-budget-gib ([\d.]+)", text)[1]
    assert plan(capsys, cohort, "--gpu-budget-gib", needed)[0] == 0


def test_the_smallest_budget_that_is_named_is_enough_for_the_fit(cohort, devices, capsys):
    text = plan(capsys, cohort, "--gpu-budget-gib", "0.0001")[1]
    needed = re.search(r"the smallest that can is --gpu-budget-gib ([\d.]+)", text)[1]
    assert run(cohort, "--device", "cuda", "--gpu-budget-gib", needed, out="least") == 0
    assert run(cohort, "--device", "cpu", out="cpu") == 0
    found, expected = record(cohort, "least"), record(cohort, "cpu")
    assert abs(found["h2"]["estimate"] - expected["h2"]["estimate"]) <= 1e-3 * expected["h2"]["se"]


@pytest.mark.parametrize("components", [1, 3])
def test_probes_that_would_not_fit_the_budget_are_not_taken(cohort, devices, capsys, components):
    chosen = ["--component-spec", cohort / "spec.json"] if components > 1 else []
    flags = ["--device", "cuda", "--gpu-budget-gib", "0.008" if chosen else "0.0012", "--mc-target", "0.001"]
    assert run(cohort, *chosen, *flags, "--max-probes", "600", out="few") == 0
    found, printed = record(cohort, "few"), capsys.readouterr().out
    assert max(found["device_memory"]["peak"].values()) <= float(flags[3]) * 2**30
    if chosen:
        assert 32 < found["num_probes"] < 600
        assert f"(more than {found['num_probes']} would not fit the device's budget)" in printed
    else:
        assert found["num_probes"] == 600


def test_a_lost_device_ends_in_one_line_and_the_run_resumes_from_the_last_checkpoint(
    cohort, devices, capsys, monkeypatch
):
    flags = ["--component-spec", cohort / "spec.json", "--device", "cuda", "--gpu-budget-gib", "1"]
    assert run(cohort, *flags, out="whole") == 0
    calls, zt = [], HostDevice.zt

    def failing(self, *arguments):
        calls.append(None)
        if len(calls) > 15:
            raise DeviceLostError("device 0 stopped answering; a fit goes on from what its hook saved")
        return zt(self, *arguments)

    monkeypatch.setattr(HostDevice, "zt", failing)
    assert run(cohort, *flags, "--checkpoint-seconds", "0", out="lost") == 4
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("gpu-reml: device: device 0 stopped answering") and "--resume" in error
    assert (cohort / "lost.height.checkpoint.npz").exists() and not (cohort / "lost.json").exists()
    monkeypatch.setattr(HostDevice, "zt", zt)
    assert run(cohort, *flags, "--resume", out="lost") == 0
    assert record(cohort, "lost")["components"] == record(cohort, "whole")["components"]


def test_a_device_without_memory_ends_in_one_line(cohort, devices, capsys, monkeypatch):
    monkeypatch.setattr(HostDevice, "__init__", full(HostDevice.__init__))
    assert run(cohort, "--device", "cuda", "--gpu-budget-gib", "1") == 4
    assert re.search(r"gpu-reml: device: .*out of memory", capsys.readouterr().err)


def full(original):
    def init(self, **options):
        original(self, memory=1000, **options)

    return init


def test_devices_are_listed_or_what_is_missing_is_said(capsys, monkeypatch):
    found = [driver.DeviceInfo(0, "A GPU", (9, 0), 80 * 2**30, 79 * 2**30)]
    monkeypatch.setattr(driver, "list_devices", lambda: found)
    with pytest.raises(SystemExit) as stopped:
        main(["--devices"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == "0  A GPU  compute capability 9.0  79.0 of 80.0 GiB free\n"
    monkeypatch.undo()
    monkeypatch.setattr(driver, "cuda_unavailable_reason", lambda: "no NVIDIA driver; install it")
    with pytest.raises(SystemExit) as stopped:
        main(["--devices"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "gpu-reml: error: no CUDA device: no NVIDIA driver; install it\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpu-budget-gib", "-1"], "expected 0 or more GiB, found -1"),
        (["--num-gpus", "0"], "expected a positive integer, found 0"),
    ],
)
def test_impossible_device_flags_are_refused(cohort, capsys, flags, message):
    with pytest.raises(SystemExit):
        run(cohort, *flags)
    assert message in capsys.readouterr().err
