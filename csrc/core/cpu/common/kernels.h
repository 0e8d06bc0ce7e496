// What belongs to no loss in particular, of one instruction set.
#ifndef FASTNEG_CORE_CPU_COMMON_KERNELS_H_
#define FASTNEG_CORE_CPU_COMMON_KERNELS_H_

#include <cstdint>

#include "core/api.h"

namespace fastneg::cpu {

struct CommonKernels {
  // Elements begin .. end - 1 of a ScaleGradArgs.
  void (*scale_grad)(const ScaleGradArgs& args, int64_t begin, int64_t end);
  // See probes.h.
  double (*probe_fma)(int64_t rounds);
  void (*probe_read)(const float* p, int64_t size);
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_COMMON_KERNELS_H_
