// The kernels of one instruction set, one table for each loss; kernel_table.cc gathers them.
//
// <family>/kernels.h says what is in a table, and <family>/<stem>_kernels.cc defines it, once for each instruction set,
// in the namespace FASTNEG_ISA_NAMESPACE.
#ifndef FASTNEG_CORE_CPU_KERNEL_TABLE_H_
#define FASTNEG_CORE_CPU_KERNEL_TABLE_H_

#include "core/cpu/common/kernels.h"
#include "core/cpu/gathered/kernels.h"
#include "core/cpu/pairwise/kernels.h"
#include "core/cpu/scores/kernels.h"
#include "core/cpu/shared/kernels.h"

namespace fastneg::cpu {

struct KernelTable {
  const CommonKernels* common;
  const GatheredKernels* rolled_softmax;
  const GatheredKernels* shuffled_cosine;
  const SampledKernels* sampled_softmax;
  const InBatchKernels* in_batch_softmax;
  const SvSoftmaxKernels* sv_softmax;
  const PairwiseKernels* pairwise;
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_KERNEL_TABLE_H_
