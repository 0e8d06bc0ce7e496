// The passes of softmax_loss_with_negative_mining.
#include "core/cpu/gathered/gather_rolled_grads.h"
#include "core/cpu/gathered/kernels.h"
#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/gathered/score_rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

extern const GatheredKernels kRolledSoftmaxKernels;
const GatheredKernels kRolledSoftmaxKernels = {
    {PrepareItems<float>, PrepareItems<double>},
    {ScoreRows<float>, ScoreRows<double>},
    {GatherRolledGrads<float>, GatherRolledGrads<double>},
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
