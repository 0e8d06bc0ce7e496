// What all kernels share at run time: the number of threads, and whether fastneg can run as it was asked to.
#ifndef FASTNEG_OPS_RUNTIME_H_
#define FASTNEG_OPS_RUNTIME_H_

#include "core/api.h"
#include "ops/kernel_context.h"

namespace fastneg::ops {

// False, with the failure recorded, if FASTNEG_ISA names an instruction set that is not available.
bool RuntimeIsUsable(KernelContext& context);

// Threads for a kernel: FASTNEG_NUM_THREADS if it is set; else what the process may use, at most TensorFlow's
// intra_op_parallelism_threads if that is set.
int NumThreads();

}  // namespace fastneg::ops

#endif  // FASTNEG_OPS_RUNTIME_H_
