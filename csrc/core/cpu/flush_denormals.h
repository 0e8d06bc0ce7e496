// Subnormal numbers count as 0 while an object of this class lives.
//
// TensorFlow's threads flush subnormals and other threads do not, so without it a result could depend on which thread
// computed it. Subnormal operands are also many times slower, and nothing here needs them.
#ifndef FASTNEG_CORE_CPU_FLUSH_DENORMALS_H_
#define FASTNEG_CORE_CPU_FLUSH_DENORMALS_H_

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/cpu/simd.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

class FlushDenormals {
 public:
#if defined(__SSE2__)
  FASTNEG_INLINE FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlush); }
  FASTNEG_INLINE ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kFlush = 0x8040;  // Results (bit 15) and operands (bit 6).
  const unsigned saved_;
#elif defined(__aarch64__)
  FASTNEG_INLINE FlushDenormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved_ | kFlush));
  }
  FASTNEG_INLINE ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  static constexpr uint64_t kFlush = uint64_t{1} << 24;
  uint64_t saved_;
#else
  FASTNEG_INLINE FlushDenormals() {}
  FASTNEG_INLINE ~FlushDenormals() {}

 private:
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_FLUSH_DENORMALS_H_
