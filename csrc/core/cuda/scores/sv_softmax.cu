// support_vector_guided_softmax_loss on a CUDA device: checks, workspace, and the one pass over the scores.
#include "core/cuda/common/launch.h"
#include "core/cuda/scores/rows.cuh"
#include "core/sizes.h"
#include "core/workspace.h"

namespace fastneg::cuda {
namespace {

constexpr int kMostLanes = 32;
constexpr int64_t kCountedByBlock = 16 * kBlockThreads;

Status CheckSizes(const SvSoftmaxArgs& args) {
  int64_t elements = 0;
  if (!IsSize(args.num_rows) || !IsSize(args.num_negatives) ||
      __builtin_mul_overflow(args.num_rows, args.num_negatives, &elements) || !IsSize(elements) ||
      CeilDiv(args.num_rows, kBlockThreads / kMostLanes) > kMostBlocks) {
    return Status::kInvalidSize;
  }
  return IsEmbeddingType(args.dtype) ? Status::kOk : Status::kUnsupportedDType;
}

Status CheckPointers(const SvSoftmaxArgs& args) {
  const bool have_scores = args.pos_score != nullptr && (args.num_negatives == 0 || args.neg_scores != nullptr);
  const bool both_or_none = (args.grad_pos == nullptr) == (args.grad_neg == nullptr);
  const bool scalars_too = args.grad_scalars == nullptr || args.grad_neg != nullptr;
  const bool in_place = args.grad_neg != nullptr && args.num_negatives > 0 && args.grad_neg == args.neg_scores;
  const DType grad_dtype = args.narrow_grads ? args.dtype : ComputeType(args.dtype);
  if (!have_scores || !both_or_none || !scalars_too || (in_place && args.dtype != grad_dtype)) {
    return Status::kNullPointer;
  }
  return Status::kOk;
}

void LayOut(const SvSoftmaxArgs& args, Workspace* workspace, SvSoftmaxPlan* plan) {
  plan->control = static_cast<Control*>(workspace->Take(1, 1, sizeof(Control)));
  plan->count = static_cast<unsigned long long*>(workspace->Take(1, 1, sizeof(unsigned long long)));
  // For the layout with the most blocks, so that the size does not depend on alignment.
  const int64_t most_blocks = CeilDiv(args.num_rows, kBlockThreads / kMostLanes);
  plan->block_sums = static_cast<double*>(workspace->Take(most_blocks, kNumSums, sizeof(double)));
}

template <typename T>
__global__ void __launch_bounds__(kBlockThreads) CountKernel(const SvSoftmaxPlan plan) {
  __shared__ unsigned int counted;
  if (threadIdx.x == 0) counted = 0;
  __syncthreads();
  const int64_t begin = blockIdx.x * kCountedByBlock;
  const int64_t end = begin + kCountedByBlock < plan.num_rows ? begin + kCountedByBlock : plan.num_rows;
  unsigned int own = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kBlockThreads) {
    own += static_cast<const T*>(plan.weights)[i] != T(0);
  }
  atomicAdd(&counted, own);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(plan.count, static_cast<unsigned long long>(counted));
}

template <typename Layout>
Status LaunchRows(const SvSoftmaxPlan& plan, Stream stream) {
  const auto kernel = plan.grad_neg == nullptr && plan.grad_pos == nullptr ? SvSoftmaxKernel<Layout, false>
                                                                           : SvSoftmaxKernel<Layout, true>;
  return Launch(kernel, CeilDiv(plan.num_rows, Layout::kRows), kBlockThreads, stream, plan);
}

template <typename Storage>
Status LaunchStorage(const SvSoftmaxPlan& plan, bool packed, Stream stream) {
  const int64_t k = plan.num_negatives;
  if constexpr (sizeof(Storage) < 8) {
    constexpr int kVec = kWide<Storage>;
    if (packed) {
      if (k <= 8 * kVec) return LaunchRows<ScoreLayout<Storage, kVec, 8, 1>>(plan, stream);
      if (k <= 32 * kVec) return LaunchRows<ScoreLayout<Storage, kVec, 32, 1>>(plan, stream);
      if (k <= 64 * kVec) return LaunchRows<ScoreLayout<Storage, kVec, 32, 2>>(plan, stream);
      return LaunchRows<ScoreLayout<Storage, kVec, 32, 0>>(plan, stream);
    }
  }
  if (k <= 16) return LaunchRows<ScoreLayout<Storage, 1, 4, 4>>(plan, stream);
  if (k <= 128) return LaunchRows<ScoreLayout<Storage, 1, 32, 4>>(plan, stream);
  if (k <= 512) return LaunchRows<ScoreLayout<Storage, 1, 32, 16>>(plan, stream);
  return LaunchRows<ScoreLayout<Storage, 1, 32, 0>>(plan, stream);
}

// Whether scores can be read, and their gradients written, 16 bytes at a time.
bool IsPacked(const SvSoftmaxArgs& args) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const int64_t wide = args.dtype == DType::kFloat32 ? 4 : 8;
  return args.num_negatives > 0 && args.num_negatives % wide == 0 && aligned(args.neg_scores) && aligned(args.grad_neg);
}

}  // namespace

