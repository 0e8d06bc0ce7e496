"""README and site: their code runs, every public name and every error message has its place."""

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import fastneg

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))] if DOCS.exists() else []
# A block of Python, or a comment of the page with what its blocks need.
_BLOCK = re.compile(r"^```python\n(.*?)^```|^<!-- setup\n(.*?)^-->", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not PAGES, reason="The tests are away from the source tree.")


def _blocks(page: Path) -> list[tuple[int, str]]:
    """The code of a page, with the lines where it begins."""
    text = page.read_text()
    return [
        (text[: match.start()].count("\n") + 1, match[1] or match[2])
        for match in _BLOCK.finditer(text)
    ]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if _blocks(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page are one program."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    for line, code in _blocks(page):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def _public_names() -> list[str]:
    names = [f"fastneg.{name}" for name in fastneg.__all__]
    for module in ("layers", "losses", "metrics", "reference"):
        public = importlib.import_module(f"fastneg.{module}").__all__
        names += [f"fastneg.{module}.{name}" for name in public]
    return [*names, "fastneg.distribute.gather_candidates"]


@pytest.mark.parametrize("name", _public_names())
def test_public_names_have_an_entry(name: str) -> None:
    entry = re.compile(
        rf"^\.\. (auto|py:)(function|class|exception|module|data):: {re.escape(name)}$",
        re.MULTILINE,
    )
    entries = [page.name for page in PAGES if entry.search(page.read_text())]
    assert len(entries) == 1, f"{name} must have one entry in docs/. Received: {entries}."


def test_error_messages_have_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    pytest.importorskip("tomllib")  # Python 3.11 and newer.
    error_messages = importlib.import_module("error_messages")
    groups, rest = error_messages.by_cause()
    assert not rest, f"docs/errors.toml must have a cause for every message. Received: {rest}."
    assert all(groups.values()), "Every cause in docs/errors.toml must have a message."
    # One of each kind of source, so that the search is known to find some.
    found = error_messages.messages()
    for part in ("needs TensorFlow", "in [0, 1)", "CUDA must accept", "hold each of 0 .."):
        assert any(part in message for message in found), part


@pytest.fixture
def saved_results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that reads what benchmarks saved."""
    monkeypatch.syspath_prepend(str(DOCS))
    pytest.importorskip("tomllib")  # Python 3.11 and newer.
    return importlib.import_module("saved_results")


def test_readme_table_is_as_measured(saved_results: ModuleType) -> None:
    machine, table = saved_results.table_in_readme()
    assert table == saved_results.readme_table(machine), (
        f"README.md must have the measured numbers: python docs/saved_results.py {machine}"
    )


def test_readme_table_has_the_training_step_first(
    saved_results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(saved_results, "RESULTS", tmp_path)
    board = """
| P,K | 512,20 |
|-----|---------:|
| published, graph: ms | 1.2e+03 |
| no maximum, XLA: ms | 8 |
| fastneg native: ms | 2 |
| best TensorFlow form | no maximum, XLA |
| published / fastneg native | 600x |
| best TensorFlow form / fastneg native | 4x |
| peak memory, fastneg native: MiB | 0.5 |
"""
    (tmp_path / "sv_softmax-here.md").write_text(board)
    start = "| `support_vector_guided_softmax_loss` | 512 rows, 20 negatives | "
    alone, _, caption = saved_results.readme_table("here").splitlines()[2:]
    assert alone == f"{start}1200 ms | 8 ms | 2 ms | 600x | 4x | - | 0.5 MiB |"
    assert "called alone. Machine: here." in caption
    (tmp_path / "training_step-here.json").write_text(
        '[{"loss": "sv_softmax", "workload": "512,20", "published_ms": null, '
        '"fastest_ms": 7.5, "fastneg_ms": 1.5, "trivial_step_ms": 1, "fastest_form": ""}]'
    )
    both, _, caption = saved_results.readme_table("here").splitlines()[2:]
    assert both == (
        f"{start}- (1200 ms) | 7.5 ms (8 ms) | 1.5 ms (2 ms) | - (600x) | 5x (4x) | - | 0.5 MiB |"
    )
    assert "of a training step" in caption
    (tmp_path / "sv_softmax-here.md").unlink()  # Never called alone there.
    step, _, _ = saved_results.readme_table("here").splitlines()[2:]
    assert step == f"{start}- | 7.5 ms | 1.5 ms | - | 5x | - | - |"


def test_saved_text_has_paragraphs_and_tables(
    saved_results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(saved_results, "RESULTS", tmp_path)
    assert saved_results.saved_texts("inside_xla") == {}
    (tmp_path / "inside_xla-here.md").write_text(
        "Milliseconds.\n\n| | outside |\n|---|---|\n| sv_softmax 512,20 | 0.02 |\n"
    )
    table = [["", "outside"], ["sv_softmax 512,20", "0.02"]]
    assert saved_results.saved_texts("inside_xla") == {"here": ["Milliseconds.", table]}


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_notebooks_hold_no_results() -> None:
    """They run when the site is built."""
    notebooks = sorted(DOCS.rglob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs"), f"{path.name}: {cell['id']}"
