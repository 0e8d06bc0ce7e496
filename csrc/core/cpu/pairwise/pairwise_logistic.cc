// pairwise_loss on the CPU: checks, workspace, the sorted order, and the passes over blocks, leaves and rows.
#include <algorithm>
#include <cstring>

#include "core/api.h"
#include "core/cpu/isa.h"
#include "core/cpu/pairwise/cut.h"
#include "core/cpu/pairwise/order.h"
#include "core/cpu/pairwise/plan.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/runtime/huge_pages.h"
#include "core/cpu/runtime/phases.h"
#include "core/sizes.h"
#include "core/workspace.h"

namespace fastneg {
namespace {

using cpu::PairwiseKernels;
using cpu::PairwisePlan;
using cpu::RowRange;

bool WantsSlopes(const PairwiseLogisticArgs& args) {
  return args.grad_logits != nullptr || args.grad_scalars != nullptr;
}

Status CheckSizes(const PairwiseLogisticArgs& args) {
  if (args.batch_size < 0 || args.batch_size > INT32_MAX) return Status::kInvalidSize;
  return IsEmbeddingType(args.dtype) ? Status::kOk : Status::kUnsupportedDType;
}

// The plan, and the arrays that its rows are sorted in, cut from the workspace.
struct Arrays {
  PairwisePlan plan;
  uint64_t* keys;
  uint32_t* order;
  uint32_t* spare;
  uint32_t* level_begin;
  cpu::PairwiseCut cut;

