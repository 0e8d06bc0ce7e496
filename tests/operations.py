"""What a traced function holds and an eager call asks of fastneg's operations."""

from typing import Any

import pytest


def with_grad(concrete_function: Any, operation: str) -> list[bool]:
    """Whether each node of an operation computes gradients along with its value."""
    nodes = concrete_function.function_def.node_def
    return [node.attr["with_grad"].b for node in nodes if node.op == f"Fastneg>{operation}"]


def record_with_grad(monkeypatch: pytest.MonkeyPatch, function: str) -> list[bool]:
    """A list that grows by one entry with each eager call: whether it computes gradients."""
    from fastneg.backends.native.library import operations

    original = getattr(operations(), function)
    calls: list[bool] = []

    def record(*inputs: Any, **attributes: Any) -> Any:
        calls.append(attributes.get("with_grad", False))
        return original(*inputs, **attributes)

    monkeypatch.setattr(operations(), function, record)
    return calls
