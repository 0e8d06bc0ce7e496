"""`benchmarks/gpu_proof.py` and `gpu_tensorflow.py` as far as they go without a GPU."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_on_host
import numpy as np
import oracle
import oracle_sv_softmax
import problems
import pytest

_SCRIPT = cuda_on_host.ROOT / "benchmarks" / "gpu_proof.py"
_WITH_TENSORFLOW = _SCRIPT.with_name("gpu_tensorflow.py")


def _run(*arguments: str | Path, script: Path = _SCRIPT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is not None and _torch().cuda.is_available():
        pytest.skip("there is a GPU here")
    if not _SCRIPT.exists():
        pytest.skip("benchmarks are not here")
    run = _run("--output", tmp_path)
    assert run.returncode == 2
    assert "gpu_proof needs nvcc, CMake, PyTorch and a GPU. Missing here:" in run.stderr
    assert list(tmp_path.iterdir()) == []
    for name, command in (("nvcc", "nvcc"), ("CMake", "cmake")):
        missing = run.stderr.split("Missing here:")[1]
        assert (name in missing) == (shutil.which(command) is None)


def test_rehearsal(kernels: cuda_on_host.Kernels, tmp_path: Path) -> None:
    """The whole script on tiny sizes, with the kernels on the host."""
    _torch()
    handlers = Path(importlib.util.find_spec("fastneg").origin).with_name("libfastneg.so")
    run = _run(
        *("--rehearse", kernels.path, "--output", tmp_path, "--workload-seconds", "1"),
        *(("--handlers", handlers) if handlers.exists() else ()),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "all holds"
    facts = json.loads((tmp_path / "none-a-rehearsal.json").read_text())
    assert facts["holds"]
    table = (tmp_path / "none-a-rehearsal.md").read_text()
    for workload in facts["times"]["workloads"]:
        assert ", ".join(map(str, workload["shape"])) in table
        ours = workload["contenders"][0]
        assert ours["contender"] == "fastneg"
        assert ours["samples_ms"]
        assert ours["problem"] == ""


def test_with_tensorflow_without_a_gpu(tmp_path: Path) -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU here")
    run = _run("--output", tmp_path, script=_WITH_TENSORFLOW)
    assert run.returncode == 2
    assert "gpu_tensorflow cannot run here: TensorFlow sees no GPU; the library for" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_rehearsal_with_tensorflow(tmp_path: Path) -> None:
    run = _run("--rehearse", "--only", "times", "--output", tmp_path, script=_WITH_TENSORFLOW)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "all holds"
    (facts,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    ours = [
        result
        for table in facts["times"]
        for result in table["results"]
        if result["contender"] == "fastneg native"
    ]
    assert len(ours) >= 6
    assert all(result["times_ms"] for result in ours)


@pytest.mark.parametrize("scores_by", ["candidate", "gather", "product"])
def test_composition_of_the_gathered_losses(scores_by: str) -> None:
    torch = _torch()
    from gpu import composition

    problem = problems.with_everything(problems.make(33, 8, 50, "float64"))
    user, item = (
        torch.tensor(rows, requires_grad=True) for rows in (problem.user_emb, problem.item_emb)
    )
    options = dict(problem.options)
    scalars = {
        name: torch.tensor(options[name], dtype=torch.float64, requires_grad=True)
        for name in ("gamma", "margin", "t")
    }
    weights = torch.tensor(options["weights"], requires_grad=True)
    loss = composition.gathered_loss(
        user,
        item,
        composition.rolled_rows(torch.tensor(problem.shifts), 33),
        scores_by=scores_by,
        labels=torch.tensor(problem.labels),
        weights=weights,
        probability=torch.tensor(options["candidate_sampling_probability"]),
        ids=torch.tensor(options["candidate_ids"]),
        **scalars,
    )
    grads = torch.autograd.grad(loss, [user, item, weights, *scalars.values()])
    truth = oracle.rolled_softmax(
        problem.user_emb, problem.item_emb, problem.labels, problem.shifts, **options
    )
    for actual, exact in zip([loss.detach(), *grads], truth, strict=True):
        np.testing.assert_allclose(actual.numpy(), exact, rtol=1e-9, atol=1e-12)


def test_composition_of_the_sv_softmax() -> None:
    torch = _torch()
    from gpu import composition

    rng = np.random.default_rng(0)
    options = {"margin": 0.1, "t": 1.2, "smooth": 3.0}
    arrays = [rng.normal(size=20) + 1, rng.normal(size=(20, 7)), rng.random(20)]
    arrays[2][3] = 0
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    scalars = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in options.items()
    }
    loss = composition.sv_softmax_loss(
        tensors[0], tensors[1], weights=tensors[2], threshold=0.05, **scalars
    )
    order = [*tensors, scalars["smooth"], scalars["margin"], scalars["t"]]
    grads = torch.autograd.grad(loss, order)
    truth = oracle_sv_softmax.sv_softmax(
        arrays[0], arrays[1], weights=arrays[2], threshold=0.05, **options
    )
    for actual, exact in zip([loss.detach(), *grads], truth, strict=True):
        np.testing.assert_allclose(actual.numpy(), exact, rtol=1e-9, atol=1e-12)
