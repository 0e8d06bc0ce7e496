// The passes of the pairwise loss (plan.h), of one instruction set. Contexts are PairwisePlan pointers. Entry 0 of a
// pair is for float, entry 1 for double.
#ifndef FASTNEG_CORE_CPU_PAIRWISE_KERNELS_H_
#define FASTNEG_CORE_CPU_PAIRWISE_KERNELS_H_

#include <cstdint>

#include "core/cpu/pairwise/plan.h"

namespace fastneg::cpu {

struct PairwiseKernels {
  // Fills position and sorted_weights of one session's rows.
  void (*gather)(const PairwisePlan& plan, RowRange rows);
  // Smallest and largest position of some rows; false if one of them is NaN or infinite.
  bool (*extent)(const PairwisePlan& plan, RowRange rows, double* low, double* high);
  void (*moments)(void* plan, int64_t moment_task);
  void (*translate)(void* plan, int64_t task);  // 2 * block + the side that gets its polynomials.
  void (*evaluate)(void* plan, int64_t evaluate_task);
  void (*leaves[2])(void* plan, int64_t task);
  void (*finish[2])(void* plan, int64_t task);
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_PAIRWISE_KERNELS_H_
