"""A process that has imported TensorFlow, which takes seconds, and forks for each code to run.

What `processes.py` starts. Nothing of TensorFlow or fastneg has run in it, so that a fork differs
from a process of its own in nothing that the imports of TensorFlow and Keras leave behind.
"""

import json
import os
import socket
import sys
import types

MESSAGE_BYTES = 1 << 17


def _next_code(channel: socket.socket) -> str:
    """Answers requests; returns, in a fork, the code that the fork is for."""
    while True:
        message, descriptors, *_ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
        if not message:
            os._exit(0)  # Who asked is gone.
        request = json.loads(message)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                channel.close()
                _become(request, descriptors)
                return request["code"]
            for descriptor in descriptors:
                os.close(descriptor)
        channel.send(json.dumps(answer).encode())


def _become(request: dict, descriptors: list[int]) -> None:
    for target, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[:] = request["path"]
    sys.argv[:] = ["-c"]


if __name__ == "__main__":
    import tensorflow  # noqa: F401

    code = _next_code(socket.socket(fileno=int(sys.argv[1])))
    sys.modules["__main__"] = types.ModuleType("__main__")
    exec(code, sys.modules["__main__"].__dict__)
