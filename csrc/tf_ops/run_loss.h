// Running a function of the core: threads from fastneg's pool, workspace from TensorFlow.
#ifndef FASTNEG_TF_OPS_RUN_LOSS_H_
#define FASTNEG_TF_OPS_RUN_LOSS_H_

#include <cstddef>
#include <string>

#include "core/api.h"
#include "tf_ops/checks.h"
#include "tf_ops/kernel_context.h"
#include "tf_ops/runtime.h"

namespace fastneg::tf_ops {

// Returns what `loss` returns, or kOk without running it if there is no memory: `context` knows that.
template <typename Args>
Status RunLoss(KernelContext& context, size_t (*workspace_bytes)(const Args&), Status (*loss)(const Args&),
               Args* args) {
  args->executor = PoolExecutor(WorthwhileThreads(*args, NumThreads()));
  args->workspace_bytes = workspace_bytes(*args);
  const AlignedTemp workspace(context, args->workspace_bytes);
  if (!context.ok()) return Status::kOk;
  args->workspace = workspace.data();
  return loss(*args);
}

// Fails for any status but kOk. Those that bad input leads to have been dealt with before.
inline void CheckStatus(KernelContext& context, const char* op, Status status) {
  if (status == Status::kOk) return;
  context.Fail(TF_INTERNAL, std::string("Fastneg>") + op + ": " + CoreStatusText(status) + ".");
}

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_RUN_LOSS_H_
