"""The same calls through XLA, from JAX: those that TensorFlow's XLA makes, without TensorFlow."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TARGET = "fastneg"


class Handler:
    """The handler of custom calls in `libfastneg.so`, with the kernels of a CUDA library.

    Args:
        path: `libfastneg.so`.
        kernels: The CUDA library, or a build of it for the host.
        on_gpu: Which of the two.
    """

    gives_shuffled_all = False

    def __init__(self, path: Path, kernels: Path, *, on_gpu: bool) -> None:  # noqa: D107
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        import jax

        symbols = ctypes.CDLL(str(path))
        symbols.FastnegLoadCuda.restype = ctypes.c_char_p
        problem = symbols.FastnegLoadCuda(str(kernels).encode())
        if problem is not None:
            raise RuntimeError(f"{kernels} must load: {problem.decode()}")
        handler = symbols.FastnegXlaCudaHandler if on_gpu else symbols.FastnegXlaCudaOnHostHandler
        jax.ffi.register_ffi_target(
            _TARGET, jax.ffi.pycapsule(handler), platform="CUDA" if on_gpu else "cpu"
        )
        self._device = jax.devices("gpu" if on_gpu else "cpu")[0]

    def gathered(
        self,
        user: Tensor,
        item: Tensor,
        *,
        shifts: Tensor | None = None,
        permutations: Tensor | None = None,
        scalar_grads: bool = False,
        **options: Any,
    ) -> "Call":
        """As `calls.gathered`, with all gradients."""
        weights, rows = options.get("weights"), len(user)
        lists = {
            "num_sampling_probabilities": options.get("probability"),
            "num_candidate_ids": options.get("ids"),
        }
        scalars = {"gamma": options.get("gamma", 1.0)}
        shapes = [(), user.shape, item.shape]
        if shifts is not None:
            labels = options.get("labels")
            labels = torch.ones(rows, dtype=torch.int32) if labels is None else labels
            op, required = "RolledSoftmax", [user, item, labels, shifts]
            lists = {"num_weights": weights, **lists}
            scalars |= {name: options.get(name, float(name == "t")) for name in ("margin", "t")}
            shapes.append((0,) if weights is None else (rows,))
            names = ("loss", "grad_user", "grad_item", "grad_weights", "grad_scalars")
        else:
            assert permutations is not None
            op, required = "ShuffledCosine", [user, item, permutations]
            names = ("loss", "grad_user", "grad_item", "grad_scalars")
        shapes.append((3,) if scalar_grads else (0,))
        given = [tensor for tensor in lists.values() if tensor is not None]
        numbers, tensors = _split(scalars)
        attributes = {
            **numbers,
            "negative_weight": 1.0,
            **{name: int(tensor is not None) for name, tensor in lists.items()},
            "with_grad": True,
            "with_scalar_grad": scalar_grads,
        }
        return self._call(
            op, [*required, *tensors, *given], dict(zip(names, shapes, strict=True)), attributes
        )

    def sv_softmax(self, pos_score: Tensor, neg_scores: Tensor, **options: Any) -> "Call":
        """As `calls.sv_softmax`."""
        weights, rows = options.get("weights"), len(pos_score)
        shapes = {
            "loss": (),
            "grad_pos": (rows,),
            "grad_neg": neg_scores.shape,
            "grad_weights": (0,) if weights is None else (rows,),
            "grad_scalars": (3,),
            "narrow_grad_pos": (0,),
            "narrow_grad_neg": (0,),
        }
        names = ("smooth", "margin", "t", "threshold")
        numbers, tensors = _split({name: options[name] for name in names})
        attributes = {
            **numbers,
            "num_weights": int(weights is not None),
            "with_grad": True,
            "with_scalar_grad": True,
        }
        inputs = [pos_score, neg_scores, *tensors, *([] if weights is None else [weights])]
        return self._call("SvSoftmax", inputs, shapes, attributes)

    def compiled(
        self, op: str, inputs: list[Tensor], shapes: dict[str, Any], attributes: dict[str, Any]
    ) -> tuple[Callable[..., Any], list[Any]]:
        """A program of JAX's with that call in it, and the inputs as it takes them."""
        import jax
        import jax.numpy as jnp

        wide = inputs[0].dtype == torch.float64
        with jax.enable_x64(True):
            dtype = jnp.float64 if wide else jnp.float32
            arrays = [jax.device_put(_array(tensor), self._device) for tensor in inputs]
            results = [
                jax.ShapeDtypeStruct(shape, arrays[0].dtype if name.startswith("narrow") else dtype)
                for name, shape in shapes.items()
            ]
            call = jax.ffi.ffi_call(_TARGET, results)
            program = jax.jit(lambda *values: call(*values, op=f"Fastneg>{op}", **attributes))
            return program.lower(*arrays).compile(), arrays

    def _call(
        self, op: str, inputs: list[Tensor], shapes: dict[str, Any], attributes: dict[str, Any]
    ) -> "Call":
        program, arrays = self.compiled(op, inputs, shapes, attributes)
        return Call(program, arrays, tuple(shapes), inputs[0].device)


class Call:
    """A call as `correctness` wants it."""

    workspace = torch.empty(0)  # XLA's own; and it cannot be captured in a graph from here.

    def __init__(  # noqa: D107
        self,
        program: Callable[..., Any],
        arrays: list[Any],
        names: tuple[str, ...],
        device: torch.device,
    ) -> None:
        self._program = program
        self._arrays = arrays
        self._names = names
        self._device = device
        self.results: dict[str, Tensor] = {}

    def poison(self) -> None:
        """XLA hands out memory of its own."""

    def launch(self) -> None:
        """Runs the program."""
        import numpy as np

        outputs = self._program(*self._arrays)
        for name, output in zip(self._names, outputs, strict=True):
            if output.size > 0:
                values = torch.from_numpy(np.array(output)).to(self._device)
                self.results[name] = values.reshape(1) if name == "loss" else values


def _split(scalars: dict[str, Any]) -> tuple[dict[str, float], list[Tensor]]:
    """Numbers, which are attributes of a call, and tensors, which are inputs in their order."""
    numbers = {name: value for name, value in scalars.items() if not isinstance(value, Tensor)}
    return numbers, [value for value in scalars.values() if isinstance(value, Tensor)]


def _array(tensor: Tensor) -> Any:
    """For JAX, by way of NumPy, which has no bfloat16."""
    import jax.numpy as jnp

    if tensor.dtype == torch.bfloat16:
        return jnp.asarray(tensor.float().cpu().numpy()).astype(jnp.bfloat16)
    return jnp.asarray(tensor.cpu().numpy())
