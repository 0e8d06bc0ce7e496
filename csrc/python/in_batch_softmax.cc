// fastneg._core.in_batch_softmax and fastneg._core.positive_ranks
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "python/arrays.h"
#include "python/losses.h"

namespace py = pybind11;

namespace fastneg {
namespace {

using OptionalObject = std::optional<py::object>;

[[noreturn]] void RaiseInBatch(Status status, const InBatchScoresArgs& args, int64_t index) {
  if (status == Status::kIdOutOfRange) {
    throw py::value_error("`positives` must be at least 0 and less than the number of candidates, " +
                          std::to_string(args.num_candidates) + ". Received: positives[" + std::to_string(index) +
                          "] = " + std::to_string(args.positives[index]) + ".");
  }
  if (status == Status::kInvalidSize) {
    throw py::value_error("There must be at least as many candidates as queries, or positives. Received: " +
                          std::to_string(args.num_candidates) + " and " + std::to_string(args.batch_size) + ".");
  }
  if (status == Status::kInvalidOption) throw py::value_error("The options must be in range and go together.");
  RaiseStatus(status);
}

// The arrays behind InBatchScoresArgs, which live as long as this does.
class ScoreArrays {
 public:
  ScoreArrays(const py::array& queries, const py::array& candidates, bool normalize, const OptionalObject& positives,
              const OptionalObject& ids, const OptionalObject& candidate_mask, const OptionalObject& score_mask,
              InBatchScoresArgs* args) {
    args->dtype = DTypeOf(queries, "query_embeddings");
    if (queries.ndim() != 2 || candidates.ndim() != 2 || queries.shape(1) != candidates.shape(1)) {
      throw py::value_error("`candidate_embeddings` must be a matrix of the width of `query_embeddings`. Received: " +
                            ShapeOf(candidates) + " and " + ShapeOf(queries) + ".");
    }
    if (DTypeOf(candidates, "candidate_embeddings") != args->dtype) {
      throw py::type_error("`candidate_embeddings` must have the dtype of `query_embeddings`. Received: " +
                           std::string(py::str(candidates.dtype())) + ".");
    }
    const py::ssize_t b = queries.shape(0), c = candidates.shape(0), d = queries.shape(1);
    queries_ = WithContiguousRows(queries);
    candidates_ = WithContiguousRows(candidates);
    args->batch_size = b;
    args->num_candidates = c;
    args->embedding_dim = d;
    args->queries = queries_.data();
    args->candidates = candidates_.data();
    args->query_row_stride = b > 1 ? queries_.strides(0) / queries_.itemsize() : d;
    args->candidate_row_stride = c > 1 ? candidates_.strides(0) / candidates_.itemsize() : d;
    args->normalize = normalize;
    args->positives = Take<int64_t>(positives, "positives", "int64", {b}, &positives_);
    args->candidate_ids = Take<int64_t>(ids, "candidate_ids", "int64", {c}, &ids_);
    args->candidate_mask = Take<uint8_t>(candidate_mask, "candidate_mask", "bool", {c}, &candidate_mask_);
    args->score_mask = Take<uint8_t>(score_mask, "score_mask", "bool", {b, c}, &score_mask_);
  }

  template <typename T>
  static const T* Take(const OptionalObject& given, const char* name, const char* dtype,
                       const std::vector<py::ssize_t>& shape, py::array* array) {
    if (!given) return nullptr;
    *array = CastTo(*given, dtype);
    RequireShape(*array, name, shape);
    return static_cast<const T*>(array->data());
  }

