// All kernels of one instruction set. Compiled once for each, like the <family>_kernels.cc that define them.
#include "core/cpu/kernel_table.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

extern const CommonKernels kCommonKernels;
extern const GatheredKernels kRolledSoftmaxKernels;
extern const GatheredKernels kShuffledCosineKernels;
extern const SampledKernels kSampledSoftmaxKernels;
extern const InBatchKernels kInBatchSoftmaxKernels;
extern const SvSoftmaxKernels kSvSoftmaxKernels;
extern const PairwiseKernels kPairwiseKernels;

extern const KernelTable kTable;
const KernelTable kTable = {
    &kCommonKernels,         &kRolledSoftmaxKernels, &kShuffledCosineKernels, &kSampledSoftmaxKernels,
    &kInBatchSoftmaxKernels, &kSvSoftmaxKernels,     &kPairwiseKernels,
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
