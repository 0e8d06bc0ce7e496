// Which calls of the in-batch loss multiply bfloat16 in pairs.
#ifndef FASTNEG_CORE_CPU_SHARED_USES_PAIRS_H_
#define FASTNEG_CORE_CPU_SHARED_USES_PAIRS_H_

#include "core/api.h"
#include "core/cpu/shared/kernels.h"

namespace fastneg::cpu {

// Whether sizes and options are such that pairs serve, if all numbers are finite.
bool MayUsePairs(const InBatchSoftmaxArgs& args, const InBatchKernels& kernels);

// Whether all bfloat16 numbers of queries and candidates are finite: only products of matrices as a whole are done in
// pairs, so a coefficient of 0 could not take out anything else.
bool AreFinite(const InBatchSoftmaxArgs& args);

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_USES_PAIRS_H_
