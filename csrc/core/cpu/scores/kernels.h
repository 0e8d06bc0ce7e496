// The pass of a loss on scores that are given, of one instruction set. Entry 0 of a pair is for float, entry 1 for
// double.
#ifndef FASTNEG_CORE_CPU_SCORES_KERNELS_H_
#define FASTNEG_CORE_CPU_SCORES_KERNELS_H_

#include <cstdint>

namespace fastneg::cpu {

struct SvSoftmaxKernels {
  void (*score_rows[2])(void* plan, int64_t task);  // The context is an SvSoftmaxPlan pointer.
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SCORES_KERNELS_H_
