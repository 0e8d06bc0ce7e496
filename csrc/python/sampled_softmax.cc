// fastneg._core.sampled_softmax
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "python/arrays.h"
#include "python/losses.h"

namespace py = pybind11;

namespace fastneg {
namespace {

// Labels and samples as rows of the distinct table rows.
struct Rows {
  std::vector<int64_t> ids;
  std::vector<int32_t> label_rows, sampled_rows;
};

Rows FindRows(const py::array& labels, const py::array& sampled, int64_t num_classes) {
  SampledRowsArgs args;
  args.num_labels = labels.size();
  args.num_sampled = sampled.size();
  args.num_classes = num_classes;
  args.labels = static_cast<const int64_t*>(labels.data());
  args.sampled = static_cast<const int64_t*>(sampled.data());
  Rows rows;
  rows.ids.resize(static_cast<size_t>(args.num_labels + args.num_sampled));
  rows.label_rows.resize(static_cast<size_t>(args.num_labels));
  rows.sampled_rows.resize(static_cast<size_t>(args.num_sampled));
  int64_t num_rows = 0, bad = 0;
  args.ids = rows.ids.data();
  args.label_rows = rows.label_rows.data();
  args.sampled_rows = rows.sampled_rows.data();
  args.num_rows = &num_rows;
  args.error_index = &bad;
  args.workspace_bytes = SampledRowsWorkspaceBytes(args);
  const AlignedBuffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  const Status status = SampledRows(args);
  if (status == Status::kIdOutOfRange) {
    const int64_t id = bad < args.num_labels ? args.labels[bad] : args.sampled[bad - args.num_labels];
    throw py::value_error("`labels` and `sampled` must be in 0 .. " + std::to_string(num_classes - 1) +
                          ". Received: " + std::to_string(id) + ".");
  }
  if (status != Status::kOk) RaiseStatus(status);
  rows.ids.resize(static_cast<size_t>(num_rows));
  return rows;
}

py::dict PySampledSoftmax(const py::array& weights, const std::optional<py::object>& biases, const py::object& labels,
                          const py::array& inputs, const py::object& sampled, const py::object& true_expected_count,
                          const py::object& sampled_expected_count, bool remove_accidental_hits,
                          const std::optional<py::object>& row_weights, bool gradients, int num_threads) {
  SampledSoftmaxArgs args;
  args.dtype = DTypeOf(inputs, "inputs");
  if (inputs.ndim() != 2) throw py::value_error("`inputs` must have rank 2. Received: " + ShapeOf(inputs) + ".");
  if (weights.ndim() != 2) throw py::value_error("`weights` must have rank 2. Received: " + ShapeOf(weights) + ".");
  if (DTypeOf(weights, "weights") != args.dtype) {
    throw py::type_error(
        "`weights` must have the dtype of `inputs`. Received: " + std::string(py::str(weights.dtype())) + ".");
  }
  const py::ssize_t b = inputs.shape(0), d = inputs.shape(1);
  RequireShape(weights, "weights", {weights.shape(0), d});
  const bool is_double = ComputeType(args.dtype) == DType::kFloat64;
  const char* compute = is_double ? "float64" : "float32";
  const py::array label_ids = CastTo(labels, "int64"), sampled_ids = CastTo(sampled, "int64");
  if (label_ids.ndim() != 2 || label_ids.shape(0) != b) {
    throw py::value_error("`labels` must have shape [" + std::to_string(b) +
                          ", num_true]. Received: " + ShapeOf(label_ids) + ".");
  }
  if (sampled_ids.ndim() != 1) {
    throw py::value_error("`sampled` must have rank 1. Received: " + ShapeOf(sampled_ids) + ".");
  }
  const Rows found = FindRows(label_ids, sampled_ids, weights.shape(0));
  const py::ssize_t num_rows = static_cast<py::ssize_t>(found.ids.size());
  const py::array ids(py::dtype::of<int64_t>(), {num_rows}, found.ids.data());
  const py::array rows = WithContiguousRows(weights[ids]);
  const py::array input_values = WithContiguousRows(inputs);
  const py::array true_counts = CastTo(true_expected_count, compute);
  const py::array sampled_counts = CastTo(sampled_expected_count, compute);
  RequireShape(true_counts, "true_expected_count", {b, label_ids.shape(1)});
  RequireShape(sampled_counts, "sampled_expected_count", {sampled_ids.shape(0)});
  args.batch_size = b;
  args.embedding_dim = d;
  args.num_true = label_ids.shape(1);
  args.num_sampled = sampled_ids.shape(0);
  args.num_rows = num_rows;
  args.inputs = input_values.data();
  args.rows = rows.data();
  args.input_row_stride = b > 1 ? input_values.strides(0) / input_values.itemsize() : d;
  args.row_stride = num_rows > 1 ? rows.strides(0) / rows.itemsize() : d;
  args.label_rows = found.label_rows.data();
  args.sampled_rows = found.sampled_rows.data();
  args.true_expected_count = true_counts.data();
  args.sampled_expected_count = sampled_counts.data();
  args.remove_accidental_hits = remove_accidental_hits;
  py::array bias_rows, weight_values;
  if (biases) {
    const py::array all = CastTo(*biases, compute);
    RequireShape(all, "biases", {weights.shape(0)});
    bias_rows = WithContiguousRows(all[ids]);
    args.biases = bias_rows.data();
  }
  if (row_weights) {
    weight_values = CastTo(*row_weights, compute);
    RequireShape(weight_values, "row_weights", {b});
    args.row_weights = weight_values.data();
  }

  py::dict result;
  py::array loss = Empty({b}, is_double);
  args.loss = loss.mutable_data();
  result["loss"] = loss;
  result["ids"] = ids;
  if (gradients) {
    py::array grad_rows = Empty({num_rows, d}, is_double), grad_inputs = Empty({b, d}, is_double);
    args.grad_rows = grad_rows.mutable_data();
    args.grad_inputs = grad_inputs.mutable_data();
    result["grad_rows"] = grad_rows;
    result["grad_inputs"] = grad_inputs;
    if (biases) {
      py::array grad_biases = Empty({num_rows}, is_double);
      args.grad_biases = grad_biases.mutable_data();
      result["grad_biases"] = grad_biases;
    }
  }
  args.executor = PoolExecutor(num_threads);
  args.workspace_bytes = SampledSoftmaxWorkspaceBytes(args);
  const AlignedBuffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  Status status;
  {
    py::gil_scoped_release release;
    status = SampledSoftmax(args);
  }
  if (status == Status::kInvalidSize) {
    throw py::value_error("`sampled` and `labels` must have at least one column, and the sizes must fit memory.");
  }
  if (status != Status::kOk) RaiseStatus(status);
  return result;
}

}  // namespace

void DefineSampledSoftmax(py::module_& m) {
  m.def("sampled_softmax", &PySampledSoftmax, py::arg("weights"), py::arg("biases"), py::arg("labels"),
        py::arg("inputs"), py::arg("sampled"), py::arg("true_expected_count"), py::arg("sampled_expected_count"),
        py::kw_only(), py::arg("remove_accidental_hits") = true, py::arg("row_weights") = py::none(),
        py::arg("gradients") = true, py::arg("num_threads") = 0,
        "sampled_softmax_loss on arrays: a dict of loss and ids (the distinct classes) and, where asked for, the "
        "gradients grad_rows (of these classes), grad_inputs and grad_biases of the losses' sum weighted with "
        "row_weights.");
}

}  // namespace fastneg
