// The pairwise loss's kernels of one instruction set. Compiled once for each.
#include "core/cpu/pairwise/blocks.h"
#include "core/cpu/pairwise/kernels.h"
#include "core/cpu/pairwise/pairs.h"
#include "core/cpu/pairwise/plan.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/simd/convert.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {
namespace {

// Positions are relative to that finite logit of the session that is closest to 0: neither a large number that all
// logits have in common nor an outlier costs digits.
template <typename Storage>
void GatherPositions(const PairwisePlan& plan, RowRange rows) {
  const Storage* logits = static_cast<const Storage*>(plan.logits);
  double origin = __builtin_huge_val();
  for (int64_t k = rows.begin; k < rows.end; ++k) {
    const double logit = static_cast<double>(Widen(logits[plan.order[k]]));
    origin = __builtin_fabs(logit) < __builtin_fabs(origin) ? logit : origin;
  }
  if (origin - origin != 0) origin = 0;  // None is finite.
  for (int64_t k = rows.begin; k < rows.end; ++k)
    plan.position[k] = (static_cast<double>(Widen(logits[plan.order[k]])) - origin) / plan.temperature;
}

template <typename T>
void GatherWeights(const PairwisePlan& plan, RowRange rows) {
  const T* weights = static_cast<const T*>(plan.weights);
  for (int64_t k = rows.begin; k < rows.end; ++k) plan.sorted_weights[k] = static_cast<double>(weights[plan.order[k]]);
}

void PairwiseGather(const PairwisePlan& plan, RowRange rows) {
  const FlushDenormals flush;
  switch (plan.dtype) {
    case DType::kFloat64:
      GatherPositions<double>(plan, rows);
      break;
    case DType::kFloat16:
      GatherPositions<Float16>(plan, rows);
      break;
    case DType::kBFloat16:
      GatherPositions<BFloat16>(plan, rows);
      break;
    default:
      GatherPositions<float>(plan, rows);
  }
  if (plan.weights == nullptr) return;
  plan.dtype == DType::kFloat64 ? GatherWeights<double>(plan, rows) : GatherWeights<float>(plan, rows);
}

bool PairwiseExtent(const PairwisePlan& plan, RowRange rows, double* low, double* high) {
  const FlushDenormals flush;
  const double* position = plan.position;
  Vec<double> lows = Broadcast(position[rows.begin]), highs = lows, zeros = Zero<double>();
  for (int64_t k = rows.begin; k < rows.end; k += kLanes<double>) {
    const int64_t count = rows.end - k < kLanes<double> ? rows.end - k : kLanes<double>;
    Vec<double> v = LoadValid(position + k, count);
    if (count < kLanes<double>) v = FirstLanes<double>(count) ? v : Broadcast(position[rows.begin]);
    lows = v < lows ? v : lows;
    highs = v > highs ? v : highs;
    zeros += v - v;
  }
  *low = lows[0];
  *high = highs[0];
  for (int l = 1; l < kLanes<double>; ++l) {
    *low = lows[l] < *low ? lows[l] : *low;
    *high = highs[l] > *high ? highs[l] : *high;
  }
  return Sum<double>(zeros) == 0;
}

void PairwiseEvaluate(void* context, int64_t index) {
  const FlushDenormals flush;
  const auto& plan = *static_cast<const PairwisePlan*>(context);
  const PairwiseTask& task = plan.evaluate_tasks[index];
  task.block->direct ? PairBlockRows(plan, task) : EvaluateBlockRows(plan, task);
}

template <typename T>
void PairwiseFinish(void* context, int64_t index) {
  const FlushDenormals flush;
  const auto& plan = *static_cast<const PairwisePlan*>(context);
  const int64_t begin = index * kFinishRows;
  const int64_t end = begin + kFinishRows < plan.batch_size ? begin + kFinishRows : plan.batch_size;
  const double per_logit = plan.inverse_count / plan.temperature;
  double loss = 0, grad_margin = 0, grad_temperature = 0;
  for (int64_t k = begin; k < end; ++k) {
    const double weight = plan.sorted_weights == nullptr ? 1.0 : plan.sorted_weights[k];
    if (weight != 0) loss += weight * plan.value[k];
    if (plan.grad_weights != nullptr)
      static_cast<T*>(plan.grad_weights)[plan.order[k]] = static_cast<T>(plan.value[k] * plan.inverse_count);
    if (!plan.want_slopes) continue;
    const double above = weight == 0 ? 0.0 : weight * plan.slope_above[k];
    const double grad = (plan.slope_below[k] - above) * per_logit;
    grad_margin += above;
    // A row in no pair has no gradient, whatever its logit is.
    if (grad != 0) grad_temperature -= grad * plan.position[k];
    if (plan.grad_logits != nullptr) static_cast<T*>(plan.grad_logits)[plan.order[k]] = static_cast<T>(grad);
  }
  plan.finish_sums[3 * index] = loss * plan.inverse_count;
  plan.finish_sums[3 * index + 1] = grad_margin * plan.inverse_count;
  plan.finish_sums[3 * index + 2] = grad_temperature;
}

}  // namespace

extern const PairwiseKernels kPairwiseKernels;
const PairwiseKernels kPairwiseKernels = {
    PairwiseGather,
    PairwiseExtent,
    PairwiseMoments,
    PairwiseTranslate,
    PairwiseEvaluate,
    {PairwiseLeaves<float>, PairwiseLeaves<double>},
    {PairwiseFinish<float>, PairwiseFinish<double>},
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
