// support_vector_guided_softmax_loss on the CPU: checks, workspace, and the one pass over the scores.
#include <algorithm>

#include "core/api.h"
#include "core/cpu/isa.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/runtime/huge_pages.h"
#include "core/cpu/runtime/phases.h"
#include "core/cpu/scores/kernels.h"
#include "core/cpu/scores/plan.h"
#include "core/sizes.h"
#include "core/workspace.h"

namespace fastneg {
namespace {

using cpu::SvSoftmaxPlan;

constexpr int64_t kBlockElements = 1 << 14;
constexpr int64_t kMaxBlockRows = 256;
constexpr int64_t kRowsTogether = 16;  // Blocks that hold more rows hold a multiple.
constexpr int64_t kTasksPerThread = 8;

Status CheckSizes(const SvSoftmaxArgs& args) {
  int64_t elements = 0;
  if (!IsSize(args.num_rows) || !IsSize(args.num_negatives) ||
      __builtin_mul_overflow(args.num_rows, args.num_negatives, &elements) || !IsSize(elements)) {
    return Status::kInvalidSize;
  }
  return IsEmbeddingType(args.dtype) ? Status::kOk : Status::kUnsupportedDType;
}

DType GradType(const SvSoftmaxArgs& args) { return args.narrow_grads ? args.dtype : ComputeType(args.dtype); }

Status CheckPointers(const SvSoftmaxArgs& args) {
  const bool have_scores = args.pos_score != nullptr && (args.num_negatives == 0 || args.neg_scores != nullptr);
  const bool both_or_none = (args.grad_pos == nullptr) == (args.grad_neg == nullptr);
  const bool scalars_too = args.grad_scalars == nullptr || args.grad_neg != nullptr;
  const bool in_place = args.grad_neg != nullptr && args.num_negatives > 0 && args.grad_neg == args.neg_scores;
  if (!have_scores || !both_or_none || !scalars_too || (in_place && args.dtype != GradType(args))) {
    return Status::kNullPointer;
  }
  return Status::kOk;
}

// Blocks follow the sizes alone: they are what sums over rows are made of.
void LayOut(const SvSoftmaxArgs& args, Workspace* workspace, SvSoftmaxPlan* plan) {
  plan->num_rows = args.num_rows;
  plan->num_negatives = args.num_negatives;
  const int64_t rows = std::clamp<int64_t>(kBlockElements / std::max<int64_t>(args.num_negatives, 1), 1, kMaxBlockRows);
  plan->block_rows = rows < kRowsTogether ? rows : rows / kRowsTogether * kRowsTogether;
  plan->num_blocks = CeilDiv(args.num_rows, plan->block_rows);
  plan->block_sums = static_cast<double*>(workspace->Take(plan->num_blocks, 4, sizeof(double)));
}

// 1 / number of rows with a weight; 0 where there is none.
template <typename T>
double InverseCount(const SvSoftmaxArgs& args) {
  int64_t count = args.num_rows;
  if (args.weights != nullptr) {
    const T* weights = static_cast<const T*>(args.weights);
    count = 0;
    for (int64_t i = 0; i < args.num_rows; ++i) count += weights[i] != T(0);
  }
  return count == 0 ? 0.0 : 1.0 / static_cast<double>(count);
}

template <typename T>
void StoreResults(const SvSoftmaxArgs& args, const SvSoftmaxPlan& plan) {
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

size_t SvSoftmaxWorkspaceBytes(const SvSoftmaxArgs& args) {
  if (CheckSizes(args) != Status::kOk || args.num_rows == 0) return 0;
  Workspace workspace(nullptr);
  SvSoftmaxPlan plan;
  LayOut(args, &workspace, &plan);
  return workspace.overflow() ? 0 : workspace.used();
}

int WorthwhileThreads(const SvSoftmaxArgs& args, int num_threads) {
  // Elements whose time is that of handing work to other threads and waiting for them.
  constexpr double kSavedElements = 1 << 15;
  constexpr double kPerRow = 8;  // What a row's end costs, in terms of elements.
  const double elements = static_cast<double>(args.num_rows) * (static_cast<double>(args.num_negatives) + kPerRow) *
                          (args.dtype == DType::kFloat64 ? 2.0 : 1.0);
  return elements - elements / num_threads < kSavedElements ? 1 : num_threads;
}

Status SvSoftmax(const SvSoftmaxArgs& args) {
  const cpu::FlushDenormals flush;
  const cpu::KernelTable* kernels = cpu::ActiveKernels();
  if (kernels == nullptr) return Status::kIsaUnavailable;
  if (const Status status = CheckSizes(args); status != Status::kOk) return status;
  if (args.loss == nullptr) return Status::kNullPointer;
  const bool is_double = IsDouble(args.dtype);
  SvSoftmaxPlan plan;
  if (args.num_rows == 0) {
    is_double ? StoreResults<double>(args, plan) : StoreResults<float>(args, plan);
    return Status::kOk;
  }
  if (const Status status = CheckPointers(args); status != Status::kOk) return status;
  Workspace workspace(args.workspace);
  LayOut(args, &workspace, &plan);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;
  if (args.grad_neg != args.neg_scores) {
    cpu::PreferHugePages(args.grad_neg,
                         static_cast<size_t>(args.num_rows * args.num_negatives) * StorageBytes(GradType(args)));
  }

  plan.dtype = args.dtype;
  plan.pos_score = args.pos_score;
  plan.neg_scores = args.neg_scores;
  plan.weights = args.weights;
  plan.margin = args.margin;
  plan.t = args.t;
  plan.smooth = args.smooth;
  plan.threshold = args.threshold;
  plan.inverse_count = is_double ? InverseCount<double>(args) : InverseCount<float>(args);
  plan.narrow_grads = args.narrow_grads;
  plan.grad_pos = args.grad_pos;
  plan.grad_neg = args.grad_neg;
  plan.grad_weights = args.weights == nullptr ? nullptr : args.grad_weights;
  plan.want_scalars = args.grad_scalars != nullptr;
  const int64_t num_tasks =
      std::min<int64_t>(plan.num_blocks, kTasksPerThread * std::max(args.executor.num_threads, 1));
  plan.task_blocks = CeilDiv(plan.num_blocks, num_tasks);

  const Phase phase{CeilDiv(plan.num_blocks, plan.task_blocks), kernels->sv_softmax->score_rows[is_double]};
  cpu::RunPhases(args.executor, &phase, 1, &plan);
  is_double ? StoreResults<double>(args, plan) : StoreResults<float>(args, plan);
  return Status::kOk;
}

}  // namespace fastneg
