// fastneg._core.rolled_softmax
#include <pybind11/stl.h>

#include <optional>

#include "python/arrays.h"
#include "python/losses.h"

namespace py = pybind11;

namespace fastneg {
namespace {

[[noreturn]] void Raise(Status status, const RolledSoftmaxArgs& args, int64_t index) {
  if (status == Status::kShiftIsMultiple) {
    throw py::value_error("`shifts` must not be 0 modulo the batch size, " + std::to_string(args.batch_size) +
                          ". Received: shifts[" + std::to_string(index) + "] = " + std::to_string(args.shifts[index]) +
                          ".");
  }
  if (status == Status::kInvalidSize) {
    throw py::value_error(
        "`shifts` must hold 1 <= K < batch size values, and the sizes must fit memory. Received: K = " +
        std::to_string(args.num_negatives) + ", batch size " + std::to_string(args.batch_size) + ".");
  }
  if (status == Status::kUnsupportedDType) {
    throw py::type_error("`user_emb` must be float16, bfloat16, float32 or float64.");
  }
  RaiseStatus(status);
}

py::dict PyRolledSoftmax(const py::array& user_emb, const py::array& item_emb, const py::array& labels,
                         const py::object& shifts, bool embed_normed, const std::optional<py::object>& weights,
                         double gamma, double margin, double t, bool refined, bool positive_in_softmax,
                         double negative_weight, const std::optional<py::object>& candidate_sampling_probability,
                         const std::optional<py::object>& candidate_ids, bool gradients, bool scalar_gradients,
                         int num_threads) {
  RolledSoftmaxArgs args;
  args.dtype = DTypeOf(user_emb, "user_emb");
  if (user_emb.ndim() != 2) throw py::value_error("`user_emb` must have rank 2. Received: " + ShapeOf(user_emb) + ".");
  const py::ssize_t b = user_emb.shape(0), d = user_emb.shape(1);
  RequireShape(item_emb, "item_emb", {b, d});
  RequireShape(labels, "labels", {b});
  if (DTypeOf(item_emb, "item_emb") != args.dtype) {
    throw py::type_error(
        "`item_emb` must have the dtype of `user_emb`. Received: " + std::string(py::str(item_emb.dtype())) + " and " +
        std::string(py::str(user_emb.dtype())) + ".");
  }
  const bool is_double = ComputeType(args.dtype) == DType::kFloat64;
  const char* compute = is_double ? "float64" : "float32";
  const py::array user = WithContiguousRows(user_emb), item = WithContiguousRows(item_emb);
  const py::array label_values = WithContiguousRows(py::module_::import("numpy").attr("ascontiguousarray")(labels));
  const py::array shift_values = CastTo(shifts, "int64");
  if (shift_values.ndim() != 1) {
    throw py::value_error("`shifts` must have rank 1. Received: " + ShapeOf(shift_values) + ".");
  }
  args.batch_size = b;
  args.embedding_dim = d;
  args.num_negatives = shift_values.shape(0);
  args.user_emb = user.data();
  args.item_emb = item.data();
  args.user_row_stride = b > 1 ? user.strides(0) / user.itemsize() : d;
  args.item_row_stride = b > 1 ? item.strides(0) / item.itemsize() : d;
  args.embed_normed = embed_normed;
  args.label_dtype = DTypeOf(label_values, "labels");
  args.labels = label_values.data();
  args.shifts = static_cast<const int64_t*>(shift_values.data());
  args.gamma = gamma;
  args.refined = refined;
  args.positive_in_softmax = positive_in_softmax;
  args.negative_weight = negative_weight;
  args.margin = margin;
  args.t = t;
  py::array weight_values, probability_values, id_values;
  if (weights) {
    weight_values = CastTo(*weights, compute);
    RequireShape(weight_values, "weights", {b});
    args.weights = weight_values.data();
  }
  if (candidate_sampling_probability) {
    probability_values = CastTo(*candidate_sampling_probability, compute);
    RequireShape(probability_values, "candidate_sampling_probability", {b});
    args.sampling_probability = probability_values.data();
  }
  if (candidate_ids) {
    id_values = CastTo(*candidate_ids, "int64");
    RequireShape(id_values, "candidate_ids", {b});
    args.candidate_ids = static_cast<const int64_t*>(id_values.data());
  }

  py::dict result;
  py::array loss = Empty({}, is_double);
  args.loss = loss.mutable_data();
  result["loss"] = loss;
  if (gradients) {
    py::array grad_user = Empty({b, d}, is_double), grad_item = Empty({b, d}, is_double);
    args.grad_user = grad_user.mutable_data();
    args.grad_item = grad_item.mutable_data();
    result["grad_user"] = grad_user;
    result["grad_item"] = grad_item;
    if (weights) {
      py::array grad_weights = Empty({b}, is_double);
      args.grad_weights = grad_weights.mutable_data();
      result["grad_weights"] = grad_weights;
    }
  }
  if (scalar_gradients) {
    py::array grad_scalars = Empty({3}, is_double);
    args.grad_scalars = grad_scalars.mutable_data();
    result["grad_scalars"] = grad_scalars;
  }
  args.workspace_bytes = RolledSoftmaxWorkspaceBytes(args);
  const AlignedBuffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  args.executor = PoolExecutor(num_threads);
  int64_t index = 0;
  args.error_index = &index;
  Status status;
  {
    py::gil_scoped_release release;
    status = RolledSoftmax(args);
  }
  if (status != Status::kOk) Raise(status, args, index);
  return result;
}

}  // namespace

void DefineRolledSoftmax(py::module_& m) {
  m.def("rolled_softmax", &PyRolledSoftmax, py::arg("user_emb"), py::arg("item_emb"), py::arg("labels"),
        py::arg("shifts"), py::kw_only(), py::arg("embed_normed") = false, py::arg("weights") = py::none(),
        py::arg("gamma") = 1.0, py::arg("margin") = 0.0, py::arg("t") = 1.0, py::arg("refined") = false,
        py::arg("positive_in_softmax") = true, py::arg("negative_weight") = 1.0,
        py::arg("candidate_sampling_probability") = py::none(), py::arg("candidate_ids") = py::none(),
        py::arg("gradients") = true, py::arg("scalar_gradients") = false, py::arg("num_threads") = 0,
        "softmax_loss_with_negative_mining on arrays: a dict of loss and, where asked for, grad_user, grad_item, "
        "grad_weights and grad_scalars (gamma, margin, t).");
}

}  // namespace fastneg