 private:
  py::array queries_, candidates_, positives_, ids_, candidate_mask_, score_mask_;
};

template <typename Args>
void RunInBatch(size_t (*workspace_bytes)(const Args&), Status (*run)(const Args&), int num_threads, Args* args) {
  args->executor = PoolExecutor(num_threads);
  args->workspace_bytes = workspace_bytes(*args);
  const AlignedBuffer workspace(args->workspace_bytes);
  args->workspace = workspace.data();
  int64_t index = 0;
  args->error_index = &index;
  Status status;
  {
    py::gil_scoped_release release;
    status = run(*args);
  }
  if (status != Status::kOk) RaiseInBatch(status, *args, index);
}

Reduction ToReduction(const std::string& name) {
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  if (name == "none") return Reduction::kNone;
  throw py::value_error("`reduction` must be mean, sum or none. Received: " + name + ".");
}

py::dict PyInBatchSoftmax(const py::array& query_embeddings, const py::array& candidate_embeddings,
                          const OptionalObject& positives, const OptionalObject& sample_weight, double temperature,
                          bool normalize, double margin, double t, const OptionalObject& probability,
                          const OptionalObject& candidate_ids, const OptionalObject& candidate_mask,
                          const OptionalObject& score_mask, std::optional<int64_t> num_hard_negatives,
                          double label_smoothing, const std::string& correction, bool positive_in_softmax,
                          double negative_weight, bool bidirectional, const std::string& reduction, bool gradients,
                          bool scalar_gradients, bool t_gradient, int num_threads) {
  InBatchSoftmaxArgs args;
  const ScoreArrays arrays(query_embeddings, candidate_embeddings, normalize, positives, candidate_ids, candidate_mask,
                           score_mask, &args);
  const bool is_double = ComputeType(args.dtype) == DType::kFloat64;
  const char* compute = is_double ? "float64" : "float32";
  const py::ssize_t b = args.batch_size, c = args.num_candidates, d = args.embedding_dim;
  py::array weight_values, probability_values;
  args.weights = ScoreArrays::Take<void>(sample_weight, "sample_weight", compute, {b}, &weight_values);
  args.sampling_probability =
      ScoreArrays::Take<void>(probability, "candidate_sampling_probability", compute, {c}, &probability_values);
  args.temperature = temperature;
  args.margin = margin;
  args.t = t;
  args.num_hard_negatives = num_hard_negatives.value_or(0);
  args.label_smoothing = label_smoothing;
  args.refined = correction == "refined";
  args.positive_in_softmax = positive_in_softmax && !args.refined;
  args.negative_weight = negative_weight;
  args.bidirectional = bidirectional;
  args.reduction = ToReduction(reduction);

  py::dict result;
  const auto add = [&](const char* name, const std::vector<py::ssize_t>& shape) {
    py::array values = Empty(shape, is_double);
    result[name] = values;
    return values.mutable_data();
  };
  args.loss = args.reduction == Reduction::kNone ? add("loss", {b}) : add("loss", {});
  if (gradients) {
    args.grad_queries = add("grad_query", {b, d});
    args.grad_candidates = add("grad_candidate", {c, d});
    if (sample_weight) args.grad_weights = add("grad_weight", {b});
    if (scalar_gradients) args.grad_scalars = add("grad_scalars", {3});
    args.t_is_trained = t_gradient;
  }
  RunInBatch(&InBatchSoftmaxWorkspaceBytes, &InBatchSoftmax, num_threads, &args);
  result["workspace_bytes"] = args.workspace_bytes;
  return result;
}

py::array PyPositiveRanks(const py::array& query_embeddings, const py::array& candidate_embeddings,
                          const OptionalObject& positives, bool normalize, const OptionalObject& candidate_ids,
                          const OptionalObject& candidate_mask, const OptionalObject& score_mask, int num_threads) {
  PositiveRanksArgs args;
  const ScoreArrays arrays(query_embeddings, candidate_embeddings, normalize, positives, candidate_ids, candidate_mask,
                           score_mask, &args);
  py::array_t<int32_t> ranks(static_cast<py::ssize_t>(args.batch_size));
  args.ranks = ranks.mutable_data();
  RunInBatch(&PositiveRanksWorkspaceBytes, &PositiveRanks, num_threads, &args);
  return ranks;
}

}  // namespace

void DefineInBatchSoftmax(py::module_& m) {
  m.def("in_batch_softmax", &PyInBatchSoftmax, py::arg("query_embeddings"), py::arg("candidate_embeddings"),
        py::kw_only(), py::arg("positives") = py::none(), py::arg("sample_weight") = py::none(),
        py::arg("temperature") = 1.0, py::arg("normalize") = false, py::arg("margin") = 0.0, py::arg("t") = 1.0,
        py::arg("candidate_sampling_probability") = py::none(), py::arg("candidate_ids") = py::none(),
        py::arg("candidate_mask") = py::none(), py::arg("score_mask") = py::none(),
        py::arg("num_hard_negatives") = py::none(), py::arg("label_smoothing") = 0.0,
        py::arg("correction") = "standard", py::arg("positive_in_softmax") = true, py::arg("negative_weight") = 1.0,
        py::arg("bidirectional") = false, py::arg("reduction") = "mean", py::arg("gradients") = true,
        py::arg("scalar_gradients") = false, py::arg("t_gradient") = true, py::arg("num_threads") = 0,
        "in_batch_softmax_loss on arrays: a dict of loss and, where asked for, grad_query, grad_candidate, grad_weight "
        "and grad_scalars (temperature, margin, t; without t_gradient 0 for t = 1).");
  m.def("positive_ranks", &PyPositiveRanks, py::arg("query_embeddings"), py::arg("candidate_embeddings"), py::kw_only(),
        py::arg("positives") = py::none(), py::arg("normalize") = false, py::arg("candidate_ids") = py::none(),
        py::arg("candidate_mask") = py::none(), py::arg("score_mask") = py::none(), py::arg("num_threads") = 0,
        "positive_ranks on arrays, int32.");
}

}  // namespace fastneg
