// The kernels of one instruction set, one table for each family of losses.
//
// <family>_kernels.cc defines a table, once for each instruction set, in the namespace FASTNEG_ISA_NAMESPACE;
// kernel_table.cc gathers them. Entry 0 of a pair is for float, entry 1 for double.
#ifndef FASTNEG_CORE_CPU_KERNEL_TABLE_H_
#define FASTNEG_CORE_CPU_KERNEL_TABLE_H_

#include <cstdint>

#include "core/api.h"
#include "core/cpu/pairwise_plan.h"

namespace fastneg::cpu {

struct CommonKernels {
  // Elements begin .. end - 1 of a ScaleGradArgs.
  void (*scale_grad)(const ScaleGradArgs& args, int64_t begin, int64_t end);
  // See probes.h.
  double (*probe_fma)(int64_t rounds);
  void (*probe_read)(const float* p, int64_t size);
};

// The passes of a loss whose rows have candidates of their own. Contexts are GatheredPlan pointers, tasks tiles of
// rows.
struct GatheredKernels {
  void (*prepare_items[2])(void* plan, int64_t task);  // Whatever else has to be done first included.
  void (*score_rows[2])(void* plan, int64_t tile);
  void (*gather_item_grads[2])(void* plan, int64_t tile);
};

struct SvSoftmaxKernels {
  void (*score_rows[2])(void* plan, int64_t task);  // The context is an SvSoftmaxPlan pointer.
};

// The passes of the pairwise loss (pairwise_plan.h). Contexts are PairwisePlan pointers.
struct PairwiseKernels {
  // Fills position and sorted_weights of one session's rows.
  void (*gather)(const PairwisePlan& plan, RowRange rows);
  // Smallest and largest position of some rows; false if one of them is NaN or infinite.
  bool (*extent)(const PairwisePlan& plan, RowRange rows, double* low, double* high);
  void (*moments)(void* plan, int64_t moment_task);
  void (*translate)(void* plan, int64_t task);  // 2 * block + the side that gets its polynomials.
  void (*evaluate)(void* plan, int64_t evaluate_task);
  void (*leaves[2])(void* plan, int64_t task);
  void (*finish[2])(void* plan, int64_t task);
};

// The passes of a loss all of whose rows score the same candidates. Contexts are SharedPlan pointers.
struct SharedKernels {
  int64_t panel_width[2];  // Candidates that are scored side by side.
  void (*pack_candidates[2])(void* plan, int64_t panel);
  void (*score_block[2])(void* plan, int64_t block);
  void (*candidate_grads[2])(void* plan, int64_t index);  // index: round * num_panels + panel.
  void (*scatter_row_grads[2])(void* plan, int64_t task);
};

struct KernelTable {
  const CommonKernels* common;
  const GatheredKernels* rolled_softmax;
  const GatheredKernels* shuffled_cosine;
  const SharedKernels* sampled_softmax;
  const SvSoftmaxKernels* sv_softmax;
  const PairwiseKernels* pairwise;
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_KERNEL_TABLE_H_
