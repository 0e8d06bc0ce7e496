// The passes of a loss whose rows have candidates of their own, of one instruction set. Contexts are GatheredPlan
// pointers, tasks tiles of rows. Entry 0 of a pair is for float, entry 1 for double.
#ifndef FASTNEG_CORE_CPU_GATHERED_KERNELS_H_
#define FASTNEG_CORE_CPU_GATHERED_KERNELS_H_

#include <cstdint>

namespace fastneg::cpu {

struct GatheredKernels {
  void (*prepare_items[2])(void* plan, int64_t task);  // Whatever else has to be done first included.
  void (*score_rows[2])(void* plan, int64_t tile);
  void (*gather_item_grads[2])(void* plan, int64_t tile);
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_GATHERED_KERNELS_H_
