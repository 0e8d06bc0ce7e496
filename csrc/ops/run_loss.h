// Running a function of the core, on the CPU with threads from fastneg's pool, or on a device.
#ifndef FASTNEG_OPS_RUN_LOSS_H_
#define FASTNEG_OPS_RUN_LOSS_H_

#include <cstddef>
#include <string>
#include <type_traits>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/kernel_context.h"

namespace fastneg::ops {

// Whether a Device has this loss.
template <typename Args>
constexpr bool kRunsOnDevices = std::is_base_of_v<GatheredSoftmaxArgs, Args> || std::is_same_v<Args, SvSoftmaxArgs>;

// Returns what `loss`, or its counterpart on a device, returns; kOk without running anything if there is no
// memory: `context` knows that.
template <typename Args>
Status RunLoss(KernelContext& context, size_t (*workspace_bytes)(const Args&), Status (*loss)(const Args&),
               Args* args) {
  if constexpr (kRunsOnDevices<Args>) {
    if (const Device* device = context.device()) {
      args->workspace_bytes = device->WorkspaceBytes(*args);
      const AlignedTemp workspace(context, args->workspace_bytes);
      if (!context.ok()) return Status::kOk;
      args->workspace = workspace.data();
      return device->Run(*args);
    }
  }
  args->executor = PoolExecutor(WorthwhileThreads(*args, context.num_threads()));
  args->workspace_bytes = workspace_bytes(*args);
  const AlignedTemp workspace(context, args->workspace_bytes);
  if (!context.ok()) return Status::kOk;
  args->workspace = workspace.data();
  return loss(*args);
}

// Fails for any status but kOk. Those that bad input leads to have been dealt with before.
inline void CheckStatus(KernelContext& context, const char* op, Status status) {
  if (status == Status::kOk) return;
  context.Fail(ErrorCode::kInternal, std::string("Fastneg>") + op + ": " + CoreStatusText(status, context.device()));
}

}  // namespace fastneg::ops

#endif  // FASTNEG_OPS_RUN_LOSS_H_
