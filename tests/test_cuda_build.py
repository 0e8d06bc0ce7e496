"""What nvcc makes of the CUDA kernels: no warning, no spill, a library that loads without a GPU.

For one architecture, as all of them take minutes: `cmake --preset cuda` builds those.
"""

import concurrent.futures
import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import cuda_on_host
import pytest
from processes import run_python
from shared_folders import filled_once

_ARCHITECTURE = "sm_90"
_NVCC = shutil.which("nvcc")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The library, and what the assembler reports of its kernels."""
    if _NVCC is None:
        pytest.skip("there is no nvcc")
    if not cuda_on_host.SOURCES.is_dir():
        pytest.skip("the sources of the CUDA kernels are not here")
    folder = filled_once(tmp_path_factory, "cuda", _build)
    return folder / "_cuda.so", (folder / "report").read_text()


def _build(folder: Path) -> None:
    command = [
        str(_NVCC),
        *(f"-arch={_ARCHITECTURE}", "-std=c++17", "-O3", "-Werror", "all-warnings"),
        *("-Xcompiler", "-Wall,-Wextra,-Werror,-fPIC,-fvisibility=hidden"),
        *("-Xptxas", "-v", f"-I{cuda_on_host.ROOT / 'csrc'}"),
    ]

    def compile_one(source: Path) -> tuple[Path, str]:
        result = folder / (source.stem + ".o")
        run = subprocess.run(
            [*command, "-c", source, "-o", result], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return result, run.stdout + run.stderr

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sorted(cuda_on_host.SOURCES.rglob("*.cu"))))
    link = [str(_NVCC), f"-arch={_ARCHITECTURE}", "-shared", "-Xlinker", "--exclude-libs,ALL"]
    subprocess.run([*link, *(path for path, _ in objects), "-o", folder / "_cuda.so"], check=True)
    (folder / "report").write_text("".join(report for _, report in objects))


def test_no_kernel_spills(built: tuple[Path, str]) -> None:
    """Neither registers nor arrays go to local memory."""
    report = built[1]
    kernels = re.findall(r"Compiling entry function '(\w+)'", report)
    stacks = re.findall(
        r"Function properties for (\w+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads",
        report,
    )
    assert len(kernels) > 100
    assert {name for name, *_ in stacks} >= set(kernels)
    assert [name for name, *sizes in stacks if sizes != ["0", "0", "0"]] == []


def test_two_blocks_fit_a_multiprocessor(built: tuple[Path, str]) -> None:
    """Of every kernel but those that hold several sets of rows, of which one block is at work."""
    used = re.findall(r"Compiling entry function '(\w+)'(?:.*\n)+?.*Used (\d+) registers", built[1])
    one_set = {name: int(count) for name, count in used if not _holds_several_sets(name)}
    assert 100 < len(one_set) < len(used)
    assert max(one_set.values()) <= 128  # Of 65536, for blocks of 256 threads.


def _holds_several_sets(mangled_name: str) -> bool:
    sets = re.search(r"CandidatesELi(\d+)E", mangled_name)
    return sets is not None and int(sets[1]) > 1


def test_loads_and_answers_without_a_gpu(built: tuple[Path, str]) -> None:
    from gpu import library

    kernels = library.Library(built[0])
    if kernels.device_status() == library.Status.OK:
        pytest.skip("there is a GPU here")
    assert kernels.device_status() == library.Status.NO_DEVICE
    memory = ctypes.create_string_buffer(1 << 16)
    place = -(-ctypes.addressof(memory) // 64) * 64
    args = library.RolledSoftmaxArgs(
        batch_size=4,
        embedding_dim=2,
        num_negatives=1,
        dtype=library.DTYPES.index("float32"),
        user_emb=place,
        item_emb=place,
        user_row_stride=2,
        item_row_stride=2,
        loss=place,
        shifts=place,
        workspace=place,
        workspace_bytes=1 << 15,
    )
    with pytest.raises(library.CallError, match=r"NO_DEVICE \(cudaError"):
        kernels.run(args)
    assert bytes(memory) == bytes(1 << 16)


def test_shows_nothing_but_its_entries(built: tuple[Path, str]) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("there is no nm")
    listed = subprocess.run(
        [nm, "-D", "--defined-only", built[0]], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    assert names
    assert [name for name in names if not name.startswith("FastnegCuda")] == []


def test_the_handler_for_gpus_takes_it(native: str, built: tuple[Path, str]) -> None:
    """Without a GPU; the CPU's kernels stay in use."""
    run_python(
        f"""
        import ctypes, fastneg, numpy as np, tensorflow as tf
        from fastneg import _tensorflow
        from fastneg.backends.native.symbols import symbols
        from small_cases import CASES
        assert symbols().FastnegLoadCuda({str(built[0])!r}.encode()) is None
        if fastneg.build_info()["xla"] == "loaded":
            interface = ctypes.c_void_p(_tensorflow.xla_handler_interface())
            register = symbols().FastnegRegisterXlaHandler
            assert register(interface, b"fastneg_on_gpus", b"CUDA", True) is None
        case = CASES["rolled_softmax"]
        with fastneg.use_backend("native"):
            assert np.isfinite(case.loss(*(tf.constant(v) for v in case.arguments.values())))
        """
    )


def test_another_library_is_refused(native: str) -> None:
    from fastneg.backends.native.symbols import PATH, symbols

    assert b"must have the functions" in symbols().FastnegLoadCuda(str(PATH).encode())
    assert b"/nowhere.so" in symbols().FastnegLoadCuda(b"/nowhere.so")
