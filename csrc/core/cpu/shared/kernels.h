// The passes of a loss all of whose rows score the same candidates, of one instruction set. Contexts are SharedPlan
// pointers. Entry 0 of a pair is for float, entry 1 for double.
#ifndef FASTNEG_CORE_CPU_SHARED_KERNELS_H_
#define FASTNEG_CORE_CPU_SHARED_KERNELS_H_

#include <cstdint>

namespace fastneg::cpu {

struct SharedKernels {
  int64_t panel_width[2];  // Candidates that are scored side by side.
  void (*pack_candidates[2])(void* plan, int64_t panel);
  void (*score_block[2])(void* plan, int64_t block);
  void (*candidate_grads[2])(void* plan, int64_t index);  // index: round * num_panels + panel.
  void (*scatter_row_grads[2])(void* plan, int64_t task);
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_KERNELS_H_
