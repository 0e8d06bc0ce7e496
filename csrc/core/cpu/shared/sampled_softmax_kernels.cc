// The passes of sampled_softmax_loss.
#include "core/cpu/shared/kernels.h"
#include "core/cpu/shared/sampled_candidates.h"
#include "core/cpu/shared/sampled_grads.h"
#include "core/cpu/shared/sampled_losses.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

extern const SampledKernels kSampledSoftmaxKernels;
const SampledKernels kSampledSoftmaxKernels = {
    {kWidthOfPanel<float>, kWidthOfPanel<double>},
    {PackSampled<float>, PackSampled<double>},
    {ScoreSampledBlock<float>, ScoreSampledBlock<double>},
    {SampledCandidateGrads<float>, SampledCandidateGrads<double>},
    {ScatterTableGrads<float>, ScatterTableGrads<double>},
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
