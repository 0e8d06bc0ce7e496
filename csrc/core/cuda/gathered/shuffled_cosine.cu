// negative_cosine_loss on a CUDA device.
#include "core/cuda/api.h"
#include "core/cuda/common/launch.h"
#include "core/cuda/gathered/gathered_softmax.h"

namespace fastneg::cuda {
namespace {

bool IsIndexType(DType dtype) { return dtype == DType::kInt32 || dtype == DType::kInt64; }

CandidateArray Inverses(const ShuffledCosineArgs& args) {
  return {args.num_negatives, args.batch_size, sizeof(unsigned int)};
}

}  // namespace

size_t ShuffledCosineWorkspaceBytes(const ShuffledCosineArgs& args) {
  return IsIndexType(args.permutation_dtype) ? GatheredWorkspaceBytes(args, Inverses(args)) : 0;
}

Status ShuffledCosine(const ShuffledCosineArgs& args, Stream stream) {
  if (!IsIndexType(args.permutation_dtype)) return Status::kUnsupportedDType;
  if (args.batch_size > 0 && args.permutations == nullptr) return Status::kNullPointer;
  GatheredCall call;
  Status status = BeginGathered(args, Inverses(args), stream, &call);
  if (status != Status::kOk || call.kernels == nullptr) return status;
  call.plan.permutations = args.permutations;
  call.plan.permutations_are_64_bit = args.permutation_dtype == DType::kInt64;
  call.plan.inverses = static_cast<unsigned int*>(call.candidates);
  const size_t entries = static_cast<size_t>(args.num_negatives) * static_cast<size_t>(args.batch_size);
  status = Fill(call.plan.inverses, -1, entries * sizeof(unsigned int), stream);
  return status == Status::kOk ? call.kernels->shuffled(call.plan, call.layout, stream) : status;
}

}  // namespace fastneg::cuda
