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

// Hands over phases a few at a time, so that no list of them has to be stored.
class PhaseQueue {
 public:
  PhaseQueue(const Executor& executor, void* context) : executor_(executor), context_(context) {}

  void Push(const Phase& phase) {
    if (size_ == kCapacity) Flush();
    phases_[size_++] = phase;
  }

  void Flush() {
    RunPhases(executor_, phases_, size_, context_);
    size_ = 0;
  }

 private:
  static constexpr int kCapacity = 32;
  const Executor& executor_;
  void* context_;
  Phase phases_[kCapacity];
  int size_ = 0;
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_RUNTIME_PHASES_H_
