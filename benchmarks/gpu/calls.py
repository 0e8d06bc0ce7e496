"""Calls of the CUDA library on PyTorch tensors."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gpu import library

_ALIGNMENT = 256


@dataclasses.dataclass
class Call:
    """The arguments of a call, and the tensors that they point to."""

    args: library.Args
    results: Mapping[str, Tensor]
    workspace: Tensor
    inputs: tuple[Any, ...]
    kernels: library.Library

    def poison(self) -> None:
        """Fills results and workspace with NaN, or what is one in every type."""
        for tensor in (*self.results.values(), self.workspace):
            tensor.view(torch.uint8).fill_(0xFF)

    def launch(self) -> None:
        """Puts the call on the current stream."""
        on_gpu = self.workspace.is_cuda
        self.kernels.run(self.args, torch.cuda.current_stream().cuda_stream if on_gpu else 0)


@dataclasses.dataclass(frozen=True)
class Caller:
    """Calls a library; `handler.Handler` makes the same calls through XLA."""

    kernels: library.Library
    # Labels, weights, a margin: the kernels do for both losses what one operation asks for.
    gives_shuffled_all = True

    def gathered(self, user: Tensor, item: Tensor, **options: Any) -> Call:
        """Both losses over gathered candidates."""
        return gathered(self.kernels, user, item, **options)

    def sv_softmax(self, pos_score: Tensor, neg_scores: Tensor, **options: Any) -> Call:
        """The loss on scores."""
        return sv_softmax(self.kernels, pos_score, neg_scores, **options)


def gathered(
    kernels: library.Library,
    user: Tensor,
    item: Tensor,
    *,
    shifts: Tensor | None = None,
    permutations: Tensor | None = None,
    grads: bool = True,
    scalar_grads: bool = False,
    **options: Any,
) -> Call:
    """softmax_loss_with_negative_mining with `shifts`, negative_cosine_loss with `permutations`."""
    args: Any
    if shifts is not None:
        candidates = shifts
        args = library.RolledSoftmaxArgs(shifts=shifts.data_ptr())
    else:
        assert permutations is not None
        candidates = permutations
        args = library.ShuffledCosineArgs(
            permutations=permutations.data_ptr(), permutation_dtype=_dtype(permutations)
        )
    args.batch_size, args.embedding_dim = user.shape
    args.num_negatives = len(candidates)
    args.dtype = _dtype(user)
    args.user_emb, args.item_emb = user.data_ptr(), item.data_ptr()
    args.user_row_stride, args.item_row_stride = user.stride(0), item.stride(0)
    args.embed_normed = options.get("embed_normed", False)
    defaults = {"gamma": 1.0, "margin": 0.0, "t": 1.0, "negative_weight": 1.0}
    _set_scalars(args, defaults, options)
    labels, weights = options.get("labels"), options.get("weights")
    if labels is not None:
        args.labels, args.label_dtype = labels.data_ptr(), _dtype(labels)
    if weights is not None:
        args.weights = weights.data_ptr()
    if options.get("probability") is not None:
        args.sampling_probability = options["probability"].data_ptr()
    if options.get("ids") is not None:
        args.candidate_ids = options["ids"].data_ptr()
    like = _like(user)
    results = {
        "loss": torch.empty(1, **like),
        "error_index": torch.empty(1, dtype=torch.int64, device=user.device),
    }
    if grads:
        results["grad_user"] = torch.empty(user.shape, **like)
        results["grad_item"] = torch.empty(user.shape, **like)
        if weights is not None:
            results["grad_weights"] = torch.empty(len(user), **like)
    if scalar_grads:
        results["grad_scalars"] = torch.empty(3, **like)
    return _finished(kernels, args, results, (user, item, candidates, options))


def sv_softmax(
    kernels: library.Library, pos_score: Tensor, neg_scores: Tensor, **options: Any
) -> Call:
    """support_vector_guided_softmax_loss, with all gradients."""
    args = library.SvSoftmaxArgs(
        num_rows=len(pos_score),
        num_negatives=neg_scores.shape[1],
        dtype=_dtype(neg_scores),
        pos_score=pos_score.data_ptr(),
        neg_scores=neg_scores.data_ptr(),
    )
    _set_scalars(args, {"margin": 0.0, "t": 1.0, "smooth": 1.0, "threshold": 0.0}, options)
    like = _like(neg_scores)
    results = {
        "loss": torch.empty(1, **like),
        "grad_pos": torch.empty(len(pos_score), **like),
        "grad_neg": torch.empty(neg_scores.shape, **like),
        "grad_scalars": torch.empty(3, **like),
    }
    if options.get("weights") is not None:
        args.weights = options["weights"].data_ptr()
        results["grad_weights"] = torch.empty(len(pos_score), **like)
    return _finished(kernels, args, results, (pos_score, neg_scores, options))


def _set_scalars(args: Any, defaults: Mapping[str, float], options: Mapping[str, Any]) -> None:
    """Numbers, or tensors on the device."""
    for name, default in defaults.items():
        value = options.get(name, default)
        if isinstance(value, Tensor):
            setattr(args.on_device, name, value.data_ptr())
        else:
            setattr(args, name, value)


def _finished(
    kernels: library.Library, args: Any, results: dict[str, Tensor], inputs: tuple[Any, ...]
) -> Call:
    for name, tensor in results.items():
        setattr(args, name, tensor.data_ptr())
    size = kernels.workspace_bytes(args)
    device = results["loss"].device
    workspace = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=device)
    args.workspace = -(-workspace.data_ptr() // _ALIGNMENT) * _ALIGNMENT
    args.workspace_bytes = size
    return Call(args, results, workspace, inputs, kernels)


def _dtype(tensor: Tensor) -> int:
    return library.DTYPES.index(str(tensor.dtype).removeprefix("torch."))


def _like(tensor: Tensor) -> dict[str, Any]:
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return {"dtype": dtype, "device": tensor.device}
