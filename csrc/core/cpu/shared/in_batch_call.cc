#include "core/cpu/shared/in_batch_call.h"

#include <algorithm>
#include <cstring>

#include "core/cpu/shared/blocks.h"
#include "core/sizes.h"

namespace fastneg::cpu {
namespace {

constexpr int64_t kLargestCount = (int64_t{1} << 31) - 2;  // Candidates are counted in int32.
constexpr int64_t kMaxPairStep = 16;                       // Pairs that an instruction multiplies at once.

}  // namespace

Status CheckInBatchSizes(const InBatchScoresArgs& args) {
  if (args.batch_size < 0 || args.batch_size > kLargestCount) return Status::kInvalidSize;
  if (args.num_candidates < 0 || args.num_candidates > kLargestCount) return Status::kInvalidSize;
  if (args.embedding_dim < 0 || args.embedding_dim > kLargestCount) return Status::kInvalidSize;
  if (args.batch_size > 0 && args.num_candidates == 0) return Status::kInvalidSize;
  if (args.positives == nullptr && args.batch_size > args.num_candidates) return Status::kInvalidSize;
  if (args.batch_size > 1 && args.query_row_stride < args.embedding_dim) return Status::kInvalidSize;
  if (args.num_candidates > 1 && args.candidate_row_stride < args.embedding_dim) return Status::kInvalidSize;
  return IsEmbeddingType(args.dtype) ? Status::kOk : Status::kUnsupportedDType;
}

Status CheckInBatchInputs(const InBatchScoresArgs& args) {
  const bool have_rows = args.queries != nullptr && args.candidates != nullptr;
  if (args.embedding_dim > 0 && !have_rows) return Status::kNullPointer;
  if (args.positives == nullptr) return Status::kOk;
  for (int64_t i = 0; i < args.batch_size; ++i) {
    if (args.positives[i] >= 0 && args.positives[i] < args.num_candidates) continue;
    if (args.error_index != nullptr) *args.error_index = i;
    return Status::kIdOutOfRange;
  }
  return Status::kOk;
}

double InBatchProducts(const InBatchScoresArgs& args) {
  const double rows = static_cast<double>(args.batch_size) * static_cast<double>(args.num_candidates);
  return rows * static_cast<double>(args.embedding_dim) * (ComputeBytes(args.dtype) == 8 ? 2.0 : 1.0);
}

int ThreadsForProducts(double products, int num_threads) {
  // Multiply-adds that one thread does while it would wait for another one: about 20 microseconds.
  constexpr double kSaved = 1 << 20;
  return products - products / num_threads < kSaved ? 1 : num_threads;
}

InBatchPlan InBatchLayout::LayOut(const InBatchScoresArgs& args, const InBatchKernels& kernels,
                                  const InBatchSlots& slots, Workspace* workspace) {
  InBatchPlan plan;
  const size_t bytes = ComputeBytes(args.dtype);
  const bool is_double = bytes == 8;
  const int64_t element = static_cast<int64_t>(bytes);
  plan.batch_size = args.batch_size;
  plan.num_candidates = args.num_candidates;
  plan.embedding_dim = args.embedding_dim;
  plan.dim_stride = PreparedStride(args.embedding_dim, element);
  plan.dtype = args.dtype;
  plan.inputs = args.queries;
  plan.candidates = args.candidates;
  plan.input_stride = args.query_row_stride;
  plan.candidate_stride = args.candidate_row_stride;
  plan.normalize = args.normalize;
  plan.positives = args.positives;
  plan.candidate_mask = args.candidate_mask;
  plan.score_mask = args.score_mask;
  plan.keeps_panels = slots.keeps_panels && !slots.pairs;

  plan.panel_width = kernels.panel_width[is_double];
  plan.num_panels = CeilDiv(args.num_candidates, plan.panel_width);
  const int64_t padded = plan.num_panels * plan.panel_width;
  const int64_t row_scores = plan.keeps_panels ? padded : plan.panel_width;
  const int64_t dim_pairs = RoundUp(CeilDiv(args.embedding_dim, 2), kMaxPairStep);
  plan.pairs.stride = slots.pairs ? PreparedStride(dim_pairs, 4) : 0;
  const int64_t pair_bytes =
      slots.pairs ? 2 * (plan.panel_width + 2 * plan.pairs.stride + plan.dim_stride + padded) : 0;
  const double inputs = static_cast<double>(args.batch_size + args.num_candidates);
  const Blocks blocks =
      CutIntoBlocks(args.batch_size, args.executor.num_threads,
                    {row_scores * element + pair_bytes, 2 * plan.dim_stride * element, slots.extra_bytes,
                     slots.kept_scores, inputs * static_cast<double>(plan.dim_stride * element)});
  plan.block_rows = blocks.rows;
  plan.num_blocks = blocks.count;
  plan.blocks_per_round = blocks.per_round;

  // Whole vectors of rows that are as the passes want them are not copied.
  const int64_t lanes = kLineBytes / element;  // Of the widest vectors.
  plan.copies_rows = args.normalize || args.candidate_mask != nullptr || args.embedding_dim % lanes != 0 ||
                     (slots.grads && ShareSets(args.candidate_row_stride * element)) ||
                     (args.dtype != DType::kFloat32 && args.dtype != DType::kFloat64);
  const int64_t panel_rows = slots.pairs ? dim_pairs : args.embedding_dim;
  plan.panels = workspace->Take(plan.num_panels * panel_rows, plan.panel_width, bytes);
  plan.rows = plan.copies_rows ? workspace->Take(padded, plan.dim_stride, bytes) : args.candidates;
  plan.row_stride = plan.copies_rows ? plan.dim_stride : args.candidate_row_stride;
  if (args.normalize) plan.inverse = workspace->Take(padded, 1, bytes);
  plan.offsets = workspace->Take(padded, 1, bytes);
  if (args.candidate_mask != nullptr && args.positives != nullptr) {
    is_positive_ = static_cast<uint8_t*>(workspace->Take(args.num_candidates, 1, 1));
  }
  if (args.candidate_ids != nullptr) same_ids_.Take(args.num_candidates, workspace);
  plan.panel_is_finite = static_cast<uint8_t*>(workspace->Take(plan.num_panels, 1, 1));
  plan.block_is_finite = static_cast<uint8_t*>(workspace->Take(plan.num_blocks, 1, 1));
  const int64_t slot_rows = plan.blocks_per_round * plan.block_rows;
  plan.exponentials = workspace->Take(slot_rows, row_scores, bytes);
  plan.block_inputs = workspace->Take(slot_rows, plan.dim_stride, bytes);
  if (slots.pairs) {
    constexpr size_t kPairBytes = 4;
    plan.pairs.queries = workspace->Take(slot_rows, plan.pairs.stride, kPairBytes);
    if (slots.keeps_panels) {
      plan.pairs.block_pairs = RoundUp(plan.block_rows / 2, kMaxPairStep);
      const int64_t slot_pairs = plan.blocks_per_round * plan.pairs.block_pairs;
      plan.pairs.rows = workspace->Take(padded / 2, plan.dim_stride, kPairBytes);
      plan.pairs.scaled = workspace->Take(slot_pairs, plan.dim_stride, kPairBytes);
      plan.pairs.panel = workspace->Take(slot_rows, plan.panel_width / 2, kPairBytes);
      plan.pairs.coefficients = workspace->Take(slot_pairs, padded, kPairBytes);
    }
  }
  return plan;
}

void InBatchLayout::Fill(const InBatchScoresArgs& args, InBatchPlan* plan) {
  if (args.candidate_ids != nullptr) plan->same_ids = same_ids_.Build(args.candidate_ids);
  if (is_positive_ == nullptr) return;
  std::memset(is_positive_, 0, static_cast<size_t>(args.num_candidates));
  for (int64_t i = 0; i < args.batch_size; ++i) is_positive_[args.positives[i]] = 1;
  plan->is_positive = is_positive_;
}

}  // namespace fastneg::cpu
