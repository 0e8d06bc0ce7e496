// Running phases on whatever the caller of the core provides.
#ifndef FASTNEG_CORE_CPU_RUNTIME_PHASES_H_
#define FASTNEG_CORE_CPU_RUNTIME_PHASES_H_

#include "core/api.h"

namespace fastneg::cpu {

inline void RunPhases(const Executor& executor, const Phase* phases, int num_phases, void* context) {
  if (executor.run != nullptr) return executor.run(executor.self, phases, num_phases, context);
  for (int p = 0; p < num_phases; ++p) {
    for (int64_t n = 0; n < phases[p].num_tasks; ++n) phases[p].task(context, phases[p].first_index + n);
  }
}

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_RUNTIME_PHASES_H_
