// The passes of negative_cosine_loss.
#include "core/cpu/gathered/gather_shuffled_grads.h"
#include "core/cpu/gathered/kernels.h"
#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/gathered/score_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {
namespace {

// Tasks behind those for the tiles of item rows: one for each permutation.
template <typename T>
void PrepareItemsAndPermutations(void* context, int64_t task) {
  GatheredPlan* plan = static_cast<GatheredPlan*>(context);
  if (task < plan->num_tiles) return PrepareItems<T>(context, task);
  plan->prepare_permutation(*plan, task - plan->num_tiles);
}

}  // namespace

extern const GatheredKernels kShuffledCosineKernels;
const GatheredKernels kShuffledCosineKernels = {
    {PrepareItemsAndPermutations<float>, PrepareItemsAndPermutations<double>},
    {ScoreRows<float>, ScoreRows<double>},
    {GatherShuffledGrads<float>, GatherShuffledGrads<double>},
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
