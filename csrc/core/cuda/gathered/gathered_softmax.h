// What the entries of the gathered losses share: checks, workspace, and the run of the passes. They differ in where a
// row's candidates lie, and in nothing else.
#ifndef FASTNEG_CORE_CUDA_GATHERED_GATHERED_SOFTMAX_H_
#define FASTNEG_CORE_CUDA_GATHERED_GATHERED_SOFTMAX_H_

#include "core/cuda/api.h"
#include "core/cuda/gathered/kernels.h"
#include "core/cuda/gathered/plan.h"

namespace fastneg::cuda {

// The array that a loss needs to find candidates, in the workspace.
struct CandidateArray {
  int64_t rows = 0;
  int64_t columns = 0;
  size_t element_bytes = 0;
};

struct GatheredCall {
  GatheredPlan plan;           // Its candidates are for the loss to fill in.
  void* candidates = nullptr;  // As CandidateArray says; not initialised.
  const GatheredKernels* kernels = nullptr;
  RowLayout layout = RowLayout::kLongRows;
};

// 0 for sizes that BeginGathered refuses.
size_t GatheredWorkspaceBytes(const GatheredSoftmaxArgs& args, const CandidateArray& candidates);

// Checks the arguments, fills in the call and puts the preparation of the workspace on the stream. An empty batch is
// done with kOk: call->kernels stays null then, and the loss must return.
Status BeginGathered(const GatheredSoftmaxArgs& args, const CandidateArray& candidates, Stream stream,
                     GatheredCall* call);

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_GATHERED_SOFTMAX_H_
