// fastneg._core.pairwise_logistic
#include <pybind11/stl.h>

#include <optional>

#include "python/arrays.h"
#include "python/losses.h"

namespace py = pybind11;

namespace fastneg {
namespace {

[[noreturn]] void Raise(Status status, const PairwiseLogisticArgs& args) {
  if (status == Status::kZeroTemperature) throw py::value_error("`temperature` must not be 0. Received: 0.");
  if (status == Status::kInvalidSize) {
    throw py::value_error("`logits` must have less than 2^31 rows. Received: " + std::to_string(args.batch_size) + ".");
  }
  if (status == Status::kUnsupportedDType) {
    throw py::type_error("`logits` must be float16, bfloat16, float32 or float64.");
  }
  RaiseStatus(status);
}

py::dict PyPairwiseLogistic(const py::array& labels, const py::array& logits,
                            const std::optional<py::object>& session_ids, double margin, double temperature,
                            const std::optional<py::object>& weights, bool gradients, bool scalar_gradients,
                            int num_threads) {
  PairwiseLogisticArgs args;
  args.dtype = DTypeOf(logits, "logits");
  if (logits.ndim() != 1) throw py::value_error("`logits` must have rank 1. Received: " + ShapeOf(logits) + ".");
  const py::ssize_t b = logits.shape(0);
  RequireShape(labels, "labels", {b});
  const bool is_double = ComputeType(args.dtype) == DType::kFloat64;
  const py::array logit_values = WithContiguousRows(logits), label_values = WithContiguousRows(labels);
  args.batch_size = b;
  args.logits = logit_values.data();
  args.label_dtype = DTypeOf(label_values, "labels");
  args.labels = label_values.data();
  args.margin = margin;
  args.temperature = temperature;
  py::array id_values, weight_values;
  if (session_ids) {
    id_values = CastTo(*session_ids, "int64");
    RequireShape(id_values, "session_ids", {b});
    args.session_ids = static_cast<const int64_t*>(id_values.data());
  }
  if (weights) {
    weight_values = CastTo(*weights, is_double ? "float64" : "float32");
    RequireShape(weight_values, "weights", {b});
    args.weights = weight_values.data();
  }

  py::dict result;
  const auto add = [&](const char* name, const std::vector<py::ssize_t>& shape) {
    py::array array = Empty(shape, is_double);
    result[name] = array;
    return array.mutable_data();
  };
  args.loss = add("loss", {});
  if (gradients) {
    args.grad_logits = add("grad_logits", {b});
    if (weights) args.grad_weights = add("grad_weights", {b});
  }
  if (scalar_gradients) args.grad_scalars = add("grad_scalars", {2});
  args.workspace_bytes = PairwiseLogisticWorkspaceBytes(args);
  const AlignedBuffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  args.executor = PoolExecutor(num_threads);
  Status status;
  {
    py::gil_scoped_release release;
    status = PairwiseLogistic(args);
  }
  if (status != Status::kOk) Raise(status, args);
  return result;
}

}  // namespace

void DefinePairwiseLogistic(py::module_& m) {
  m.def("pairwise_logistic", &PyPairwiseLogistic, py::arg("labels"), py::arg("logits"),
        py::arg("session_ids") = py::none(), py::kw_only(), py::arg("margin") = 0.0, py::arg("temperature") = 1.0,
        py::arg("weights") = py::none(), py::arg("gradients") = true, py::arg("scalar_gradients") = false,
        py::arg("num_threads") = 0,
        "pairwise_loss on arrays: a dict of loss and, where asked for, grad_logits, grad_weights and grad_scalars "
        "(margin, temperature).");
}

}  // namespace fastneg
