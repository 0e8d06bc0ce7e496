// The passes of sampled_softmax_loss.
#include "core/cpu/shared/grads.h"
#include "core/cpu/shared/kernels.h"
#include "core/cpu/shared/pack_candidates.h"
#include "core/cpu/shared/score_block.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

extern const SharedKernels kSampledSoftmaxKernels;
const SharedKernels kSampledSoftmaxKernels = {
    {kWidthOfPanel<float>, kWidthOfPanel<double>},     {PackCandidates<float>, PackCandidates<double>},
    {ScoreBlock<float>, ScoreBlock<double>},           {CandidateGrads<float>, CandidateGrads<double>},
    {ScatterRowGrads<float>, ScatterRowGrads<double>},
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
