// Which kernels this machine can run, and which are in use.
#ifndef FASTNEG_CORE_CPU_ISA_H_
#define FASTNEG_CORE_CPU_ISA_H_

#include "core/cpu/kernel_table.h"

namespace fastneg::cpu {

// The kernels of the active instruction set; null if FASTNEG_ISA asks for one that is not available.
const KernelTable* ActiveKernels();

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_ISA_H_
