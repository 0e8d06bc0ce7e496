#include "core/cuda/gathered/gathered_softmax.h"

#include "core/cuda/common/launch.h"
#include "core/cuda/common/storage.cuh"
#include "core/cuda/gathered/labels.cuh"
#include "core/row_options.h"
#include "core/sizes.h"
#include "core/workspace.h"

namespace fastneg::cuda {
namespace {

// Rows and candidates are numbered with 32 bits, with room for steps beyond the last.
constexpr int64_t kMostRows = (int64_t{1} << 31) - 64;
constexpr int64_t kLongestRow = 1 << 30;

const GatheredKernels* Kernels(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return &kFloat16GatheredKernels;
    case DType::kBFloat16:
      return &kBFloat16GatheredKernels;
    case DType::kFloat32:
      return &kFloat32GatheredKernels;
    default:
      return &kFloat64GatheredKernels;
  }
}

Status CheckSizes(const GatheredSoftmaxArgs& args) {
  const int64_t b = args.batch_size;
  if (b < 0 || b > kMostRows || args.embedding_dim < 0 || args.embedding_dim > kLongestRow) {
    return Status::kInvalidSize;
  }
  if (b > 0 && (args.num_negatives < 1 || args.num_negatives > kMostRows)) return Status::kInvalidSize;
  if (b > 1 && (args.user_row_stride < args.embedding_dim || args.item_row_stride < args.embedding_dim)) {
    return Status::kInvalidSize;
  }
  if (!IsSize(args.user_row_stride) || !IsSize(args.item_row_stride)) return Status::kInvalidSize;
  return IsEmbeddingType(args.dtype) ? Status::kOk : Status::kUnsupportedDType;
}

Status CheckPointers(const GatheredSoftmaxArgs& args) {
  const bool have_rows = args.embedding_dim == 0 || (args.user_emb != nullptr && args.item_emb != nullptr);
  const bool both_or_none = (args.grad_user == nullptr) == (args.grad_item == nullptr);
  return have_rows && both_or_none ? Status::kOk : Status::kNullPointer;
}

// Whether rows can be read, and their gradients written, 16 bytes at a time.
bool IsPacked(const GatheredSoftmaxArgs& args) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const int64_t wide = static_cast<int64_t>(16 / StorageBytes(args.dtype));
  return args.embedding_dim % wide == 0 && args.user_row_stride % wide == 0 && args.item_row_stride % wide == 0 &&
         aligned(args.user_emb) && aligned(args.item_emb) && aligned(args.grad_user) && aligned(args.grad_item);
}

RowLayout LayoutOf(const GatheredSoftmaxArgs& args) {
  if (args.dtype == DType::kFloat64 || !IsPacked(args)) {
    return args.embedding_dim <= kMostElements ? RowLayout::kRows : RowLayout::kLongRows;
  }
  const int64_t packs = args.embedding_dim / static_cast<int64_t>(16 / StorageBytes(args.dtype));
  if (packs <= 8) return RowLayout::kRowsOf8Packs;
  if (packs <= 16) return RowLayout::kRowsOf16Packs;
  if (packs <= 32) return RowLayout::kRowsOf32Packs;
  return packs <= 64 ? RowLayout::kRowsOf64Packs : RowLayout::kLongPackedRows;
}

// Cuts the plan's arrays from `workspace`; returns the candidates'.
void* LayOut(const GatheredSoftmaxArgs& args, const CandidateArray& candidates, Workspace* workspace,
             GatheredPlan* plan) {
  const int64_t b = args.batch_size;
  const size_t bytes = ComputeBytes(args.dtype);
  plan->control = static_cast<Control*>(workspace->Take(1, 1, sizeof(Control)));
  void* array = workspace->Take(candidates.rows, candidates.columns, candidates.element_bytes);
  plan->active = static_cast<uint8_t*>(workspace->Take(b, 1, 1));
  plan->user_inverse = workspace->Take(b, 1, bytes);
  plan->item_inverse = workspace->Take(b, 1, bytes);
  if (args.sampling_probability != nullptr) plan->neg_log_prob = workspace->Take(b, 1, bytes);
  // For the layout with the most blocks, so that the size does not depend on alignment.
  const int64_t most_blocks = NumRowBlocks(b, RowLayout::kLongRows);
  plan->block_sums = static_cast<double*>(workspace->Take(most_blocks, 4, sizeof(double)));
  if (args.grad_user != nullptr) {
    plan->row_facts = workspace->Take(b, 4, bytes);
    plan->positive_weights = workspace->Take(b, 1, bytes);
  }
  return array;
}

}  // namespace

size_t GatheredWorkspaceBytes(const GatheredSoftmaxArgs& args, const CandidateArray& candidates) {
  if (CheckSizes(args) != Status::kOk || args.batch_size == 0) return 0;
  Workspace workspace(nullptr);
  GatheredPlan plan;
  LayOut(args, candidates, &workspace, &plan);
  return workspace.overflow() ? 0 : workspace.used();
}

Status BeginGathered(const GatheredSoftmaxArgs& args, const CandidateArray& candidates, Stream stream,
                     GatheredCall* call) {
  if (const Status status = CheckSizes(args); status != Status::kOk) return status;
  if (!RowOptionsFit(args)) return Status::kInvalidOption;
  if (args.loss == nullptr) return Status::kNullPointer;
  const size_t bytes = ComputeBytes(args.dtype);
  if (args.batch_size == 0) {
    Status status = Fill(args.loss, 0, bytes, stream);
    if (status == Status::kOk) status = Fill(args.grad_scalars, 0, 3 * bytes, stream);
    if (status == Status::kOk) status = Fill(args.error_index, -1, sizeof(int64_t), stream);
    return status;
  }
  if (const Status status = CheckPointers(args); status != Status::kOk) return status;
  if (args.labels != nullptr && !IsLabelType(args.label_dtype)) return Status::kUnsupportedDType;
  GatheredPlan& plan = call->plan;
  Workspace workspace(args.workspace);
  call->candidates = LayOut(args, candidates, &workspace, &plan);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;

  plan.batch_size = static_cast<int>(args.batch_size);
  plan.embedding_dim = static_cast<int>(args.embedding_dim);
  plan.num_candidates = static_cast<int>(args.num_negatives);
  plan.user_emb = args.user_emb;
  plan.item_emb = args.item_emb;
  plan.user_row_stride = args.user_row_stride;
  plan.item_row_stride = args.item_row_stride;
  plan.normalise = !args.embed_normed;
  plan.label_dtype = args.label_dtype;
  plan.labels = args.labels;
  plan.weights = args.weights;
  plan.candidate_ids = args.candidate_ids;
  plan.sampling_probability = args.sampling_probability;
  plan.gamma = {args.gamma, args.on_device.gamma};
  plan.margin = {args.margin, args.on_device.margin};
  plan.t = {args.t, args.on_device.t};
  plan.refined = args.refined;
  plan.positive_in_softmax = args.positive_in_softmax;
  plan.negative_weight = {args.negative_weight, args.on_device.negative_weight};
  plan.loss = args.loss;
  plan.grad_user = args.grad_user;
  plan.grad_item = args.grad_item;
  plan.grad_weights = args.grad_weights;
  plan.grad_scalars = args.grad_scalars;
  plan.error_index = args.error_index;
  call->layout = LayoutOf(args);
  call->kernels = Kernels(args.dtype);
  return Fill(plan.control, 0, sizeof(Control), stream);
}

}  // namespace fastneg::cuda
