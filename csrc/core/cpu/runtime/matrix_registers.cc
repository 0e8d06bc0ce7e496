#include "core/cpu/runtime/matrix_registers.h"

#include "core/cpu/runtime/cpuid.h"

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace fastneg::cpu {

#if defined(__linux__) && defined(__x86_64__)

namespace {

// Of arch_prctl, since Linux 5.16.
constexpr int kGetSupported = 0x1021, kRequest = 0x1023, kTileData = 18;

}  // namespace

bool HasMatrixRegisters() {
  constexpr unsigned kBFloat16 = 1u << 22, kTile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & kBFloat16) == 0 || (d & kTile) == 0) return false;
  uint64_t supported = 0;
  if (syscall(SYS_arch_prctl, kGetSupported, &supported) != 0) return false;
  return (supported >> kTileData & 1) != 0;
}

bool AcquireMatrixRegisters() {
  static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return granted;
}

#else

bool HasMatrixRegisters() { return false; }
bool AcquireMatrixRegisters() { return false; }

#endif

}  // namespace fastneg::cpu
