// softmax_loss_with_negative_mining on the CPU.
#include <algorithm>

#include "core/api.h"
#include "core/cpu/gathered/gathered_softmax.h"
#include "core/cpu/runtime/flush_denormals.h"

namespace fastneg {
namespace {

// Shifts into 1 .. B-1 and into order: the loss does not depend on theirs, and neighbours share candidate rows.
Status SortShifts(const RolledSoftmaxArgs& args, int64_t* sorted) {
  for (int64_t k = 0; k < args.num_negatives; ++k) {
    const int64_t remainder = args.shifts[k] % args.batch_size;
    if (remainder == 0) {
      if (args.error_index != nullptr) *args.error_index = k;
      return Status::kShiftIsMultiple;
    }
    sorted[k] = remainder < 0 ? remainder + args.batch_size : remainder;
  }
  std::sort(sorted, sorted + args.num_negatives);
  return Status::kOk;
}

bool FewEnough(const RolledSoftmaxArgs& args) { return args.batch_size == 0 || args.num_negatives < args.batch_size; }

cpu::CandidateArray SortedShifts(const RolledSoftmaxArgs& args) { return {args.num_negatives, 1, sizeof(int64_t)}; }

}  // namespace

size_t RolledSoftmaxWorkspaceBytes(const RolledSoftmaxArgs& args) {
  return FewEnough(args) ? cpu::GatheredWorkspaceBytes(args, SortedShifts(args)) : 0;
}

Status RolledSoftmax(const RolledSoftmaxArgs& args) {
  const cpu::FlushDenormals flush;
  cpu::GatheredCall call;
  if (!FewEnough(args)) return Status::kInvalidSize;
  if (const Status status = cpu::BeginGathered(args, SortedShifts(args), &call); status != Status::kOk) return status;
  if (call.kernels == nullptr) return Status::kOk;
  if (args.shifts == nullptr) return Status::kNullPointer;
  int64_t* shifts = static_cast<int64_t*>(call.candidates);
  if (const Status status = SortShifts(args, shifts); status != Status::kOk) return status;
  call.plan.shifts = shifts;
  cpu::RunGathered(args, *call.kernels->rolled_softmax, &call.plan);
  return Status::kOk;
}

}  // namespace fastneg
