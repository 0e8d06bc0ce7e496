// negative_cosine_loss on the CPU.
#include <algorithm>
#include <type_traits>

#include "core/api.h"
#include "core/cpu/gathered/gathered_softmax.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/sizes.h"

namespace fastneg {
namespace {

using cpu::GatheredPlan;

// Where permutation k goes wrong: its first entry that is out of range or not new.
template <typename Index>
int64_t FirstBadEntry(const Index* source, int64_t size, int32_t* inverse) {
  std::fill(inverse, inverse + size, -1);
  int64_t i = 0;
  for (; i < size; ++i) {
    const int64_t j = source[i];
    if (j < 0 || j >= size || inverse[j] >= 0) break;
    inverse[j] = static_cast<int32_t>(i);
  }
  return i;
}

// Copies permutation k and inverts it. What stands behind the inverse tells where the first entry is that is out of
// range or not new, or -1.
//
// Entries in range are a permutation if together they leave no element of the inverse as it was. So no entry has to
// wait for what the ones before it wrote.
template <typename Index>
void PreparePermutation(const GatheredPlan& plan, int64_t k) {
  const int64_t size = plan.batch_size;
  const Index* source = static_cast<const Index*>(plan.given_permutations) + k * size;
  int32_t* permutation = plan.permutations + k * plan.permutation_stride;
  int32_t* inverse = plan.inverses + k * plan.permutation_stride;
  using Unsigned = std::make_unsigned_t<Index>;
  const Unsigned last = static_cast<Unsigned>(size - 1);
  Unsigned outside = 0;  // Its highest bit is set if any entry is out of range.
  for (int64_t i = 0; i < size; ++i) {
    const Unsigned j = static_cast<Unsigned>(source[i]);
    outside |= j | (last - j);
    permutation[i] = static_cast<int32_t>(j);
  }
  std::fill(inverse, inverse + size, -1);
  if (static_cast<Index>(outside) >= 0) {
    for (int64_t i = 0; i < size; ++i) inverse[permutation[i]] = static_cast<int32_t>(i);
  }
  int32_t missing = 0;  // Negative if any element is.
  for (int64_t j = 0; j < size; ++j) missing |= inverse[j];
  inverse[size] = missing >= 0 ? -1 : static_cast<int32_t>(FirstBadEntry(source, size, inverse));
}

bool IsValid(const ShuffledCosineArgs& args) {
  return args.batch_size < INT32_MAX &&
         (args.permutation_dtype == DType::kInt32 || args.permutation_dtype == DType::kInt64);
}

// A few lines more than a power of 2 has, so that the permutations' entries for one row do not share cache sets.
int64_t PermutationStride(const ShuffledCosineArgs& args) {
  constexpr int64_t kLine = kLineBytes / sizeof(int32_t);
  const int64_t stride = RoundUp(args.batch_size + 1, kLine);
  return stride % (4 * kLine) == 0 ? stride + kLine : stride;
}

cpu::CandidateArray Permutations(const ShuffledCosineArgs& args) {
  return {args.num_negatives, 2 * PermutationStride(args), sizeof(int32_t)};
}

}  // namespace

size_t ShuffledCosineWorkspaceBytes(const ShuffledCosineArgs& args) {
  return IsValid(args) ? cpu::GatheredWorkspaceBytes(args, Permutations(args)) : 0;
}

Status ShuffledCosine(const ShuffledCosineArgs& args) {
  const cpu::FlushDenormals flush;
  if (!IsValid(args)) return args.batch_size < INT32_MAX ? Status::kUnsupportedDType : Status::kInvalidSize;
  cpu::GatheredCall call;
  if (const Status status = cpu::BeginGathered(args, Permutations(args), &call); status != Status::kOk) return status;
  if (call.kernels == nullptr) return Status::kOk;
  if (args.permutations == nullptr) return Status::kNullPointer;
  GatheredPlan& plan = call.plan;
  plan.given_permutations = args.permutations;
  plan.permutation_stride = PermutationStride(args);
  plan.permutations = static_cast<int32_t*>(call.candidates);
  plan.inverses = plan.permutations + args.num_negatives * plan.permutation_stride;
  plan.prepare_permutation =
      args.permutation_dtype == DType::kInt32 ? PreparePermutation<int32_t> : PreparePermutation<int64_t>;
  plan.num_prepare_tasks = plan.num_tiles + plan.num_candidates;
  cpu::RunGathered(args, *call.kernels->shuffled_cosine, &plan);
  const int64_t k = cpu::FirstInvalidPermutation(plan);
  if (k == plan.num_candidates) return Status::kOk;
  if (args.error_index != nullptr) {
    *args.error_index = k * plan.batch_size + plan.inverses[k * plan.permutation_stride + plan.batch_size];
  }
  return Status::kNotAPermutation;
}

}  // namespace fastneg
