// The passes of sampled_softmax_loss.
#include "core/cpu/kernel_table.h"
#include "core/cpu/pack_candidates.h"
#include "core/cpu/score_block.h"
#include "core/cpu/shared_grads.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

extern const SharedKernels kSampledSoftmaxKernels;
const SharedKernels kSampledSoftmaxKernels = {
    {kPanelWidth<float>, kPanelWidth<double>},         {PackCandidates<float>, PackCandidates<double>},
    {ScoreBlock<float>, ScoreBlock<double>},           {CandidateGrads<float>, CandidateGrads<double>},
    {ScatterRowGrads<float>, ScatterRowGrads<double>},
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