size_t SvSoftmaxWorkspaceBytes(const SvSoftmaxArgs& args) {
  if (CheckSizes(args) != Status::kOk || args.num_rows == 0) return 0;
  Workspace workspace(nullptr);
  SvSoftmaxPlan plan;
  LayOut(args, &workspace, &plan);
  return workspace.overflow() ? 0 : workspace.used();
}

Status SvSoftmax(const SvSoftmaxArgs& args, Stream stream) {
  if (const Status status = CheckSizes(args); status != Status::kOk) return status;
  if (args.loss == nullptr) return Status::kNullPointer;
  const size_t bytes = ComputeBytes(args.dtype);
  if (args.num_rows == 0) {
    const Status status = Fill(args.loss, 0, bytes, stream);
    return status == Status::kOk ? Fill(args.grad_scalars, 0, 3 * bytes, stream) : status;
  }
  if (const Status status = CheckPointers(args); status != Status::kOk) return status;
  SvSoftmaxPlan plan;
  Workspace workspace(args.workspace);
  LayOut(args, &workspace, &plan);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;

  plan.num_rows = args.num_rows;
  plan.num_negatives = args.num_negatives;
  plan.pos_score = args.pos_score;
  plan.neg_scores = args.neg_scores;
  plan.weights = args.weights;
  plan.margin = {args.margin, args.on_device.margin};
  plan.t = {args.t, args.on_device.t};
  plan.smooth = {args.smooth, args.on_device.smooth};
  plan.threshold = {args.threshold, args.on_device.threshold};
  plan.loss = args.loss;
  plan.narrow_grads = args.narrow_grads;
  plan.grad_pos = args.grad_pos;
  plan.grad_neg = args.grad_neg;
  plan.grad_weights = args.weights == nullptr ? nullptr : args.grad_weights;
  plan.grad_scalars = args.grad_scalars;

  Status status = Fill(plan.control, 0, sizeof(Control), stream);
  if (status != Status::kOk) return status;
  if (args.weights != nullptr) {
    status = Fill(plan.count, 0, sizeof(*plan.count), stream);
    if (status != Status::kOk) return status;
    const auto count = bytes == 8 ? CountKernel<double> : CountKernel<float>;
    status = Launch(count, CeilDiv(args.num_rows, kCountedByBlock), kBlockThreads, stream, plan);
    if (status != Status::kOk) return status;
  }
  const bool packed = IsPacked(args);
  switch (args.dtype) {
    case DType::kFloat16:
      return LaunchStorage<Float16>(plan, packed, stream);
    case DType::kBFloat16:
      return LaunchStorage<BFloat16>(plan, packed, stream);
    case DType::kFloat32:
      return LaunchStorage<float>(plan, packed, stream);
    default:
      return LaunchStorage<double>(plan, packed, stream);
  }
}

}  // namespace fastneg::cuda
