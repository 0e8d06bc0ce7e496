// Loops that reach this machine's limits: multiply-adds on registers, and reads of a buffer.
#ifndef FASTNEG_CORE_CPU_COMMON_PROBES_H_
#define FASTNEG_CORE_CPU_COMMON_PROBES_H_

#include "core/cpu/simd/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// Runs `rounds` rounds of independent multiply-adds; returns the number of floating-point operations.
inline double ProbeFma(int64_t rounds) {
  constexpr int kChains = 12;
  Vec<float> sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = Broadcast(static_cast<float>(c));
  Vec<float> factor = Broadcast(0.999f), term = Broadcast(0.001f);
  __asm__ volatile("" : "+m"(factor), "+m"(term));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = sums[c] * factor + term;
  }
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : "+m"(sums[c]));
  return 2.0 * kChains * kLanes<float> * static_cast<double>(rounds);
}

// Reads `size` floats, a multiple of 1024, 64-byte aligned.
inline void ProbeRead(const float* p, int64_t size) {
  constexpr int kChains = 8;
  Vec<float> sums[kChains] = {};
  for (int64_t i = 0; i < size; i += kChains * kLanes<float>) {
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) sums[c] += LoadAligned(p + i + c * kLanes<float>);
  }
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : "+m"(sums[c]));
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_COMMON_PROBES_H_
