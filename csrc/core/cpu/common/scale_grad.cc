#include <algorithm>

#include "core/api.h"
#include "core/cpu/isa.h"
#include "core/cpu/runtime/phases.h"
#include "core/sizes.h"

namespace fastneg {
namespace {

constexpr int64_t kScaleTask = 1 << 16;  // Elements: large enough to be worth handing to a thread.

struct ScaleContext {
  const ScaleGradArgs* args;
  const cpu::KernelTable* kernels;
};

void ScaleTask(void* context, int64_t index) {
  const auto& scale = *static_cast<const ScaleContext*>(context);
  const int64_t begin = index * kScaleTask;
  scale.kernels->common->scale_grad(*scale.args, begin, std::min(begin + kScaleTask, scale.args->size));
}

}  // namespace

Status ScaleGrad(const ScaleGradArgs& args) {
  ScaleContext context{&args, cpu::ActiveKernels()};
  if (context.kernels == nullptr) return Status::kIsaUnavailable;
  if (args.size < 0) return Status::kInvalidSize;
  if (args.size > 0 && (args.unit_grad == nullptr || args.out == nullptr)) return Status::kNullPointer;
  const Phase phase{CeilDiv(args.size, kScaleTask), ScaleTask};
  cpu::RunPhases(args.executor, &phase, 1, &context);
  return Status::kOk;
}

}  // namespace fastneg
