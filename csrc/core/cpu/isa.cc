#include "core/cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/api.h"
#include "core/cpu/runtime/cpuid.h"
#include "core/cpu/runtime/matrix_registers.h"

namespace fastneg::cpu {
namespace isa_baseline {
extern const KernelTable kTable;
}
#ifdef FASTNEG_HAVE_X86_64_V3
namespace isa_v3 {
extern const KernelTable kTable;
}
#endif
#ifdef FASTNEG_HAVE_X86_64_V4
namespace isa_v4 {
extern const KernelTable kTable;
}
#endif
#ifdef FASTNEG_HAVE_X86_64_V4_BF16
namespace isa_v4_bf16 {
extern const InBatchPairKernels kInBatchPairKernels;
}
#endif
#ifdef FASTNEG_HAVE_X86_64_V4_AMX
namespace isa_v4_amx {
extern const InBatchPairKernels kInBatchPairKernels;
}
#endif
#ifdef FASTNEG_HAVE_EMULATED_BF16
namespace isa_v3_bf16 {
extern const InBatchPairKernels kInBatchPairKernels;
}
#endif

namespace {

constexpr int kMaxIsas = 6;

// The kernels of an instruction set, and those that multiply bfloat16 besides.
struct TableWithPairs {
  InBatchKernels in_batch_softmax;
  KernelTable table;

  TableWithPairs(const KernelTable& rest, const InBatchPairKernels* pairs)
      : in_batch_softmax(*rest.in_batch_softmax), table(rest) {
    in_batch_softmax.pairs = pairs;
    table.in_batch_softmax = &in_batch_softmax;
  }
};

#ifdef FASTNEG_HAVE_X86_64_V3
// movbe, f16c and lzcnt: compilers know these for __builtin_cpu_supports since GCC 11 only.
bool HasRestOfV3() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_MOVBE) || !(ecx & bit_F16C)) return false;
  return __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && (ecx & bit_LZCNT);
}
#endif

struct IsaList {
  const char* names[kMaxIsas + 1] = {};
  const KernelTable* tables[kMaxIsas] = {};
  int count = 0;
  int requested = -1;  // Index that FASTNEG_ISA names; -1 if it names none that is available.
  const char* unavailable_request = nullptr;

  IsaList() {
    Add("baseline", &isa_baseline::kTable);
#if defined(FASTNEG_HAVE_X86_64_V3)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && HasRestOfV3();
#if defined(FASTNEG_HAVE_EMULATED_BF16)
    static const TableWithPairs emulated(isa_v3::kTable, &isa_v3_bf16::kInBatchPairKernels);
    if (v3) Add("x86-64-v3-bf16", &emulated.table);  // For tests, and so not the last.
#endif
    if (v3) Add("x86-64-v3", &isa_v3::kTable);
#if defined(FASTNEG_HAVE_X86_64_V4)
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
#if defined(FASTNEG_HAVE_X86_64_V4_BF16)
    static const TableWithPairs with_pairs(isa_v4::kTable, &isa_v4_bf16::kInBatchPairKernels);
    const bool bf16 = v4 && __builtin_cpu_supports("avx512bf16");
    // Intel's processors multiply and add numbers of float in half the time that as many in pairs take.
    const bool pairs_are_slow = __builtin_cpu_is("intel");
    if (bf16 && pairs_are_slow) Add("x86-64-v4-bf16", &with_pairs.table);
#endif
    if (v4) Add("x86-64-v4", &isa_v4::kTable);
#if defined(FASTNEG_HAVE_X86_64_V4_BF16)
    if (bf16 && !pairs_are_slow) Add("x86-64-v4-bf16", &with_pairs.table);
#endif
#if defined(FASTNEG_HAVE_X86_64_V4_AMX)
    static const TableWithPairs with_tiles(isa_v4::kTable, &isa_v4_amx::kInBatchPairKernels);
    if (bf16 && HasMatrixRegisters()) Add("x86-64-v4-amx", &with_tiles.table);
#endif
#endif
#endif
    const char* name = std::getenv("FASTNEG_ISA");
    if (name == nullptr || *name == '\0') {
      requested = count - 1;
    } else {
      requested = Find(name);
      if (requested < 0) unavailable_request = name;
    }
  }

  void Add(const char* name, const KernelTable* table) {
    names[count] = name;
    tables[count] = table;
    ++count;
  }

  int Find(const char* name) const {
    for (int i = 0; i < count; ++i) {
      if (std::strcmp(names[i], name) == 0) return i;
    }
    return -1;
  }
};

const IsaList& Isas() {
  static const IsaList list;
  return list;
}

std::atomic<int>& ActiveIndex() {
  static std::atomic<int> index{Isas().requested};
  return index;
}

}  // namespace

const KernelTable* ActiveKernels() {
  const int index = ActiveIndex().load(std::memory_order_relaxed);
  return index < 0 ? nullptr : Isas().tables[index];
}

}  // namespace fastneg::cpu

namespace fastneg {

const char* const* AvailableIsas() { return cpu::Isas().names; }

const char* ActiveIsa() {
  const int index = cpu::ActiveIndex().load(std::memory_order_relaxed);
  return index < 0 ? nullptr : cpu::Isas().names[index];
}

bool SetIsa(const char* name) {
  const int index = cpu::Isas().Find(name);
  if (index < 0) return false;
  cpu::ActiveIndex().store(index, std::memory_order_relaxed);
  return true;
}

const char* UnavailableRequestedIsa() {
  return cpu::ActiveKernels() == nullptr ? cpu::Isas().unavailable_request : nullptr;
}

}  // namespace fastneg
