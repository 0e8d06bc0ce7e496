"""Strategies of tf.distribute against one process, each in processes of its own.

What replicas share is what they share in any model: the variables and the sum of their gradients.
Each one has its own part of the batch, and its negatives and pairs come from there: the loss is the
mean of the losses of the parts. The tests compare with that mean.
"""

import socket

from processes import run_python, run_together


def free_ports(count: int) -> list[int]:
    """Free ports, as far as anyone can know."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def test_mirrored() -> None:
    run_python("import distribution; distribution.mirrored()")


def test_two_workers() -> None:
    ports = free_ports(2)
    run_together(
        [f"import distribution; distribution.worker({index}, {ports})" for index in range(2)]
    )


def test_parameter_servers() -> None:
    run_python(f"import distribution; distribution.parameter_servers({free_ports(4)})")


def test_op_determinism() -> None:
    run_python("import distribution; distribution.op_determinism()")
