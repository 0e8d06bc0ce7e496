#include "core/cpu/gathered/gathered_softmax.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu/gathered/labels.h"
#include "core/cpu/isa.h"
#include "core/cpu/runtime/huge_pages.h"
#include "core/cpu/runtime/phases.h"
#include "core/row_options.h"
#include "core/sizes.h"
#include "core/workspace.h"

namespace fastneg {
namespace cpu {
namespace {

constexpr int64_t kTasksPerThread = 4;

int64_t SecondLevelCacheBytes() {
  static const int64_t bytes = [] {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (reported > 0) return std::clamp<int64_t>(reported, 256 << 10, 4 << 20);
#endif
    return int64_t{1} << 20;
  }();
  return bytes;
}

Status CheckSizes(const GatheredSoftmaxArgs& args) {
  const int64_t b = args.batch_size;
  if (!IsSize(b) || !IsSize(args.embedding_dim)) return Status::kInvalidSize;
  if (b > 0 && (args.num_negatives < 1 || !IsSize(args.num_negatives))) return Status::kInvalidSize;
  if (b > 1 && (args.user_row_stride < args.embedding_dim || args.item_row_stride < args.embedding_dim)) {
    return Status::kInvalidSize;
  }
  return IsEmbeddingType(args.dtype) ? Status::kOk : Status::kUnsupportedDType;
}

Status CheckPointers(const GatheredSoftmaxArgs& args) {
  const bool have_rows = args.embedding_dim == 0 || (args.user_emb != nullptr && args.item_emb != nullptr);
  const bool both_or_none = (args.grad_user == nullptr) == (args.grad_item == nullptr);
  return have_rows && both_or_none ? Status::kOk : Status::kNullPointer;
}

// Rows of a tile. Every tile walks past all candidate rows once, so the larger the better, as long as its own rows,
// their gradients and the window of candidates that a group of sorted shifts spans stay in the second-level cache
// together.
int64_t TileRows(const GatheredPlan& plan, int64_t element_bytes, int num_threads) {
  const int64_t row_bytes = std::max<int64_t>(plan.row_stride * element_bytes, 1);
  const int64_t window = kStreams * plan.batch_size / plan.num_candidates;
  const int64_t cached = (SecondLevelCacheBytes() / 4 * 3 / row_bytes - std::min(window, plan.batch_size)) / 3;
  const int64_t balanced = plan.batch_size / (kTasksPerThread * std::max(num_threads, 1));
  const int64_t rows = std::clamp<int64_t>(std::min(cached, balanced), cpu::kSumRows, kMaxTileRows);
  return rows / cpu::kSumRows * cpu::kSumRows;
}

struct Layout {
  GatheredPlan plan;
  void* candidates = nullptr;
  uint8_t* active = nullptr;
};

// Sizes of the plan, and its arrays cut from `workspace`.
Layout LayOut(const GatheredSoftmaxArgs& args, const CandidateArray& candidates, Workspace* workspace) {
  Layout layout;
  GatheredPlan& plan = layout.plan;
  const int64_t b = args.batch_size;
  const size_t bytes = ComputeBytes(args.dtype);
  const int64_t line = kLineBytes / static_cast<int64_t>(bytes);
  plan.batch_size = b;
  plan.embedding_dim = args.embedding_dim;
  plan.num_candidates = args.num_negatives;
  plan.row_stride = RoundUp(std::max<int64_t>(args.embedding_dim, 1), line);
  // Inner loops take rows four lines at a time where they can: one more line is cheaper than three single ones.
  if (plan.row_stride / line % 4 == 3) plan.row_stride += line;
  // Rows a multiple of 1 KiB apart share few cache sets; one more line spreads them.
  if (plan.row_stride > 0 && plan.row_stride * static_cast<int64_t>(bytes) % 1024 == 0) plan.row_stride += line;
  plan.exp_stride = RoundUp(b, line);
  if (plan.exp_stride * static_cast<int64_t>(bytes) % 1024 == 0) plan.exp_stride += line;
  plan.tile_rows = TileRows(plan, static_cast<int64_t>(bytes), args.executor.num_threads);
  plan.num_tiles = CeilDiv(b, plan.tile_rows);
  plan.num_prepare_tasks = plan.num_tiles;
  plan.num_blocks = CeilDiv(b, kSumRows);

  layout.candidates = workspace->Take(candidates.rows, candidates.columns, candidates.element_bytes);
  layout.active = static_cast<uint8_t*>(workspace->Take(b, 1, 1));
  plan.active = layout.active;
  plan.block_sums = static_cast<double*>(workspace->Take(plan.num_blocks, 4, sizeof(double)));
  plan.user = workspace->Take(b, plan.row_stride, bytes);
  plan.item = workspace->Take(b, plan.row_stride, bytes);
  plan.item_inverse = workspace->Take(b, 1, bytes);
  if (args.sampling_probability != nullptr) plan.neg_log_prob = workspace->Take(b, 1, bytes);
  if (args.embed_normed) plan.block_norms = workspace->Take(plan.num_blocks, 1, bytes);
  if (args.candidate_ids != nullptr) {
    plan.block_spoilt = static_cast<uint8_t*>(workspace->Take(plan.num_blocks, 1, 1));
  }
  if (args.grad_user != nullptr) {
    plan.positive_weights = workspace->Take(b, 1, bytes);
    plan.exp_weights = workspace->Take(args.num_negatives, plan.exp_stride, bytes);
  }
  return layout;
}

// Rows that take part, and 1 / number of those with a weight.
template <typename T>
double ActivateRows(const GatheredSoftmaxArgs& args, uint8_t* active) {
  int64_t count = 0;
  if (args.weights == nullptr) {
    for (int64_t i = 0; i < args.batch_size; ++i) count += active[i];
  } else {
    const T* weights = static_cast<const T*>(args.weights);
    const bool all = args.grad_weights != nullptr;  // A row of weight 0 still has a loss to tell its weight.
    for (int64_t i = 0; i < args.batch_size; ++i) {
      const uint8_t weighted = active[i] & (weights[i] != T(0));
      count += weighted;
      if (!all) active[i] = weighted;
    }
  }
  return count == 0 ? 0.0 : 1.0 / static_cast<double>(count);
}

// Fills in the plan's bounds of -log q, with room for rounding.
template <typename T>
void BoundNegLogProb(const GatheredSoftmaxArgs& args, GatheredPlan* plan) {
  const T* q = static_cast<const T*>(args.sampling_probability);
  T lowest = T(1e30), highest = 0;
  for (int64_t i = 0; i < args.batch_size; ++i) {
    lowest = q[i] < lowest ? q[i] : lowest;
    highest = q[i] > highest ? q[i] : highest;
  }
  const auto neg_log = [](T probability) { return -std::log(std::max(static_cast<double>(probability), 1e-9)); };
  plan->max_neg_log_prob = neg_log(lowest) + 1e-5;
  plan->min_neg_log_prob = neg_log(highest) - 1e-5;
}

template <typename T>
void StoreResults(const GatheredSoftmaxArgs& args, const GatheredPlan& plan) {
  double sums[4] = {};
  for (int64_t block = 0; block < plan.num_blocks; ++block) {
    for (int s = 0; s < 4; ++s) sums[s] += plan.block_sums[4 * block + s];
  }
  *static_cast<T*>(args.loss) = static_cast<T>(sums[0]);
  if (args.grad_scalars != nullptr) {
    for (int s = 0; s < 3; ++s) static_cast<T*>(args.grad_scalars)[s] = static_cast<T>(sums[s + 1]);
  }
}

}  // namespace

size_t GatheredWorkspaceBytes(const GatheredSoftmaxArgs& args, const CandidateArray& candidates) {
  if (CheckSizes(args) != Status::kOk || args.batch_size == 0) return 0;
  Workspace workspace(nullptr);
  LayOut(args, candidates, &workspace);
  return workspace.overflow() ? 0 : workspace.used();
}

Status BeginGathered(const GatheredSoftmaxArgs& args, const CandidateArray& candidates, GatheredCall* call) {
  const KernelTable* kernels = ActiveKernels();
  if (kernels == nullptr) return Status::kIsaUnavailable;
  if (const Status status = CheckSizes(args); status != Status::kOk) return status;
  if (!RowOptionsFit(args)) return Status::kInvalidOption;
  if (args.loss == nullptr) return Status::kNullPointer;
  const bool is_double = IsDouble(args.dtype);
  if (args.batch_size == 0) {
    is_double ? StoreResults<double>(args, {}) : StoreResults<float>(args, {});
    return Status::kOk;
  }
  if (const Status status = CheckPointers(args); status != Status::kOk) return status;
  Workspace workspace(args.workspace);
  Layout layout = LayOut(args, candidates, &workspace);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;
  PreferHugePages(args.workspace, workspace.used());
  const size_t grad_bytes = static_cast<size_t>(args.batch_size * args.embedding_dim) * ComputeBytes(args.dtype);
  PreferHugePages(args.grad_user, grad_bytes);
  PreferHugePages(args.grad_item, grad_bytes);
  if (args.labels == nullptr) {
    std::memset(layout.active, 1, static_cast<size_t>(args.batch_size));
  } else if (!CountedRows(args.labels, args.label_dtype, args.batch_size, layout.active)) {
    return Status::kUnsupportedDType;
  }

  GatheredPlan& plan = layout.plan;
  plan.dtype = args.dtype;
  plan.user_emb = args.user_emb;
  plan.item_emb = args.item_emb;
  plan.user_row_stride = args.user_row_stride;
  plan.item_row_stride = args.item_row_stride;
  plan.normalise = !args.embed_normed;
  plan.weights = args.weights;
  plan.candidate_ids = args.candidate_ids;
  plan.sampling_probability = args.sampling_probability;
  plan.gamma = args.gamma;
  plan.margin = args.margin;
  plan.t = args.t;
  plan.refined = args.refined;
  plan.positive_in_softmax = args.positive_in_softmax;
  plan.negative_weight = args.negative_weight;
  plan.inverse_count = is_double ? ActivateRows<double>(args, layout.active) : ActivateRows<float>(args, layout.active);
  if (args.sampling_probability != nullptr) {
    is_double ? BoundNegLogProb<double>(args, &plan) : BoundNegLogProb<float>(args, &plan);
  }
  plan.sparse = plan.inverse_count * static_cast<double>(args.batch_size) > 1.5;
  plan.grad_user = args.grad_user;
  plan.grad_item = args.grad_item;
  plan.grad_weights = args.grad_weights;
  plan.want_scalars = args.grad_scalars != nullptr;

  *call = {kernels, plan, layout.candidates};
  return Status::kOk;
}

void RunGathered(const GatheredSoftmaxArgs& args, const GatheredKernels& kernels, GatheredPlan* plan) {
  const bool is_double = IsDouble(args.dtype);
  const Phase phases[] = {
      {plan->num_prepare_tasks, kernels.prepare_items[is_double]},
      {plan->num_tiles, kernels.score_rows[is_double]},
      {plan->num_tiles, kernels.gather_item_grads[is_double]},
  };
  RunPhases(args.executor, phases, args.grad_user == nullptr ? 2 : 3, plan);
  is_double ? StoreResults<double>(args, *plan) : StoreResults<float>(args, *plan);
}

}  // namespace cpu

int WorthwhileThreads(const GatheredSoftmaxArgs& args, int num_threads) {
  // Measured: 2^20 elements, with gradients, take one thread 0.1 ms and two threads no less, as they wait for each
  // other three times and read from each other's caches.
  constexpr double kSavedElements = 1 << 19;
  constexpr double kPassesOverRows = 4;  // Preparation and normalisation, in terms of candidates.
  const double elements = static_cast<double>(args.batch_size) * static_cast<double>(args.embedding_dim) *
                          (static_cast<double>(args.num_negatives) + kPassesOverRows) *
                          (args.grad_user == nullptr ? 0.5 : 1.0) * (args.dtype == DType::kFloat64 ? 2.0 : 1.0);
  return elements - elements / num_threads < kSavedElements ? 1 : num_threads;
}

}  // namespace fastneg
