// The passes of in_batch_softmax_loss for bfloat16, of an instruction set that multiplies it.
#include "core/cpu/shared/in_batch_pairs.h"
#include "core/cpu/shared/kernels.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

extern const InBatchPairKernels kInBatchPairKernels;
const InBatchPairKernels kInBatchPairKernels = {kInMatrixRegisters, PackPairs, ScorePairBlock, PairCandidateGrads};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
