// fastneg._core.sv_softmax
#include <pybind11/stl.h>

#include <optional>

#include "python/arrays.h"
#include "python/losses.h"

namespace py = pybind11;

namespace fastneg {
namespace {

[[noreturn]] void Raise(Status status) {
  if (status == Status::kUnsupportedDType) {
    throw py::type_error("`neg_scores` must be float16, bfloat16, float32 or float64.");
  }
  if (status == Status::kInvalidSize) throw py::value_error("The sizes must fit memory.");
  RaiseStatus(status);
}

py::dict PySvSoftmax(const py::array& pos_score, const py::array& neg_scores, double margin, double t, double smooth,
                     double threshold, const std::optional<py::object>& weights, bool gradients, bool scalar_gradients,
                     bool narrow_gradients, bool in_place, int num_threads) {
  if (scalar_gradients && !gradients) throw py::value_error("`scalar_gradients` must come with `gradients`.");
  SvSoftmaxArgs args;
  args.dtype = DTypeOf(neg_scores, "neg_scores");
  if (neg_scores.ndim() != 2) {
    throw py::value_error("`neg_scores` must have rank 2. Received: " + ShapeOf(neg_scores) + ".");
  }
  const py::ssize_t p = neg_scores.shape(0), k = neg_scores.shape(1);
  RequireShape(pos_score, "pos_score", {p});
  if (DTypeOf(pos_score, "pos_score") != args.dtype) {
    throw py::type_error(
        "`pos_score` must have the dtype of `neg_scores`. Received: " + std::string(py::str(pos_score.dtype())) +
        " and " + std::string(py::str(neg_scores.dtype())) + ".");
  }
  const bool is_double = ComputeType(args.dtype) == DType::kFloat64;
  const py::module_ numpy = py::module_::import("numpy");
  const py::array pos = WithContiguousRows(numpy.attr("ascontiguousarray")(pos_score));
  const py::array neg = WithContiguousRows(numpy.attr("ascontiguousarray")(neg_scores));
  args.num_rows = p;
  args.num_negatives = k;
  args.pos_score = pos.data();
  args.neg_scores = neg.data();
  args.margin = margin;
  args.t = t;
  args.smooth = smooth;
  args.threshold = threshold;
  py::array weight_values;
  if (weights) {
    weight_values = CastTo(*weights, is_double ? "float64" : "float32");
    RequireShape(weight_values, "weights", {p});
    args.weights = weight_values.data();
  }

  py::dict result;
  py::array loss = Empty({}, is_double);
  args.loss = loss.mutable_data();
  result["loss"] = loss;
  if (gradients) {
    args.narrow_grads = narrow_gradients;
    py::array grad_pos = narrow_gradients ? py::array(numpy.attr("empty_like")(pos)) : Empty({p}, is_double);
    py::array grad_neg = in_place           ? py::array(numpy.attr("array")(neg, py::arg("order") = "C"))
                         : narrow_gradients ? py::array(numpy.attr("empty_like")(neg))
                                            : Empty({p, k}, is_double);
    args.grad_pos = grad_pos.mutable_data();
    args.grad_neg = grad_neg.mutable_data();
    if (in_place) args.neg_scores = args.grad_neg;
    result["grad_pos"] = grad_pos;
    result["grad_neg"] = grad_neg;
    if (weights) {
      py::array grad_weights = Empty({p}, is_double);
      args.grad_weights = grad_weights.mutable_data();
      result["grad_weights"] = grad_weights;
    }
  }
  if (scalar_gradients) {
    py::array grad_scalars = Empty({3}, is_double);
    args.grad_scalars = grad_scalars.mutable_data();
    result["grad_scalars"] = grad_scalars;
  }
  args.workspace_bytes = SvSoftmaxWorkspaceBytes(args);
  const AlignedBuffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  args.executor = PoolExecutor(num_threads);
  Status status;
  {
    py::gil_scoped_release release;
    status = SvSoftmax(args);
  }
  if (status != Status::kOk) Raise(status);
  return result;
}

}  // namespace

void DefineSvSoftmax(py::module_& m) {
  m.def("sv_softmax", &PySvSoftmax, py::arg("pos_score"), py::arg("neg_scores"), py::kw_only(), py::arg("margin") = 0.0,
        py::arg("t") = 1.0, py::arg("smooth") = 1.0, py::arg("threshold") = 0.0, py::arg("weights") = py::none(),
        py::arg("gradients") = true, py::arg("scalar_gradients") = false, py::arg("narrow_gradients") = false,
        py::arg("in_place") = false, py::arg("num_threads") = 0,
        "support_vector_guided_softmax_loss on arrays: a dict of loss and, where asked for, grad_pos, grad_neg, "
        "grad_weights and grad_scalars (smooth, margin, t). narrow_gradients: grad_pos and grad_neg have the dtype of "
        "the scores. in_place: grad_neg takes the place of a copy of the "
        "scores, as TensorFlow allows it where nobody else needs them.");
}

}  // namespace fastneg
