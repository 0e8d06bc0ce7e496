// sampled_softmax_loss on the CPU: checks, workspace, and the rounds of row and candidate tasks.
#include <cstring>

#include "core/api.h"
#include "core/cpu/isa.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/runtime/huge_pages.h"
#include "core/cpu/runtime/phases.h"
#include "core/cpu/shared/blocks.h"
#include "core/cpu/shared/kernels.h"
#include "core/cpu/shared/sampled_plan.h"
#include "core/sizes.h"
#include "core/workspace.h"

namespace fastneg {
namespace {

using cpu::SampledPlan;

constexpr int64_t kLargestCount = (int64_t{1} << 31) - 1;  // Labels and candidates are counted in int32.

constexpr int64_t kScatterRows = 256;

Status CheckSizes(const SampledSoftmaxArgs& args) {
  if (args.batch_size < 0 || args.batch_size > kLargestCount) return Status::kInvalidSize;
  if (args.num_sampled < 1 || args.num_sampled > kLargestCount) return Status::kInvalidSize;
  if (args.num_true < 1 || args.num_true > kLargestCount) return Status::kInvalidSize;
  if (args.embedding_dim < 0 || args.embedding_dim > kLargestCount) return Status::kInvalidSize;
  if (args.num_rows < 0 || args.num_rows > kLargestCount) return Status::kInvalidSize;
  if (args.batch_size * args.num_true + args.num_sampled > kLargestCount) return Status::kInvalidSize;
  if (args.batch_size > 1 && args.input_row_stride < args.embedding_dim) return Status::kInvalidSize;
  if (args.num_rows > 1 && args.row_stride < args.embedding_dim) return Status::kInvalidSize;
  return IsEmbeddingType(args.dtype) ? Status::kOk : Status::kUnsupportedDType;
}

Status CheckPointers(const SampledSoftmaxArgs& args) {
  const bool have_rows = args.embedding_dim == 0 || (args.inputs != nullptr && args.rows != nullptr);
  const bool have_counts = args.true_expected_count != nullptr && args.sampled_expected_count != nullptr;
  const bool have_ids = args.label_rows != nullptr && args.sampled_rows != nullptr;
  const bool biases_fit = args.grad_biases == nullptr || (args.biases != nullptr && args.grad_rows != nullptr);
  return have_rows && have_counts && have_ids && biases_fit ? Status::kOk : Status::kNullPointer;
}

int64_t FindBadRow(const int32_t* rows, int64_t size, int64_t num_rows) {
  for (int64_t i = 0; i < size; ++i) {
    if (rows[i] < 0 || rows[i] >= num_rows) return i;
  }
  return -1;
}

Status CheckRows(const SampledSoftmaxArgs& args) {
  const int64_t num_labels = args.batch_size * args.num_true;
  int64_t bad = FindBadRow(args.label_rows, num_labels, args.num_rows);
  if (bad < 0) {
    bad = FindBadRow(args.sampled_rows, args.num_sampled, args.num_rows);
    if (bad >= 0) bad += num_labels;
  }
  if (bad < 0) return Status::kOk;
  if (args.error_index != nullptr) *args.error_index = bad;
  return Status::kIdOutOfRange;
}

// Sizes of the plan, and its arrays cut from `workspace`.
SampledPlan LayOut(const SampledSoftmaxArgs& args, const cpu::SampledKernels& kernels, Workspace* workspace) {
  SampledPlan plan;
  const bool is_double = IsDouble(args.dtype);
  const size_t bytes = is_double ? 8 : 4;
  const int64_t element = static_cast<int64_t>(bytes);
  const int64_t b = args.batch_size, labels = b * args.num_true;
  plan.batch_size = b;
  plan.embedding_dim = args.embedding_dim;
  plan.num_true = args.num_true;
  plan.num_candidates = args.num_sampled;
  plan.num_table_rows = args.num_rows;
  plan.dim_stride = cpu::PreparedStride(args.embedding_dim, element);
  plan.panel_width = kernels.panel_width[is_double];
  plan.num_panels = CeilDiv(args.num_sampled, plan.panel_width);
  const int64_t padded = plan.num_panels * plan.panel_width;
  const double inputs = static_cast<double>(b + args.num_sampled);
  const bool whole_lines = args.embedding_dim * element % kLineBytes == 0;  // The rows of grad_inputs.
  const int64_t copies = whole_lines ? 1 : 2;
  const cpu::Blocks blocks = cpu::CutIntoBlocks(b, args.executor.num_threads,
                                                {padded * element, copies * plan.dim_stride * element, 0, 0,
                                                 inputs * static_cast<double>(plan.dim_stride * element)});
  plan.block_rows = blocks.rows;
  plan.num_blocks = blocks.count;
  plan.blocks_per_round = blocks.per_round;
  plan.scatter_rows = kScatterRows;

  const bool any_grad = args.grad_inputs != nullptr || args.grad_rows != nullptr;
  if (args.remove_accidental_hits) {
    plan.last_sampled = static_cast<int32_t*>(workspace->Take(args.num_rows, 1, sizeof(int32_t)));
  }
  plan.panels = workspace->Take(plan.num_panels * args.embedding_dim, plan.panel_width, bytes);
  plan.offsets = workspace->Take(padded, 1, bytes);
  if (any_grad) plan.true_coefficients = workspace->Take(labels, 1, bytes);
  plan.copies_rows = args.grad_inputs != nullptr;
  if (plan.copies_rows) plan.rows = workspace->Take(padded, plan.dim_stride, bytes);
  plan.row_stride = plan.grad_stride = plan.dim_stride;
  if (args.grad_rows != nullptr) {
    plan.occurrences = static_cast<int32_t*>(workspace->Take(labels + args.num_sampled, 1, sizeof(int32_t)));
    plan.first_occurrence = static_cast<int32_t*>(workspace->Take(args.num_rows + 1, 1, sizeof(int32_t)));
    plan.grad_rows = workspace->Take(padded, plan.dim_stride, bytes);
  }
  if (args.grad_biases != nullptr) plan.grad_offsets = workspace->Take(padded, 1, bytes);
  const int64_t slot_rows = plan.blocks_per_round * plan.block_rows;
  plan.panel_is_finite = static_cast<uint8_t*>(workspace->Take(plan.num_panels, 1, 1));
  plan.block_is_finite = static_cast<uint8_t*>(workspace->Take(plan.num_blocks, 1, 1));
  plan.exponentials = workspace->Take(slot_rows, padded, bytes);
  plan.block_inputs = workspace->Take(slot_rows, plan.dim_stride, bytes);
  if (args.grad_inputs != nullptr && !whole_lines) {
    plan.block_grads = workspace->Take(slot_rows, plan.dim_stride, bytes);
  }
  plan.block_true = workspace->Take(slot_rows, args.num_true, bytes);
  plan.block_scales = workspace->Take(slot_rows, 1, bytes);
  if (args.remove_accidental_hits) {
    plan.block_first_hit =
        static_cast<int32_t*>(workspace->Take(plan.blocks_per_round, plan.num_panels, sizeof(int32_t)));
    plan.block_next_hit = static_cast<int32_t*>(workspace->Take(slot_rows, args.num_true, sizeof(int32_t)));
  }
  return plan;
}

// Sorts labels and candidates by the table row that they are: a counting sort, stable.
void SortOccurrences(const SampledPlan& plan) {
  const int64_t num_labels = plan.batch_size * plan.num_true;
  int32_t* first = plan.first_occurrence;
  std::memset(first, 0, static_cast<size_t>(plan.num_table_rows + 1) * sizeof(int32_t));
  for (int64_t i = 0; i < num_labels; ++i) ++first[plan.label_rows[i]];
  for (int64_t s = 0; s < plan.num_candidates; ++s) ++first[plan.sampled_rows[s]];
  int32_t end = 0;
  for (int64_t u = 0; u <= plan.num_table_rows; ++u) first[u] = end += first[u];
  // From behind, so that what is the end of a row's occurrences ends up as their begin.
  for (int64_t s = plan.num_candidates - 1; s >= 0; --s) {
    plan.occurrences[--first[plan.sampled_rows[s]]] = static_cast<int32_t>(num_labels + s);
  }
  for (int64_t i = num_labels - 1; i >= 0; --i) plan.occurrences[--first[plan.label_rows[i]]] = static_cast<int32_t>(i);
}

void FindLastSampled(const SampledPlan& plan) {
  std::memset(plan.last_sampled, 0xff, static_cast<size_t>(plan.num_table_rows) * sizeof(int32_t));
  for (int64_t s = 0; s < plan.num_candidates; ++s) plan.last_sampled[plan.sampled_rows[s]] = static_cast<int32_t>(s);
}

}  // namespace

size_t SampledSoftmaxWorkspaceBytes(const SampledSoftmaxArgs& args) {
  const cpu::KernelTable* kernels = cpu::ActiveKernels();
  if (kernels == nullptr || CheckSizes(args) != Status::kOk || args.batch_size == 0) return 0;
  Workspace workspace(nullptr);
  LayOut(args, *kernels->sampled_softmax, &workspace);
  return workspace.overflow() ? 0 : workspace.used();
}

int WorthwhileThreads(const SampledSoftmaxArgs& args, int num_threads) {
  // Multiply-adds that one thread does while it would wait for another one, four times in a call: some 80 microseconds
  // where rows have few candidates, most of it for what they count as below.
  constexpr double kSaved = 1 << 21;
  // Reading and writing a row's own vectors counts as this many candidates.
  constexpr double kOwnCandidates = 8;
  const bool any_grad = args.grad_inputs != nullptr || args.grad_rows != nullptr;
  const double products =
      static_cast<double>(args.batch_size) * static_cast<double>(args.embedding_dim) *
      (static_cast<double>(args.num_sampled) + kOwnCandidates * static_cast<double>(args.num_true)) *
      (any_grad ? 3.0 : 1.0) * (IsDouble(args.dtype) ? 2.0 : 1.0);
  return products - products / num_threads < kSaved ? 1 : num_threads;
}

Status SampledSoftmax(const SampledSoftmaxArgs& args) {
  const cpu::FlushDenormals flush;
  const cpu::KernelTable* table = cpu::ActiveKernels();
  if (table == nullptr) return Status::kIsaUnavailable;
  const cpu::SampledKernels& kernels = *table->sampled_softmax;
  if (const Status status = CheckSizes(args); status != Status::kOk) return status;
  const bool is_double = IsDouble(args.dtype);
  if (args.batch_size == 0) {
    const size_t bytes = is_double ? 8 : 4;
    const size_t rows = static_cast<size_t>(args.num_rows);
    if (args.grad_rows != nullptr)
      std::memset(args.grad_rows, 0, rows * static_cast<size_t>(args.embedding_dim) * bytes);
    if (args.grad_biases != nullptr) std::memset(args.grad_biases, 0, rows * bytes);
    return Status::kOk;
  }
  if (const Status status = CheckPointers(args); status != Status::kOk) return status;
  if (const Status status = CheckRows(args); status != Status::kOk) return status;
  Workspace workspace(args.workspace);
  SampledPlan plan = LayOut(args, kernels, &workspace);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;
  // Smaller buffers come from memory that the process has used before: asking would cost more than it brings.
  constexpr size_t kLarge = 8 << 20;
  const size_t row_bytes = static_cast<size_t>(args.embedding_dim) * ComputeBytes(args.dtype);
  const size_t input_bytes = static_cast<size_t>(args.batch_size) * row_bytes;
  const size_t table_bytes = static_cast<size_t>(args.num_rows) * row_bytes;
  if (workspace.used() >= kLarge) cpu::PreferHugePages(args.workspace, workspace.used());
  if (input_bytes >= kLarge) cpu::PreferHugePages(args.grad_inputs, input_bytes);
  if (table_bytes >= kLarge) cpu::PreferHugePages(args.grad_rows, table_bytes);

  plan.dtype = args.dtype;
  plan.inputs = args.inputs;
  plan.table = args.rows;
  plan.input_stride = args.input_row_stride;
  plan.table_stride = args.row_stride;
  plan.biases = args.biases;
  plan.label_rows = args.label_rows;
  plan.sampled_rows = args.sampled_rows;
  plan.true_expected_count = args.true_expected_count;
  plan.sampled_expected_count = args.sampled_expected_count;
  plan.row_weights = args.row_weights;
  plan.loss = args.loss;
  plan.grad_inputs = args.grad_inputs;
  plan.grad_table = args.grad_rows;
  plan.grad_biases = args.grad_biases;
  if (plan.last_sampled != nullptr) FindLastSampled(plan);
  if (plan.occurrences != nullptr) SortOccurrences(plan);

  cpu::PhaseQueue phases(args.executor, &plan);
  phases.Push({plan.num_panels, kernels.pack[is_double]});
  cpu::ForRounds(plan, [&](int64_t round, int64_t block, int64_t count) {
    phases.Push({count, kernels.score_block[is_double], block});
    if (args.grad_rows == nullptr) return;
    phases.Push({plan.num_panels, kernels.candidate_grads[is_double], round * plan.num_panels});
  });
  if (args.grad_rows != nullptr) {
    phases.Push({CeilDiv(plan.num_table_rows, plan.scatter_rows), kernels.scatter_table_grads[is_double]});
  }
  phases.Flush();
  return Status::kOk;
}

}  // namespace fastneg
