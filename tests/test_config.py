"""Choosing a backend, and describing the installation."""

import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import types

import pytest

import fastneg
from fastneg import backends, config


@pytest.fixture
def pretend_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native fails, numba and reference load; nothing is chosen."""
    works = types.SimpleNamespace(describe=dict)
    outcomes = {"native": OSError("no such file"), "numba": works, "reference": works}
    monkeypatch.setattr(backends, "_outcomes", outcomes)
    monkeypatch.setattr(config, "_default", None)
    monkeypatch.setattr(config, "_overrides", [])
    monkeypatch.setattr(config, "_resolved", None)
    monkeypatch.delenv("FASTNEG_BACKEND", raising=False)


def _active() -> str:
    config.active_backend()
    return config._resolved[0]


@pytest.mark.usefixtures("pretend_backends")
def test_auto_takes_the_first_that_loads() -> None:
    assert _active() == "numba"
    fastneg.use_backend("reference")
    assert _active() == "reference"
    fastneg.use_backend("auto")
    assert _active() == "numba"


@pytest.mark.usefixtures("pretend_backends")
def test_an_explicit_choice_never_falls_back() -> None:
    message = r'The "native" backend must load .* Received: OSError: no such file'
    with pytest.raises(fastneg.BackendUnavailableError, match=message):
        fastneg.use_backend("native")
    assert _active() == "numba"


@pytest.mark.usefixtures("pretend_backends")
def test_environment_is_an_explicit_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTNEG_BACKEND", "native")
    with pytest.raises(fastneg.BackendUnavailableError, match="no such file"):
        fastneg.softmax_loss_with_negative_mining([[1.0]] * 3, [[1.0]] * 3, [1] * 3, 1)
    monkeypatch.setenv("FASTNEG_BACKEND", "reference")
    assert _active() == "reference"


@pytest.mark.usefixtures("pretend_backends")
def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r'must be one of "auto", "native", "numba", "reference"\. Received: \'fast\'\.'
    with pytest.raises(ValueError, match=r"`name` " + message):
        fastneg.use_backend("fast")
    monkeypatch.setenv("FASTNEG_BACKEND", "fast")
    with pytest.raises(ValueError, match="FASTNEG_BACKEND " + message):
        config.active_backend()


@pytest.mark.usefixtures("pretend_backends")
def test_context_manager_restores() -> None:
    fastneg.use_backend("reference")
    with fastneg.use_backend("numba"):
        assert _active() == "numba"
        with fastneg.use_backend("auto"):
            fastneg.use_backend("reference")
            assert _active() == "reference"
        assert _active() == "numba"
        with pytest.raises(ZeroDivisionError), fastneg.use_backend("reference"):
            1 / 0  # noqa: B018
        assert _active() == "numba"
    assert _active() == "reference"


@pytest.mark.usefixtures("pretend_backends")
def test_contexts_of_two_threads_that_end_in_any_order() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with fastneg.use_backend("reference"):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with fastneg.use_backend("numba"):
        thread.start()
        entered.wait(10)
        assert _active() == "reference"
    assert _active() == "reference"
    leave.set()
    thread.join()
    assert _active() == "numba"  # What "auto" means here.
    assert config._overrides == []


@pytest.mark.usefixtures("pretend_backends")
def test_build_info_tells_why_the_chosen_backend_is_not_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTNEG_BACKEND", "native")
    info = fastneg.build_info()
    assert info["backend_chosen"] == "native"
    assert info["backend"] is None
    assert info["backends"]["native"] == "OSError: no such file"


@pytest.mark.parametrize("name", ["native", "numba", "reference"])
def test_what_is_installed_loads(name: str) -> None:
    """Other tests skip what does not load: it must not be for a mistake of the package's own."""
    reason = backends.why_unavailable(name)
    if name == "native":
        assert reason is None or reason.startswith("ImportError: The native operations were not")
    elif name == "numba":
        assert reason is None or importlib.util.find_spec("numba") is None
    else:
        assert reason is None


def test_build_info(backend: str) -> None:
    info = fastneg.build_info()
    assert info["backend"] == info["backend_chosen"] == backend
    assert info["version"] == fastneg.__version__
    assert set(info["backends"]) == {"native", "numba", "reference"}
    assert info["backends"][backend] is None
    for library in ("cuda", "xla"):
        assert info[library].startswith(("loaded", "not built: "))


def test_show_config_prints_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    fastneg.show_config()
    printed = capsys.readouterr().out
    for key, value in fastneg.build_info().items():
        assert key in printed
        if isinstance(value, str):
            assert value in printed


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_tensorflow() -> None:
    result = _python(
        """
        import importlib.util
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: (
            None if name == "tensorflow" else find_spec(name, *rest)
        )
        import fastneg
        print(fastneg.__version__)
        from fastneg import softmax_loss_with_negative_mining
        """
    )
    assert result.stdout.strip() == fastneg.__version__
    assert "needs TensorFlow 2.16 or newer, which is not installed" in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("ImportError")


def test_unavailable_instruction_set_is_named() -> None:
    if backends.why_unavailable("native"):
        pytest.skip(backends.why_unavailable("native"))
    result = _python(
        """
        import fastneg
        print(fastneg.build_info()["backends"]["native"])
        fastneg.use_backend("native")
        """,
        FASTNEG_ISA="sse9",
    )
    assert "FASTNEG_ISA must be one of" in result.stdout
    assert "Received: sse9" in result.stdout
    assert "BackendUnavailableError" in result.stderr
