// softmax_loss_with_negative_mining on the CPU: checks, workspace, and the three passes.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "core/api.h"
#include "core/cpu/gathered_plan.h"
#include "core/cpu/isa.h"
#include "core/cpu/labels.h"
#include "core/cpu/workspace.h"

namespace fastneg {
namespace {

using cpu::GatheredPlan;
using cpu::kMaxTileRows;

constexpr int64_t kLineBytes = 64;
constexpr int64_t kGroup = 16;  // Candidates that a tile's rows meet before the next ones.
constexpr int64_t kTasksPerThread = 4;

int64_t CeilDiv(int64_t x, int64_t y) { return (x + y - 1) / y; }
int64_t RoundUp(int64_t x, int64_t multiple) { return CeilDiv(x, multiple) * multiple; }

int64_t SecondLevelCacheBytes() {
  static const int64_t bytes = [] {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (reported > 0) return std::clamp<int64_t>(reported, 256 << 10, 4 << 20);
#endif
    return int64_t{1} << 20;
  }();
  return bytes;
}

size_t ComputeBytes(DType dtype) { return ComputeType(dtype) == DType::kFloat64 ? 8 : 4; }

Status CheckSizes(const RolledSoftmaxArgs& args) {
  constexpr int64_t kLargest = int64_t{1} << 48;  // Beyond any memory; keeps the arithmetic below far from overflow.
  const int64_t b = args.batch_size;
  if (b < 0 || b > kLargest || args.embedding_dim < 0 || args.embedding_dim > kLargest) return Status::kInvalidSize;
  if (b > 0 && (args.num_negatives < 1 || args.num_negatives >= b)) return Status::kInvalidSize;
  if (b > 1 && (args.user_row_stride < args.embedding_dim || args.item_row_stride < args.embedding_dim)) {
    return Status::kInvalidSize;
  }
  switch (args.dtype) {
    case DType::kFloat16:
    case DType::kBFloat16:
    case DType::kFloat32:
    case DType::kFloat64:
      return Status::kOk;
    default:
      return Status::kUnsupportedDType;
  }
}

Status CheckPointers(const RolledSoftmaxArgs& args) {
  const bool have_rows = args.embedding_dim == 0 || (args.user_emb != nullptr && args.item_emb != nullptr);
  const bool both_or_none = (args.grad_user == nullptr) == (args.grad_item == nullptr);
  const bool ok = have_rows && args.labels != nullptr && args.shifts != nullptr && both_or_none;
  return ok ? Status::kOk : Status::kNullPointer;
}

// Asks for huge pages where a buffer is large: freshly mapped memory costs one page fault for every 2 MiB then instead
// of one for every 4 KiB, which is a good part of a call's time.
void PreferHugePages(void* buffer, size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHugePage = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(buffer) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(buffer) + bytes) / kHugePage * kHugePage;
  if (buffer != nullptr && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)buffer;
  (void)bytes;
#endif
}

struct Arrays {
  GatheredPlan plan;
  int64_t* shifts = nullptr;
  uint8_t* active = nullptr;
};

// Rows of a tile. Every tile walks past all candidate rows once, so the larger the better, as long as its own rows,
// their gradients and the window of candidates that a group of sorted shifts spans stay in the second-level cache
// together.
int64_t TileRows(const GatheredPlan& plan, int64_t element_bytes, int num_threads) {
  const int64_t row_bytes = std::max<int64_t>(plan.row_stride * element_bytes, 1);
  const int64_t window = kGroup * plan.batch_size / plan.num_candidates;
  const int64_t cached = (SecondLevelCacheBytes() / 4 * 3 / row_bytes - std::min(window, plan.batch_size)) / 3;
  const int64_t balanced = plan.batch_size / (kTasksPerThread * std::max(num_threads, 1));
  const int64_t rows = std::clamp<int64_t>(std::min(cached, balanced), cpu::kSumRows, kMaxTileRows);
  return rows / cpu::kSumRows * cpu::kSumRows;
}

// Sizes of the plan, and its arrays cut from `workspace`.
Arrays LayOut(const RolledSoftmaxArgs& args, cpu::Workspace* workspace) {
  Arrays arrays;
  GatheredPlan& plan = arrays.plan;
  const int64_t b = args.batch_size;
  const size_t bytes = ComputeBytes(args.dtype);
  const int64_t line = kLineBytes / static_cast<int64_t>(bytes);
  plan.batch_size = b;
  plan.embedding_dim = args.embedding_dim;
  plan.num_candidates = args.num_negatives;
  plan.row_stride = RoundUp(std::max<int64_t>(args.embedding_dim, 1), line);
  // Inner loops take rows four lines at a time where they can: one more line is cheaper than three single ones.
  if (plan.row_stride / line % 4 == 3) plan.row_stride += line;
  // Rows a multiple of 1 KiB apart share few cache sets; one more line spreads them.
  if (plan.row_stride > 0 && plan.row_stride * static_cast<int64_t>(bytes) % 1024 == 0) plan.row_stride += line;
  plan.exp_stride = RoundUp(b, line);
  if (plan.exp_stride * static_cast<int64_t>(bytes) % 1024 == 0) plan.exp_stride += line;
  plan.tile_rows = TileRows(plan, static_cast<int64_t>(bytes), args.executor.num_threads);
  plan.num_tiles = CeilDiv(b, plan.tile_rows);
  plan.num_blocks = CeilDiv(b, cpu::kSumRows);

  arrays.shifts = static_cast<int64_t*>(workspace->Take(args.num_negatives, 1, sizeof(int64_t)));
  arrays.active = static_cast<uint8_t*>(workspace->Take(b, 1, 1));
  plan.shifts = arrays.shifts;
  plan.active = arrays.active;
  plan.block_sums = static_cast<double*>(workspace->Take(plan.num_blocks, 4, sizeof(double)));
  plan.user = workspace->Take(b, plan.row_stride, bytes);
  plan.item = workspace->Take(b, plan.row_stride, bytes);
  plan.item_inverse = workspace->Take(b, 1, bytes);
  if (args.sampling_probability != nullptr) plan.neg_log_prob = workspace->Take(b, 1, bytes);
  if (args.embed_normed) plan.block_norms = workspace->Take(plan.num_blocks, 1, bytes);
  if (args.grad_user != nullptr) {
    plan.positive_weights = workspace->Take(b, 1, bytes);
    plan.exp_weights = workspace->Take(args.num_negatives, plan.exp_stride, bytes);
  }
  return arrays;
}

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

// Rows that take part, and 1 / number of those with a weight.
template <typename T>
double ActivateRows(const RolledSoftmaxArgs& args, uint8_t* active) {
  int64_t count = 0;
  if (args.weights == nullptr) {
    for (int64_t i = 0; i < args.batch_size; ++i) count += active[i];
  } else {
    const T* weights = static_cast<const T*>(args.weights);
    const bool all = args.grad_weights != nullptr;  // A row of weight 0 still has a loss to tell its weight.
    for (int64_t i = 0; i < args.batch_size; ++i) {
      const uint8_t weighted = active[i] & (weights[i] != T(0));
      count += weighted;
      if (!all) active[i] = weighted;
    }
  }
  return count == 0 ? 0.0 : 1.0 / static_cast<double>(count);
}

template <typename T>
double LargestNegLogProb(const RolledSoftmaxArgs& args) {
  const T* q = static_cast<const T*>(args.sampling_probability);
  T lowest = T(1e30);
  for (int64_t i = 0; i < args.batch_size; ++i) lowest = q[i] < lowest ? q[i] : lowest;
  return -std::log(std::max(static_cast<double>(lowest), 1e-9)) + 1e-5;
}

template <typename T>
void StoreResults(const RolledSoftmaxArgs& args, const GatheredPlan& plan) {
  double sums[4] = {};
  for (int64_t block = 0; block < plan.num_blocks; ++block) {
    for (int s = 0; s < 4; ++s) sums[s] += plan.block_sums[4 * block + s];
  }
  *static_cast<T*>(args.loss) = static_cast<T>(sums[0]);
  if (args.grad_scalars != nullptr) {
    for (int s = 0; s < 3; ++s) static_cast<T*>(args.grad_scalars)[s] = static_cast<T>(sums[s + 1]);
  }
}

void RunPhases(const Executor& executor, const Phase* phases, int num_phases, void* context) {
  if (executor.run != nullptr) return executor.run(executor.self, phases, num_phases, context);
  for (int p = 0; p < num_phases; ++p) {
    for (int64_t i = 0; i < phases[p].num_tasks; ++i) phases[p].task(context, i);
  }
}

}  // namespace

