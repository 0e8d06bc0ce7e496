#include "core/cpu/shared/in_batch_call.h"

#include <algorithm>
#include <cstring>

#include "core/cpu/shared/plan.h"
#include "core/sizes.h"

namespace fastneg::cpu {
namespace {

constexpr int64_t kLargestCount = (int64_t{1} << 31) - 2;  // Candidates are counted in int32.

// Scratch of a round, or twice as many blocks as there are threads if that is more; but not so much more that they
// would outgrow the larger bound and what the inputs take.
constexpr int64_t kRoundBytes = 2 << 20;
constexpr int kBlocksPerThread = 2;
constexpr int64_t kMaxRoundBytes = 64 << 20;
// A block's exponentials should not be larger: they are read once more, best from the last-level cache.
constexpr int64_t kMaxBlockBytes = 4 << 20;

// Rows of a block: as many as make reading all candidates worth it, fewer where the batch is too small to occupy
// several threads or the candidates so many that their exponentials would not stay in a cache.
int64_t BlockRows(int64_t batch_size, int64_t row_bytes) {
  constexpr int64_t kLargeBatch = 16 * kMaxBlockRows;
  int64_t rows = batch_size >= kLargeBatch ? kMaxBlockRows : kMaxBlockRows / 2;
  while (rows > kMinBlockRows && (rows * 8 > batch_size || rows * row_bytes > kMaxBlockBytes)) rows /= 2;
  return rows;
}

// Whether rows at such a distance fall into so few sets of the first-level cache that those of a tile push each other
// out: products are up to a sixth slower then.
bool ShareSets(int64_t row_bytes) { return row_bytes % (4 * kLineBytes) == 0; }

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

InBatchPlan InBatchLayout::LayOut(const InBatchScoresArgs& args, const InBatchKernels& kernels, bool keeps_panels,
                                  int64_t block_extra_bytes, Workspace* workspace) {
  InBatchPlan plan;
  const size_t bytes = ComputeBytes(args.dtype);
  const bool is_double = bytes == 8;
  const int64_t element = static_cast<int64_t>(bytes);
  plan.batch_size = args.batch_size;
  plan.num_candidates = args.num_candidates;
  plan.embedding_dim = args.embedding_dim;
  plan.dim_stride = RoundUp(std::max<int64_t>(args.embedding_dim, 1), kLineBytes / element);
  if (ShareSets(plan.dim_stride * element)) plan.dim_stride += kLineBytes / element;
  plan.dtype = args.dtype;
  plan.queries = args.queries;
  plan.candidates = args.candidates;
  plan.query_stride = args.query_row_stride;
  plan.candidate_stride = args.candidate_row_stride;
  plan.normalize = args.normalize;
  plan.positives = args.positives;
  plan.candidate_mask = args.candidate_mask;
  plan.score_mask = args.score_mask;
  plan.keeps_panels = keeps_panels;

  plan.panel_width = kernels.panel_width[is_double];
  plan.num_panels = CeilDiv(args.num_candidates, plan.panel_width);
  const int64_t padded = plan.num_panels * plan.panel_width;
  const int64_t row_scores = keeps_panels ? padded : plan.panel_width;
  plan.block_rows = BlockRows(args.batch_size, row_scores * element);
  plan.num_blocks = CeilDiv(args.batch_size, plan.block_rows);
  const int64_t block_bytes = plan.block_rows * (row_scores + 2 * plan.dim_stride) * element + block_extra_bytes;
  const int64_t threads = std::max(args.executor.num_threads, 1);
  const int64_t wanted = std::max<int64_t>(kRoundBytes / block_bytes, kBlocksPerThread * threads);
  const double inputs = static_cast<double>(args.batch_size + args.num_candidates);
  const double input_bytes = inputs * static_cast<double>(plan.dim_stride * element);
  const double allowed = std::max(static_cast<double>(kMaxRoundBytes), input_bytes) / static_cast<double>(block_bytes);
  const int64_t most = std::min(plan.num_blocks, static_cast<int64_t>(allowed));
  plan.blocks_per_round = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(most, 1));

  // Whole vectors of rows that are as the passes want them are not copied.
  const int64_t lanes = kLineBytes / element;  // Of the widest vectors.
  plan.copies_rows = args.normalize || args.candidate_mask != nullptr || args.embedding_dim % lanes != 0 ||
                     ShareSets(args.candidate_row_stride * element) ||
                     (args.dtype != DType::kFloat32 && args.dtype != DType::kFloat64);
  plan.panels = workspace->Take(plan.num_panels * args.embedding_dim, plan.panel_width, bytes);
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
