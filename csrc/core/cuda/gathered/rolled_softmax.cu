// softmax_loss_with_negative_mining on a CUDA device.
#include "core/cuda/api.h"
#include "core/cuda/gathered/gathered_softmax.h"

namespace fastneg::cuda {
namespace {

bool FewEnough(const RolledSoftmaxArgs& args) { return args.batch_size == 0 || args.num_negatives < args.batch_size; }

CandidateArray SortedShifts(const RolledSoftmaxArgs& args) { return {args.num_negatives, 1, sizeof(int)}; }

}  // namespace

size_t RolledSoftmaxWorkspaceBytes(const RolledSoftmaxArgs& args) {
  return FewEnough(args) ? GatheredWorkspaceBytes(args, SortedShifts(args)) : 0;
}

Status RolledSoftmax(const RolledSoftmaxArgs& args, Stream stream) {
  if (!FewEnough(args)) return Status::kInvalidSize;
  if (args.batch_size > 0 && args.shifts == nullptr) return Status::kNullPointer;
  GatheredCall call;
  const Status status = BeginGathered(args, SortedShifts(args), stream, &call);
  if (status != Status::kOk || call.kernels == nullptr) return status;
  call.plan.given_shifts = args.shifts;
  call.plan.shifts = static_cast<int*>(call.candidates);
  return call.kernels->rolled(call.plan, call.layout, stream);
}

}  // namespace fastneg::cuda
