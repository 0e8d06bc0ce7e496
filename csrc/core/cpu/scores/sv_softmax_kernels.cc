// The softmax over given scores for one instruction set. Compiled once for each, with FASTNEG_ISA_NAMESPACE naming it.
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/scores/kernels.h"
#include "core/cpu/scores/long_rows.h"
#include "core/cpu/scores/plan.h"
#include "core/cpu/scores/short_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {
namespace {

template <typename Rows>
FASTNEG_INLINE void RunTask(const SvSoftmaxPlan& plan, int64_t task) {
  Rows rows(plan);
  const int64_t last = (task + 1) * plan.task_blocks;
  for (int64_t block = task * plan.task_blocks; block < last && block < plan.num_blocks; ++block) {
    const int64_t begin = block * plan.block_rows;
    const int64_t end = begin + plan.block_rows < plan.num_rows ? begin + plan.block_rows : plan.num_rows;
    rows.RunBlock(begin, end, plan.inverse_count, plan.block_sums + 4 * block);
  }
}

template <typename T>
void RunShort(const SvSoftmaxPlan& plan, int64_t task) {
  const int64_t k = plan.num_negatives;
  if (k == 1) return RunTask<ShortRows<T, 1>>(plan, task);
  if (k == 2) return RunTask<ShortRows<T, 2>>(plan, task);
  if constexpr (kLanes<T> >= 4) {
    if (k <= 4) return RunTask<ShortRows<T, 4>>(plan, task);
  }
  if constexpr (kLanes<T> >= 8) {
    if (k <= 8) return RunTask<ShortRows<T, 8>>(plan, task);
  }
  if constexpr (kLanes<T> >= 16) RunTask<ShortRows<T, 16>>(plan, task);
}

template <typename T, typename Storage>
void RunLong(const SvSoftmaxPlan& plan, int64_t task) {
  if (plan.want_scalars) return RunTask<LongRows<T, Storage, SvSoftmaxWants::kGradsAndScalars>>(plan, task);
  if (plan.grad_neg != nullptr) return RunTask<LongRows<T, Storage, SvSoftmaxWants::kGrads>>(plan, task);
  RunTask<LongRows<T, Storage, SvSoftmaxWants::kLoss>>(plan, task);
}

template <typename T>
void ScoreRows(void* context, int64_t task) {
  const FlushDenormals flush;
  const SvSoftmaxPlan& plan = *static_cast<const SvSoftmaxPlan*>(context);
  if (plan.num_negatives > 0 && plan.num_negatives <= kLanes<T>) return RunShort<T>(plan, task);
  if constexpr (sizeof(T) == 8) {
    RunLong<double, double>(plan, task);
  } else {
    switch (plan.dtype) {
      case DType::kFloat16:
        return RunLong<float, Float16>(plan, task);
      case DType::kBFloat16:
        return RunLong<float, BFloat16>(plan, task);
      default:
        return RunLong<float, float>(plan, task);
    }
  }
}

}  // namespace

extern const SvSoftmaxKernels kSvSoftmaxKernels;
const SvSoftmaxKernels kSvSoftmaxKernels = {{ScoreRows<float>, ScoreRows<double>}};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
