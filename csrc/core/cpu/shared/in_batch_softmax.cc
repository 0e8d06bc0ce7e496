// in_batch_softmax_loss on the CPU: checks, workspace, the rounds of row and candidate tasks, and the sums over rows.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/api.h"
#include "core/cpu/isa.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/runtime/huge_pages.h"
#include "core/cpu/shared/in_batch_call.h"
#include "core/cpu/shared/uses_pairs.h"
#include "core/sizes.h"
#include "core/workspace.h"

namespace fastneg {
namespace {

using cpu::InBatchPlan;

// One negative in so many, and fewer, is faster added by itself than as part of a product of matrices.
constexpr int64_t kSparseShare = 4;

Status CheckOptions(const InBatchSoftmaxArgs& args) {
  if (!(args.temperature > 0) || !std::isfinite(args.temperature)) return Status::kInvalidOption;
  if (!(args.label_smoothing >= 0 && args.label_smoothing < 1)) return Status::kInvalidOption;
  if (args.num_hard_negatives < 0) return Status::kInvalidOption;
  if (args.refined && (args.sampling_probability == nullptr || args.positive_in_softmax)) return Status::kInvalidOption;
  if (args.positive_in_softmax ? args.negative_weight != 1 : args.label_smoothing != 0) return Status::kInvalidOption;
  if (args.bidirectional && (args.positives != nullptr || args.num_hard_negatives != 0 || args.refined)) {
    return Status::kInvalidOption;
  }
  const bool grads = args.grad_queries != nullptr;
  if (grads != (args.grad_candidates != nullptr) || (args.grad_scalars != nullptr && !grads)) {
    return Status::kNullPointer;
  }
  return args.grad_weights != nullptr && args.weights == nullptr ? Status::kNullPointer : Status::kOk;
}

// Sizes and options of the plan, and its arrays cut from `workspace`.
InBatchPlan LayOut(const InBatchSoftmaxArgs& args, const cpu::InBatchKernels& kernels, bool pairs,
                   cpu::InBatchLayout* layout, Workspace* workspace) {
  const size_t bytes = ComputeBytes(args.dtype);
  const bool grads = args.grad_queries != nullptr, selects = args.num_hard_negatives > 0;
  const int64_t width = kernels.panel_width[IsDouble(args.dtype)];
  const int64_t padded = CeilDiv(args.num_candidates, width) * width;
  const int64_t element = static_cast<int64_t>(bytes);
  const int64_t extra = (selects ? 2 * padded * element : 0) + (args.bidirectional ? 3 * padded * element : 0);
  const int64_t kept_scores = args.bidirectional && grads ? args.kept_scores_bytes : 0;
  InBatchPlan plan = layout->LayOut(args, kernels, {grads, grads || selects, pairs, extra, kept_scores}, workspace);
  plan.probability = args.sampling_probability;
  plan.weights = args.weights;
  plan.temperature = args.temperature;
  plan.margin = args.margin;
  plan.t = args.t;
  plan.num_hard_negatives = args.num_hard_negatives;
  plan.label_smoothing = args.label_smoothing;
  plan.refined = args.refined;
  plan.positive_in_softmax = args.positive_in_softmax;
  plan.negative_weight = args.negative_weight;
  plan.two_ways = args.bidirectional;
  plan.sparse = selects && args.num_hard_negatives <= args.num_candidates / kSparseShare;
  plan.reweights = cpu::Reweights(args);
  plan.transforms = args.label_smoothing != 0 || args.negative_weight == 0;
  plan.counts = plan.transforms || args.refined;
  plan.scores_again = plan.num_blocks > plan.blocks_per_round || kept_scores == 0;
  plan.offsets_in_scores = !plan.reweights && !args.bidirectional;

  const int64_t b = args.batch_size;
  if (args.sampling_probability != nullptr) plan.neg_log_q = workspace->Take(padded, 1, bytes);
  plan.row_loss = workspace->Take(b, 1, bytes);
  const int64_t slot_rows = plan.blocks_per_round * plan.block_rows;
  if (grads) {
    plan.block_grads = workspace->Take(slot_rows, plan.dim_stride, bytes);
    // Gradients of rows that are the candidates' own are added up where they are wanted, if whole tiles of them are.
    const int64_t line = kLineBytes / element;
    const bool in_place =
        !args.normalize && args.embedding_dim % line == 0 && (!pairs || args.num_candidates % line == 0);
    plan.grad_rows = in_place ? args.grad_candidates : workspace->Take(padded, plan.dim_stride, bytes);
    plan.grad_stride = in_place ? args.embedding_dim : plan.dim_stride;
  }
  if (args.grad_scalars != nullptr) plan.row_scalars = workspace->Take(3, b, bytes);
  if (selects) {
    plan.block_logits = workspace->Take(plan.blocks_per_round, padded, bytes);
    plan.block_listed = workspace->Take(plan.blocks_per_round, padded, bytes);
  }
  if (args.bidirectional) {
    plan.block_columns = workspace->Take(plan.blocks_per_round * 3, padded, bytes);
    plan.row_references = workspace->Take(b, 1, bytes);
    plan.row_scales = workspace->Take(b, 1, bytes);
    plan.row_shares = workspace->Take(b, 1, bytes);
    plan.own_logits = workspace->Take(b, 1, bytes);
    plan.positive_grads = workspace->Take(b, 1, bytes);
    plan.column_references = workspace->Take(padded, 1, bytes);
    plan.column_sums = workspace->Take(3, padded, bytes);
    plan.column_scales = workspace->Take(padded, 1, bytes);
    plan.column_shares = workspace->Take(padded, 1, bytes);
    plan.factors = workspace->Take(padded, 1, bytes);
    plan.out_of_range = static_cast<uint8_t*>(workspace->Take(plan.num_panels + plan.num_blocks, 1, 1));
  }
  return plan;
}

template <typename T>
int64_t CountWeighted(const void* weights, int64_t size) {
  if (weights == nullptr) return size;
  int64_t count = 0;
  for (int64_t i = 0; i < size; ++i) count += static_cast<const T*>(weights)[i] != T(0);
  return count;
}

int64_t CountWeighted(const InBatchSoftmaxArgs& args) {
  return IsDouble(args.dtype) ? CountWeighted<double>(args.weights, args.batch_size)
                              : CountWeighted<float>(args.weights, args.batch_size);
}

void SetZero(void* values, int64_t rows, int64_t columns, DType dtype) {
  if (values == nullptr) return;
  std::memset(values, 0, static_cast<size_t>(rows) * static_cast<size_t>(columns) * ComputeBytes(dtype));
}

// Queries classified: every round gives its blocks' losses and gradients, and then the candidates theirs.
void RunOneWay(const InBatchSoftmaxArgs& args, const cpu::InBatchKernels& kernels, bool pairs, InBatchPlan* plan) {
  const bool is_double = IsDouble(args.dtype);
  const auto pack = pairs ? kernels.pairs->pack : kernels.pack[is_double];
  const auto score_block = pairs ? kernels.pairs->score_block : kernels.score_block[is_double];
  const auto candidate_grads = pairs ? kernels.pairs->candidate_grads : kernels.candidate_grads[is_double];
  cpu::PhaseQueue phases(args.executor, plan);
  phases.Push({plan->num_panels, pack});
  cpu::ForRounds(*plan, [&](int64_t round, int64_t block, int64_t count) {
    phases.Push({count, score_block, block});
    if (plan->grad_rows == nullptr) return;
    phases.Push({plan->num_panels, candidate_grads, round * plan->num_panels});
  });
  phases.Flush();
}

// The largest number, but for NaN.
template <typename T>
double Largest(const void* values, int64_t size) {
  T largest = static_cast<const T*>(values)[0];
  for (int64_t i = 1; i < size; ++i) largest = std::max(static_cast<const T*>(values)[i], largest);
  return static_cast<double>(largest);
}

// Queries and candidates classified: the sums of both, and then the gradients.
void RunTwoWays(const InBatchSoftmaxArgs& args, const cpu::InBatchKernels& kernels, InBatchPlan* plan) {
  const bool is_double = IsDouble(args.dtype);
  InBatchPlan sums = *plan;
  sums.keeps_panels = !plan->scores_again;
  cpu::PhaseQueue phases(args.executor, &sums);
  phases.Push({plan->num_panels, kernels.pack[is_double]});
  cpu::ForRounds(*plan, [&](int64_t, int64_t block, int64_t count) {
    phases.Push({count, kernels.own_logits[is_double], block});
  });
  const auto add_up = [&] {
    cpu::ForRounds(*plan, [&](int64_t round, int64_t block, int64_t count) {
      phases.Push({count, kernels.sum_block[is_double], block});
      phases.Push({plan->num_panels, kernels.merge_columns[is_double], round * plan->num_panels});
    });
    phases.Push({plan->num_panels, kernels.finish_columns[is_double]});
    phases.Flush();
  };
  const auto suit = [&] {
    bool all = true;
    for (int64_t i = 0; i < plan->num_panels + plan->num_blocks; ++i) all &= plan->out_of_range[i] == 0;
    return all;
  };
  SetZero(plan->column_references, 1, plan->num_panels * plan->panel_width, args.dtype);
  phases.Flush();
  // The logits of positives are among the largest, where anything has been learned.
  sums.reference = is_double ? Largest<double>(plan->own_logits, plan->batch_size)
                             : Largest<float>(plan->own_logits, plan->batch_size);
  sums.one_reference = true;
  add_up();
  if (!suit()) {
    sums.one_reference = false;
    add_up();
  }
  if (!suit()) {
    cpu::ForRounds(*plan, [&](int64_t round, int64_t block, int64_t count) {
      phases.Push({count, kernels.maxima_of_columns[is_double], block});
      phases.Push({plan->num_panels, kernels.merge_maxima[is_double], round * plan->num_panels});
    });
    add_up();
  }
  if (plan->grad_rows == nullptr) return;
  plan->one_reference = sums.one_reference;
  plan->reference = sums.reference;
  cpu::PhaseQueue gradients(args.executor, plan);
  cpu::ForRounds(*plan, [&](int64_t round, int64_t block, int64_t count) {
    gradients.Push({count, kernels.grad_block[is_double], block});
    gradients.Push({plan->num_panels, kernels.candidate_grads[is_double], round * plan->num_panels});
  });
  gradients.Flush();
}

// The loss, and the gradients that are sums over rows: in order, in double.
template <typename T>
void AddUp(const InBatchSoftmaxArgs& args, const InBatchPlan& plan) {
  const T* row_loss = static_cast<const T*>(plan.row_loss);
  const T* weights = static_cast<const T*>(args.weights);
  T* loss = static_cast<T*>(args.loss);
  double total = 0;
  for (int64_t i = 0; i < args.batch_size; ++i) {
    const T weight = weights == nullptr ? T(1) : weights[i];
    const T weighted = weight == T(0) ? T(0) : weight * row_loss[i];
    if (args.reduction == Reduction::kNone) {
      loss[i] = weighted;
    } else {
      total += static_cast<double>(weighted);
    }
    if (args.grad_weights != nullptr) {
      static_cast<T*>(args.grad_weights)[i] =
          plan.row_factor == 0 ? T(0) : static_cast<T>(plan.row_factor) * row_loss[i];
    }
  }
  if (args.reduction != Reduction::kNone) {
    loss[0] = static_cast<T>(args.reduction == Reduction::kMean ? total * plan.row_factor : total);
  }
  if (args.grad_scalars == nullptr) return;
  for (int64_t s = 0; s < 3; ++s) {
    double sum = 0;
    if (plan.row_scalars != nullptr) {
      const T* scalars = static_cast<const T*>(plan.row_scalars) + s * args.batch_size;
      for (int64_t i = 0; i < args.batch_size; ++i) sum += static_cast<double>(scalars[i]);
    }
    static_cast<T*>(args.grad_scalars)[s] = static_cast<T>(sum);
  }
}

}  // namespace

size_t InBatchSoftmaxWorkspaceBytes(const InBatchSoftmaxArgs& args) {
  const cpu::KernelTable* kernels = cpu::ActiveKernels();
  if (kernels == nullptr || args.batch_size == 0) return 0;
  if (cpu::CheckInBatchSizes(args) != Status::kOk || CheckOptions(args) != Status::kOk) return 0;
  Workspace workspace(nullptr);
  cpu::InBatchLayout layout;
  LayOut(args, *kernels->in_batch_softmax, /*pairs=*/false, &layout, &workspace);
  if (workspace.overflow()) return 0;
  if (!cpu::MayUsePairs(args, *kernels->in_batch_softmax)) return workspace.used();
  Workspace of_pairs(nullptr);
  LayOut(args, *kernels->in_batch_softmax, /*pairs=*/true, &layout, &of_pairs);
  return of_pairs.overflow() ? 0 : std::max(workspace.used(), of_pairs.used());
}

int WorthwhileThreads(const InBatchSoftmaxArgs& args, int num_threads) {
  const double products = cpu::InBatchProducts(args) * (args.grad_queries != nullptr ? 3.0 : 1.0);
  return cpu::ThreadsForProducts(args.bidirectional ? 1.5 * products : products, num_threads);
}

Status InBatchSoftmax(const InBatchSoftmaxArgs& args) {
  const cpu::FlushDenormals flush;
  const cpu::KernelTable* table = cpu::ActiveKernels();
  if (table == nullptr) return Status::kIsaUnavailable;
  const cpu::InBatchKernels& kernels = *table->in_batch_softmax;
  if (const Status status = cpu::CheckInBatchSizes(args); status != Status::kOk) return status;
  if (const Status status = CheckOptions(args); status != Status::kOk) return status;
  if (args.loss == nullptr && (args.batch_size > 0 || args.reduction != Reduction::kNone)) return Status::kNullPointer;
  if (args.batch_size == 0) {
    if (args.reduction != Reduction::kNone) SetZero(args.loss, 1, 1, args.dtype);
    SetZero(args.grad_candidates, args.num_candidates, args.embedding_dim, args.dtype);
    SetZero(args.grad_scalars, 1, 3, args.dtype);
    return Status::kOk;
  }
  if (const Status status = cpu::CheckInBatchInputs(args); status != Status::kOk) return status;
  Workspace workspace(args.workspace);
  cpu::InBatchLayout layout;
  const bool pairs = cpu::MayUsePairs(args, kernels) && cpu::AreFinite(args);
  InBatchPlan plan = LayOut(args, kernels, pairs, &layout, &workspace);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;
  // What is smaller has no huge page of its own.
  constexpr size_t kLarge = 2 << 20;
  const size_t row_bytes = static_cast<size_t>(args.embedding_dim) * ComputeBytes(args.dtype);
  const size_t query_bytes = static_cast<size_t>(args.batch_size) * row_bytes;
  const size_t candidate_bytes = static_cast<size_t>(args.num_candidates) * row_bytes;
  if (workspace.used() >= kLarge) cpu::PreferHugePages(args.workspace, workspace.used());
  if (query_bytes >= kLarge) cpu::PreferHugePages(args.grad_queries, query_bytes);
  if (candidate_bytes >= kLarge) cpu::PreferHugePages(args.grad_candidates, candidate_bytes);

  layout.Fill(args, &plan);
  plan.grad_inputs = args.grad_queries;
  plan.grad_candidates = args.grad_candidates;
  const int64_t weighted = CountWeighted(args);
  if (args.reduction == Reduction::kMean) plan.row_factor = weighted == 0 ? 0.0 : 1.0 / static_cast<double>(weighted);
  if (weighted == 0) {
    // Nothing depends on what any row holds.
    plan.grad_inputs = plan.grad_rows = plan.row_scalars = nullptr;
    SetZero(args.grad_queries, args.batch_size, args.embedding_dim, args.dtype);
    SetZero(args.grad_candidates, args.num_candidates, args.embedding_dim, args.dtype);
  }
  args.bidirectional ? RunTwoWays(args, kernels, &plan) : RunOneWay(args, kernels, pairs, &plan);
  const bool is_double = IsDouble(args.dtype);
  if (plan.grad_rows != nullptr && plan.grad_rows != args.grad_candidates) {
    cpu::PhaseQueue phases(args.executor, &plan);
    phases.Push({plan.num_panels, kernels.finish_candidates[is_double]});
    phases.Flush();
  }
  is_double ? AddUp<double>(args, plan) : AddUp<float>(args, plan);
  return Status::kOk;
}

}  // namespace fastneg