size_t RolledSoftmaxWorkspaceBytes(const RolledSoftmaxArgs& args) {
  if (CheckSizes(args) != Status::kOk || args.batch_size == 0) return 0;
  cpu::Workspace workspace(nullptr);
  LayOut(args, &workspace);
  return workspace.overflow() ? 0 : workspace.used();
}

int WorthwhileThreads(const RolledSoftmaxArgs& args, int num_threads) {
  // Measured: 2^20 elements, with gradients, take one thread 0.1 ms and two threads no less, as they wait for each
  // other three times and read from each other's caches.
  constexpr double kSavedElements = 1 << 19;
  constexpr double kPassesOverRows = 4;  // Preparation and normalisation, in terms of candidates.
  const double elements = static_cast<double>(args.batch_size) * static_cast<double>(args.embedding_dim) *
                          (static_cast<double>(args.num_negatives) + kPassesOverRows) *
                          (args.grad_user == nullptr ? 0.5 : 1.0) * (args.dtype == DType::kFloat64 ? 2.0 : 1.0);
  return elements - elements / num_threads < kSavedElements ? 1 : num_threads;
}

Status RolledSoftmax(const RolledSoftmaxArgs& args) {
  const cpu::KernelTable* kernels = cpu::ActiveKernels();
  if (kernels == nullptr) return Status::kIsaUnavailable;
  if (const Status status = CheckSizes(args); status != Status::kOk) return status;
  if (args.loss == nullptr) return Status::kNullPointer;
  const bool is_double = ComputeType(args.dtype) == DType::kFloat64;
  GatheredPlan empty;
  if (args.batch_size == 0) {
    is_double ? StoreResults<double>(args, empty) : StoreResults<float>(args, empty);
    return Status::kOk;
  }
  if (const Status status = CheckPointers(args); status != Status::kOk) return status;
  cpu::Workspace workspace(args.workspace);
  Arrays arrays = LayOut(args, &workspace);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;
  PreferHugePages(args.workspace, workspace.used());
  const size_t grad_bytes = static_cast<size_t>(args.batch_size * args.embedding_dim) * ComputeBytes(args.dtype);
  PreferHugePages(args.grad_user, grad_bytes);
  PreferHugePages(args.grad_item, grad_bytes);
  if (const Status status = SortShifts(args, arrays.shifts); status != Status::kOk) return status;
  if (!cpu::CountedRows(args.labels, args.label_dtype, args.batch_size, arrays.active)) {
    return Status::kUnsupportedDType;
  }

  GatheredPlan& plan = arrays.plan;
  plan.dtype = args.dtype;
  plan.user_emb = args.user_emb;
  plan.item_emb = args.item_emb;
  plan.user_row_stride = args.user_row_stride;
  plan.item_row_stride = args.item_row_stride;
  plan.normalise = !args.embed_normed;
  plan.weights = args.weights;
  plan.candidate_ids = args.candidate_ids;
  plan.sampling_probability = args.sampling_probability;
  plan.gamma = args.gamma;
  plan.margin = args.margin;
  plan.t = args.t;
  plan.inverse_count = is_double ? ActivateRows<double>(args, arrays.active) : ActivateRows<float>(args, arrays.active);
  if (args.sampling_probability != nullptr) {
    plan.max_neg_log_prob = is_double ? LargestNegLogProb<double>(args) : LargestNegLogProb<float>(args);
  }
  plan.sparse = plan.inverse_count * static_cast<double>(args.batch_size) > 1.5;
  plan.grad_user = args.grad_user;
  plan.grad_item = args.grad_item;
  plan.grad_weights = args.grad_weights;
  plan.want_scalars = args.grad_scalars != nullptr;

  const Phase phases[] = {
      {plan.num_tiles, kernels->prepare_items[is_double]},
      {plan.num_tiles, kernels->score_rows[is_double]},
      {plan.num_tiles, kernels->gather_item_grads[is_double]},
  };
  RunPhases(args.executor, phases, args.grad_user == nullptr ? 2 : 3, &plan);
  is_double ? StoreResults<double>(args, plan) : StoreResults<float>(args, plan);
  return Status::kOk;
}

namespace {

constexpr int64_t kScaleTask = 1 << 16;  // Elements: large enough to be worth handing to a thread.

struct ScaleContext {
  const ScaleGradArgs* args;
  const cpu::KernelTable* kernels;
};

void ScaleTask(void* context, int64_t index) {
  const auto& scale = *static_cast<const ScaleContext*>(context);
  const int64_t begin = index * kScaleTask;
  scale.kernels->scale_grad(*scale.args, begin, std::min(begin + kScaleTask, scale.args->size));
}

}  // namespace

Status ScaleGrad(const ScaleGradArgs& args) {
  ScaleContext context{&args, cpu::ActiveKernels()};
  if (context.kernels == nullptr) return Status::kIsaUnavailable;
  if (args.size < 0) return Status::kInvalidSize;
  if (args.size > 0 && (args.unit_grad == nullptr || args.out == nullptr)) return Status::kNullPointer;
  const Phase phase{(args.size + kScaleTask - 1) / kScaleTask, ScaleTask};
  RunPhases(args.executor, &phase, 1, &context);
  return Status::kOk;
}

}  // namespace fastneg
