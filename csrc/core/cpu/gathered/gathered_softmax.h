// What the entries of the gathered losses share: checks, workspace, and the run of the passes. They differ in where a
// row's candidates lie, and in nothing else.
#ifndef FASTNEG_CORE_CPU_GATHERED_GATHERED_SOFTMAX_H_
#define FASTNEG_CORE_CPU_GATHERED_GATHERED_SOFTMAX_H_

#include "core/api.h"
#include "core/cpu/gathered/plan.h"
#include "core/cpu/kernel_table.h"

namespace fastneg::cpu {

// The array that a loss needs to find candidates, in the workspace.
struct CandidateArray {
  int64_t rows = 0;
  int64_t columns = 0;
  size_t element_bytes = 0;
};

struct GatheredCall {
  const KernelTable* kernels = nullptr;
  GatheredPlan plan;           // Its candidates are for the loss to fill in.
  void* candidates = nullptr;  // As CandidateArray says; not initialised.
};

// 0 for sizes that BeginGathered refuses.
size_t GatheredWorkspaceBytes(const GatheredSoftmaxArgs& args, const CandidateArray& candidates);

// Checks the arguments and fills in the call. An empty batch is done with kOk: call->kernels stays null then, and the
// loss must return.
Status BeginGathered(const GatheredSoftmaxArgs& args, const CandidateArray& candidates, GatheredCall* call);

// Runs the passes and stores the results.
void RunGathered(const GatheredSoftmaxArgs& args, const GatheredKernels& kernels, GatheredPlan* plan);

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_GATHERED_GATHERED_SOFTMAX_H_