  Arrays(const PairwiseLogisticArgs& args, Workspace* workspace)
      : keys(static_cast<uint64_t*>(workspace->Take(args.batch_size, 1, sizeof(uint64_t)))),
        order(static_cast<uint32_t*>(workspace->Take(args.batch_size, 1, sizeof(uint32_t)))),
        spare(static_cast<uint32_t*>(workspace->Take(args.batch_size, 1, sizeof(uint32_t)))),
        level_begin(static_cast<uint32_t*>(workspace->Take(args.batch_size, 1, sizeof(uint32_t)))),
        cut(args.batch_size, workspace) {
    const auto take = [&] { return static_cast<double*>(workspace->Take(args.batch_size, 1, sizeof(double))); };
    plan.position = take();
    plan.value = take();
    if (args.weights != nullptr) plan.sorted_weights = take();
    if (WantsSlopes(args)) {
      plan.slope_above = take();
      plan.slope_below = take();
    }
    const int64_t num_sums = 3 * CeilDiv(args.batch_size, cpu::kFinishRows);
    plan.finish_sums = static_cast<double*>(workspace->Take(num_sums, 1, sizeof(double)));
  }
};

// Rows that have a label, sorted by session and label, then the others. Returns the number of the former.
int64_t SortRows(const PairwiseLogisticArgs& args, Arrays* arrays) {
  const bool has_nan = IsEmbeddingType(args.label_dtype);  // Else kNoLabel may be a label.
  int64_t num_rows = 0, num_left = args.batch_size;
  for (int64_t i = args.batch_size - 1; i >= 0; --i) {
    if (has_nan && arrays->keys[i] == cpu::kNoLabel) arrays->order[--num_left] = static_cast<uint32_t>(i);
  }
  if (num_left == args.batch_size) {
    for (int64_t i = 0; i < args.batch_size; ++i) arrays->order[i] = static_cast<uint32_t>(i);
    num_rows = args.batch_size;
  } else {
    for (int64_t i = 0; i < args.batch_size; ++i) {
      if (arrays->keys[i] != cpu::kNoLabel) arrays->order[num_rows++] = static_cast<uint32_t>(i);
    }
    std::copy(arrays->order + num_rows, arrays->order + args.batch_size, arrays->spare + num_rows);
  }
  uint32_t* sorted = cpu::SortByKeys(arrays->keys, num_rows, arrays->order, arrays->spare);
  if (args.session_ids != nullptr) {
    // Only equality counts, so that the sign bit need not be the lowest order.
    const auto* ids = reinterpret_cast<const uint64_t*>(args.session_ids);
    sorted = cpu::SortByKeys(ids, num_rows, sorted, sorted == arrays->order ? arrays->spare : arrays->order);
  }
  arrays->plan.order = sorted;
  return num_rows;
}

// Finds levels and sessions in the sorted rows, and the number of pairs that have a weight.
double FindSessions(const PairwiseLogisticArgs& args, const PairwiseKernels& kernels, int64_t num_rows,
                    Arrays* arrays) {
  PairwisePlan& plan = arrays->plan;
  const auto size = static_cast<uint32_t>(num_rows);
  double num_pairs = 0;
  for (uint32_t begin = 0, end; begin < size; begin = end) {
    uint32_t level = begin;
    int64_t session_pairs = 0;
    for (end = begin; end < size; ++end) {
      const uint32_t row = plan.order[end];
      if (end > begin) {
        const uint32_t previous = plan.order[end - 1];
        if (args.session_ids != nullptr && args.session_ids[row] != args.session_ids[previous]) break;
        if (arrays->keys[row] != arrays->keys[previous]) level = end;
      }
      arrays->level_begin[end] = level;
      session_pairs += level - begin;
    }
    kernels.gather(plan, {begin, end});
    if (plan.sorted_weights != nullptr) {
      session_pairs = 0;
      for (uint32_t k = begin; k < end; ++k) {
        if (plan.sorted_weights[k] != 0) session_pairs += arrays->level_begin[k] - begin;
      }
    }
    num_pairs += static_cast<double>(session_pairs);
    arrays->cut.AddSession(plan, {begin, end});
  }
  for (int64_t k = num_rows; k < args.batch_size; ++k) {
    plan.position[k] = 0;
    if (plan.sorted_weights != nullptr) plan.sorted_weights[k] = 0;
  }
  return num_pairs;
}

template <typename T>
void SetZero(void* values, int64_t size) {
  if (values != nullptr) std::fill_n(static_cast<T*>(values), size, T(0));
}

template <typename T>
void SetAllZero(const PairwiseLogisticArgs& args) {
  SetZero<T>(args.loss, 1);
  SetZero<T>(args.grad_logits, args.batch_size);
  SetZero<T>(args.grad_weights, args.batch_size);
  SetZero<T>(args.grad_scalars, 2);
}

template <typename T>
void StoreSums(const PairwiseLogisticArgs& args, const PairwisePlan& plan) {
  double sums[3] = {};
  for (int64_t task = 0; task < CeilDiv(args.batch_size, cpu::kFinishRows); ++task) {
    for (int s = 0; s < 3; ++s) sums[s] += plan.finish_sums[3 * task + s];
  }
  *static_cast<T*>(args.loss) = static_cast<T>(sums[0]);
  if (args.grad_scalars == nullptr) return;
  for (int s = 0; s < 2; ++s) static_cast<T*>(args.grad_scalars)[s] = static_cast<T>(sums[s + 1]);
}

}  // namespace

size_t PairwiseLogisticWorkspaceBytes(const PairwiseLogisticArgs& args) {
  if (CheckSizes(args) != Status::kOk || args.batch_size == 0) return 0;
  Workspace workspace(nullptr);
  Arrays(args, &workspace);
  return workspace.overflow() ? 0 : workspace.used();
}

int WorthwhileThreads(const PairwiseLogisticArgs& args, int num_threads) {
  // Measured: two threads are slower than one at 1024 rows, and faster at 8192; sorting is the caller's in any case.
  constexpr int64_t kRows = 2048;
  return args.batch_size < kRows ? 1 : num_threads;
}

Status PairwiseLogistic(const PairwiseLogisticArgs& args) {
  const cpu::FlushDenormals flush;
  const cpu::KernelTable* table = cpu::ActiveKernels();
  if (table == nullptr) return Status::kIsaUnavailable;
  const PairwiseKernels* kernels = table->pairwise;
  if (const Status status = CheckSizes(args); status != Status::kOk) return status;
  if (args.temperature == 0) return Status::kZeroTemperature;
  if (args.loss == nullptr) return Status::kNullPointer;
  const bool is_double = IsDouble(args.dtype);
  const auto set_all_zero = is_double ? SetAllZero<double> : SetAllZero<float>;
  if (args.batch_size == 0) {
    set_all_zero(args);
    return Status::kOk;
  }
  if (args.logits == nullptr || args.labels == nullptr) return Status::kNullPointer;
  Workspace workspace(args.workspace);
  Arrays arrays(args, &workspace);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;
  cpu::PreferHugePages(args.workspace, workspace.used());

  PairwisePlan& plan = arrays.plan;
  plan.batch_size = args.batch_size;
  plan.dtype = args.dtype;
  plan.logits = args.logits;
  plan.weights = args.weights;
  plan.margin = args.margin;
  plan.temperature = args.temperature;
  plan.want_slopes = WantsSlopes(args);
  plan.series = &cpu::GetPairwiseSeries(is_double);
  plan.level_begin = arrays.level_begin;
  plan.grad_logits = args.grad_logits;
  plan.grad_weights = args.weights == nullptr ? nullptr : args.grad_weights;

  if (!cpu::LabelKeys(args.labels, args.label_dtype, args.batch_size, arrays.keys)) return Status::kUnsupportedDType;
  const int64_t num_rows = SortRows(args, &arrays);
  const double num_pairs = FindSessions(args, *kernels, num_rows, &arrays);
  if (num_pairs == 0) {
    set_all_zero(args);
    return Status::kOk;
  }
  plan.inverse_count = 1 / num_pairs;
  for (double* sums : {plan.value, plan.slope_above, plan.slope_below}) {
    if (sums != nullptr) std::fill_n(sums, args.batch_size, 0.0);
  }

  while (arrays.cut.NextDepth(*kernels, &plan)) {
    const Phase phases[] = {{arrays.cut.num_moment_tasks(), kernels->moments},
                            {2 * arrays.cut.num_blocks(), kernels->translate},
                            {arrays.cut.num_evaluate_tasks(), kernels->evaluate}};
    cpu::RunPhases(args.executor, phases, 3, &plan);
  }
  plan.leaves = arrays.cut.leaves();
  plan.num_leaves = arrays.cut.num_leaves();
  const Phase phases[] = {{CeilDiv(plan.num_leaves, cpu::kLeavesPerTask), kernels->leaves[is_double]},
                          {CeilDiv(args.batch_size, cpu::kFinishRows), kernels->finish[is_double]}};
  cpu::RunPhases(args.executor, phases, 2, &plan);
  is_double ? StoreSums<double>(args, plan) : StoreSums<float>(args, plan);
  return Status::kOk;
}

}  // namespace fastneg
