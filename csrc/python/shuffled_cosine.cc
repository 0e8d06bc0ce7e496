// fastneg._core.shuffled_cosine
#include <pybind11/stl.h>

#include <optional>

#include "python/arrays.h"
#include "python/losses.h"

namespace py = pybind11;

namespace fastneg {
namespace {

[[noreturn]] void Raise(Status status, const ShuffledCosineArgs& args, int64_t index) {
  if (status == Status::kNotAPermutation) {
    throw py::value_error("`permutations` must hold each of 0 .. " + std::to_string(args.batch_size - 1) +
                          " once in every row. Received: permutations[" + std::to_string(index / args.batch_size) +
                          ", " + std::to_string(index % args.batch_size) +
                          "] = " + std::to_string(static_cast<const int64_t*>(args.permutations)[index]) + ".");
  }
  if (status == Status::kInvalidSize) {
    throw py::value_error("`permutations` must have at least one row, and the sizes must fit memory. Received: K = " +
                          std::to_string(args.num_negatives) + ", batch size " + std::to_string(args.batch_size) + ".");
  }
  if (status == Status::kUnsupportedDType) {
    throw py::type_error("`query` must be float16, bfloat16, float32 or float64.");
  }
  RaiseStatus(status);
}

py::dict PyShuffledCosine(const py::array& query, const py::array& doc, const py::object& permutations, double gamma,
                          bool refined, bool positive_in_softmax, double negative_weight,
                          const std::optional<py::object>& candidate_sampling_probability,
                          const std::optional<py::object>& candidate_ids, bool gradients, bool scalar_gradients,
                          int num_threads) {
  ShuffledCosineArgs args;
  args.dtype = DTypeOf(query, "query");
  if (query.ndim() != 2) throw py::value_error("`query` must have rank 2. Received: " + ShapeOf(query) + ".");
  const py::ssize_t b = query.shape(0), d = query.shape(1);
  RequireShape(doc, "doc", {b, d});
  if (DTypeOf(doc, "doc") != args.dtype) {
    throw py::type_error("`doc` must have the dtype of `query`. Received: " + std::string(py::str(doc.dtype())) +
                         " and " + std::string(py::str(query.dtype())) + ".");
  }
  const bool is_double = ComputeType(args.dtype) == DType::kFloat64;
  const char* compute = is_double ? "float64" : "float32";
  const py::array queries = WithContiguousRows(query), docs = WithContiguousRows(doc);
  const py::array indices = CastTo(permutations, "int64");
  if (indices.ndim() != 2) {
    throw py::value_error("`permutations` must have rank 2. Received: " + ShapeOf(indices) + ".");
  }
  RequireShape(indices, "permutations", {indices.shape(0), b});
  args.batch_size = b;
  args.embedding_dim = d;
  args.num_negatives = indices.shape(0);
  args.user_emb = queries.data();
  args.item_emb = docs.data();
  args.user_row_stride = b > 1 ? queries.strides(0) / queries.itemsize() : d;
  args.item_row_stride = b > 1 ? docs.strides(0) / docs.itemsize() : d;
  args.permutation_dtype = DType::kInt64;
  args.permutations = indices.data();
  args.gamma = gamma;
  args.refined = refined;
  args.positive_in_softmax = positive_in_softmax;
  args.negative_weight = negative_weight;
  py::array probability_values, id_values;
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
    py::array grad_query = Empty({b, d}, is_double), grad_doc = Empty({b, d}, is_double);
    args.grad_user = grad_query.mutable_data();
    args.grad_item = grad_doc.mutable_data();
    result["grad_query"] = grad_query;
    result["grad_doc"] = grad_doc;
  }
  py::array grad_scalars = Empty({3}, is_double);
  if (scalar_gradients) args.grad_scalars = grad_scalars.mutable_data();
  args.workspace_bytes = ShuffledCosineWorkspaceBytes(args);
  const AlignedBuffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  args.executor = PoolExecutor(num_threads);
  int64_t index = 0;
  args.error_index = &index;
  Status status;
  {
    py::gil_scoped_release release;
    status = ShuffledCosine(args);
  }
  if (status != Status::kOk) Raise(status, args, index);
  if (scalar_gradients) result["grad_gamma"] = py::module_::import("numpy").attr("array")(grad_scalars[py::int_(0)]);
  return result;
}

}  // namespace

void DefineShuffledCosine(py::module_& m) {
  m.def("shuffled_cosine", &PyShuffledCosine, py::arg("query"), py::arg("doc"), py::arg("permutations"), py::kw_only(),
        py::arg("gamma") = 20.0, py::arg("refined") = false, py::arg("positive_in_softmax") = true,
        py::arg("negative_weight") = 1.0, py::arg("candidate_sampling_probability") = py::none(),
        py::arg("candidate_ids") = py::none(), py::arg("gradients") = true, py::arg("scalar_gradients") = false,
        py::arg("num_threads") = 0,
        "negative_cosine_loss on arrays, gamma being scale / t: a dict of loss and, where asked for, grad_query, "
        "grad_doc and grad_gamma.");
}

}  // namespace fastneg
