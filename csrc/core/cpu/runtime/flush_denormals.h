// Subnormal numbers count as 0 while an object of this class lives: one in every function of the core that looks at
// values, and in every task.
//
// TensorFlow's threads flush subnormals and other threads do not, so without it a result could depend on which thread
// computed it. Subnormal operands are also many times slower, and nothing here needs them.
#ifndef FASTNEG_CORE_CPU_RUNTIME_FLUSH_DENORMALS_H_
#define FASTNEG_CORE_CPU_RUNTIME_FLUSH_DENORMALS_H_

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define FASTNEG_ALWAYS_INLINE inline __attribute__((always_inline))

namespace fastneg::cpu {

// Its functions are always inlined, as everything is that objects of several instruction sets share.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FASTNEG_ALWAYS_INLINE FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlush); }
  FASTNEG_ALWAYS_INLINE ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kFlush = 0x8040;  // Results (bit 15) and operands (bit 6).
  const unsigned saved_;
#elif defined(__aarch64__)
  FASTNEG_ALWAYS_INLINE FlushDenormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved_ | kFlush));
  }
  FASTNEG_ALWAYS_INLINE ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  static constexpr uint64_t kFlush = uint64_t{1} << 24;
  uint64_t saved_;
#else
  FASTNEG_ALWAYS_INLINE FlushDenormals() {}
  FASTNEG_ALWAYS_INLINE ~FlushDenormals() {}

 private:
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

#undef FASTNEG_ALWAYS_INLINE

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_RUNTIME_FLUSH_DENORMALS_H_
