// What the entries of the in-batch loss and of the ranks have in common: checks, and the scores' part of the plan.
#ifndef FASTNEG_CORE_CPU_SHARED_IN_BATCH_CALL_H_
#define FASTNEG_CORE_CPU_SHARED_IN_BATCH_CALL_H_

#include "core/api.h"
#include "core/cpu/runtime/phases.h"
#include "core/cpu/shared/blocks.h"
#include "core/cpu/shared/in_batch_plan.h"
#include "core/cpu/shared/kernels.h"
#include "core/workspace.h"

namespace fastneg::cpu {

Status CheckInBatchSizes(const InBatchScoresArgs& args);

// Pointers, and the values of positives, where B > 0.
Status CheckInBatchInputs(const InBatchScoresArgs& args);

// Multiply-adds of one product of all queries with all candidates.
double InBatchProducts(const InBatchScoresArgs& args);

// num_threads, or 1 where handing work to other threads would take longer than it saves.
int ThreadsForProducts(double products, int num_threads);

// Whether scores of hard negatives are changed, or the gradient by t, which is theirs, is wanted.
inline bool Reweights(const InBatchSoftmaxArgs& args) {
  return args.t != 1 || (args.grad_scalars != nullptr && args.t_is_trained);
}

// The part of a plan that scores need: sizes, inputs, and arrays cut from a workspace.
struct InBatchSlots {
  bool grads = false;         // Rows are multiplied.
  bool keeps_panels = false;  // Blocks keep the scores, or coefficients, of all candidates.
  bool pairs = false;         // bfloat16 is multiplied in pairs, and coefficients are kept as such.
  int64_t extra_bytes = 0;    // What a slot has besides scores, inputs and gradients.
  int64_t kept_scores = 0;    // Bytes of scores up to which all blocks have a slot.
};

class InBatchLayout {
 public:
  InBatchPlan LayOut(const InBatchScoresArgs& args, const InBatchKernels& kernels, const InBatchSlots& slots,
                     Workspace* workspace);

  // Fills what belongs to no pass. Only where the workspace has memory.
  void Fill(const InBatchScoresArgs& args, InBatchPlan* plan);

 private:
  uint8_t* is_positive_ = nullptr;
  SameIdsBuilder same_ids_;
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_IN_BATCH_CALL_H_
