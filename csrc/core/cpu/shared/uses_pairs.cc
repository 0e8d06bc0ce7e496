#include "core/cpu/shared/uses_pairs.h"

#include "core/cpu/runtime/matrix_registers.h"
#include "core/cpu/shared/in_batch_call.h"

namespace fastneg::cpu {
namespace {

bool AreFiniteRows(const void* rows, int64_t count, int64_t dim, int64_t stride) {
  constexpr uint16_t kExponent = 0x7f80;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t* row = static_cast<const uint16_t*>(rows) + i * stride;
    uint16_t largest = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const auto exponent = static_cast<uint16_t>(row[d] & kExponent);
      largest = exponent > largest ? exponent : largest;
    }
    if (largest == kExponent) return false;
  }
  return true;
}

}  // namespace

bool MayUsePairs(const InBatchSoftmaxArgs& args, const InBatchKernels& kernels) {
  // Fewer scores are soon done, and in float they are closer.
  constexpr int64_t kMinCandidates = 256, kMinQueries = 128;
  if (kernels.pairs == nullptr || args.dtype != DType::kBFloat16 || args.embedding_dim == 0) return false;
  if (args.batch_size < kMinQueries || args.num_candidates < kMinCandidates) return false;
  // Re-weighting compares scores with the positives', to the bit; the others need coefficients more than once.
  const bool transforms = args.label_smoothing != 0 || args.negative_weight == 0;
  if (Reweights(args) || transforms || args.bidirectional || args.num_hard_negatives != 0) return false;
  return !kernels.pairs->in_matrix_registers || AcquireMatrixRegisters();
}

bool AreFinite(const InBatchSoftmaxArgs& args) {
  return AreFiniteRows(args.queries, args.batch_size, args.embedding_dim, args.query_row_stride) &&
         AreFiniteRows(args.candidates, args.num_candidates, args.embedding_dim, args.candidate_row_stride);
}

}  // namespace fastneg::cpu
