// The passes of the losses all of whose rows score the same candidates, of one instruction set. Entry 0 of a pair is
// for float, entry 1 for double.
#ifndef FASTNEG_CORE_CPU_SHARED_KERNELS_H_
#define FASTNEG_CORE_CPU_SHARED_KERNELS_H_

#include <cstdint>

namespace fastneg::cpu {

// Contexts are SampledPlan pointers.
struct SampledKernels {
  int64_t panel_width[2];  // Candidates that are scored side by side.
  void (*pack[2])(void* plan, int64_t panel);
  void (*score_block[2])(void* plan, int64_t block);
  void (*candidate_grads[2])(void* plan, int64_t index);  // index: round * num_panels + panel.
  void (*scatter_table_grads[2])(void* plan, int64_t task);
};

// What takes the place of the passes of these names where bfloat16 is multiplied in pairs.
struct InBatchPairKernels {
  bool in_matrix_registers;  // Which a process has to ask for: runtime/matrix_registers.h.
  void (*pack)(void* plan, int64_t panel);
  void (*score_block)(void* plan, int64_t block);
  void (*candidate_grads)(void* plan, int64_t index);
};

// The passes of the in-batch loss and the ranks. Contexts are InBatchPlan pointers.
struct InBatchKernels {
  int64_t panel_width[2];
  void (*pack[2])(void* plan, int64_t panel);
  void (*score_block[2])(void* plan, int64_t block);
  void (*candidate_grads[2])(void* plan, int64_t index);  // index: round * num_panels + panel, here and below.
  void (*finish_candidates[2])(void* plan, int64_t panel);
  // Where candidates are classified too.
  void (*own_logits[2])(void* plan, int64_t block);
  void (*sum_block[2])(void* plan, int64_t block);
  void (*merge_columns[2])(void* plan, int64_t index);
  void (*finish_columns[2])(void* plan, int64_t panel);
  void (*maxima_of_columns[2])(void* plan, int64_t block);
  void (*merge_maxima[2])(void* plan, int64_t index);
  void (*grad_block[2])(void* plan, int64_t block);

  void (*rank_block[2])(void* plan, int64_t block);

  const InBatchPairKernels* pairs;  // Null where the machine does not multiply bfloat16.
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_KERNELS_H_
