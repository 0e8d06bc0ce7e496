// The passes of softmax_loss_with_negative_mining.
#include "core/cpu/gathered/gather_item_grads.h"
#include "core/cpu/gathered/kernels.h"
#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/gathered/rolled_candidates.h"
#include "core/cpu/gathered/score_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

extern const GatheredKernels kRolledSoftmaxKernels;
const GatheredKernels kRolledSoftmaxKernels = {
    {PrepareItems<float>, PrepareItems<double>},
    {ScoreRows<float, RolledCandidates>, ScoreRows<double, RolledCandidates>},
    {GatherItemGrads<float, RolledCandidates>, GatherItemGrads<double, RolledCandidates>},
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
