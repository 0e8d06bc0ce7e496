"""Which of this machine's instruction sets differ in what they compute."""

import pytest

_core = pytest.importorskip("fastneg._core", exc_type=ImportError)

# Those with products of bfloat16, which the in-batch loss has of one way, for embeddings of that
# type. For all else they have the kernels of the set that they extend.
FOR_BFLOAT16 = [name for name in _core.available_isas() if name.endswith(("bf16", "amx"))]
PLAIN = [name for name in _core.available_isas() if name not in FOR_BFLOAT16]

plain = pytest.mark.parametrize("isa", PLAIN, indirect=True)
