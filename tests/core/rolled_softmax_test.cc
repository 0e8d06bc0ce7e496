// RolledSoftmax on every instruction set that the machine has: values against naive_rolled_softmax.h, the same
// bits for every number of threads, and a status for every bad argument. All buffers have exactly the size that
// api.h names and the least alignment that it allows, so that the sanitizers see the smallest step outside.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "core/api.h"
#include "tests/core/check.h"
#include "tests/core/naive_rolled_softmax.h"

namespace fastneg {
namespace {

using testing::Problem;
using testing::Solution;

// `num_bytes` of memory that start `offset` bytes after a 64-byte boundary and end where the allocation ends.
class Buffer {
 public:
  explicit Buffer(size_t num_bytes, size_t offset = 0) : num_bytes_(num_bytes), offset_(offset) {
    FASTNEG_CHECK(posix_memalign(&start_, 64, num_bytes + offset) == 0);
    std::memset(start_, 0xA5, num_bytes + offset);
  }
  ~Buffer() { std::free(start_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() { return static_cast<char*>(start_) + offset_; }
  size_t size() const { return num_bytes_; }

 private:
  size_t num_bytes_, offset_;
  void* start_ = nullptr;
};

size_t SizeOf(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// Bits of the nearest float16 or bfloat16 to `value`, and the value that they stand for. Numbers near 1 only.
uint16_t ToBits(DType dtype, float value, double* rounded) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const int dropped = dtype == DType::kBFloat16 ? 16 : 13;
  if (dtype == DType::kFloat16 && std::fabs(value) < 6.2e-5f) bits &= 0x80000000u;  // No subnormal numbers here.
  bits = (bits + (1u << (dropped - 1))) & ~((1u << dropped) - 1);
  float kept;
  std::memcpy(&kept, &bits, 4);
  *rounded = kept;
  if (dtype == DType::kBFloat16) return static_cast<uint16_t>(bits >> 16);
  if (kept == 0) return static_cast<uint16_t>(bits >> 16);
  const uint32_t exponent = ((bits >> 23) & 0xff) - 127 + 15;
  return static_cast<uint16_t>((bits >> 31) << 15 | exponent << 10 | ((bits >> 13) & 0x3ff));
}

// Stores `value` as element `index` and returns what the rounding made of it.
double Store(DType dtype, void* data, int64_t index, double value) {
  if (dtype == DType::kFloat64) {
    static_cast<double*>(data)[index] = value;
  } else if (dtype == DType::kFloat32) {
    value = static_cast<float*>(data)[index] = static_cast<float>(value);
  } else {
    static_cast<uint16_t*>(data)[index] = ToBits(dtype, static_cast<float>(value), &value);
  }
  return value;
}

double Load(DType dtype, void* data, int64_t index) {
  return dtype == DType::kFloat64 ? static_cast<double*>(data)[index] : static_cast<float*>(data)[index];
}

struct Case {
  int64_t batch_size, num_negatives, embedding_dim;
  DType dtype;
  int variant;          // Its bits choose the options.
  int row_options = 0;  // The positive in the softmax, or out of it in several ways.
};

// One problem in both forms: numbers for the naive solution, buffers for the core.
class Trial {
 public:
  explicit Trial(const Case& test)
      : dtype_(test.dtype),
        compute_(ComputeType(test.dtype)),
        batch_(test.batch_size),
        dim_(test.embedding_dim),
        stride_(test.embedding_dim + ((test.variant & 1) != 0 ? 3 : 0)),
        user_emb_(RowsBytes(), SizeOf(dtype_)),
        item_emb_(RowsBytes(), SizeOf(dtype_)),
        labels_(static_cast<size_t>(batch_), 1),
        weights_(Count(batch_) * SizeOf(compute_), SizeOf(compute_)),
        probability_(Count(batch_) * SizeOf(compute_), SizeOf(compute_)),
        ids_(Count(batch_) * 8, 8),
        shifts_(Count(test.num_negatives) * 8, 8),
        loss_(SizeOf(compute_), SizeOf(compute_)),
        grad_user_(Count(batch_ * dim_) * SizeOf(compute_), SizeOf(compute_)),
        grad_item_(Count(batch_ * dim_) * SizeOf(compute_), SizeOf(compute_)),
        grad_weights_(Count(batch_) * SizeOf(compute_), SizeOf(compute_)),
        grad_scalars_(3 * SizeOf(compute_), SizeOf(compute_)) {
    std::mt19937_64 random(static_cast<uint64_t>(batch_ * 1000 + dim_ * 10 + test.variant));
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    Problem& p = problem;
    p.batch_size = batch_;
    p.embedding_dim = dim_;
    p.embed_normed = (test.variant & 2) != 0;
    p.gamma = p.embed_normed ? 0.5 : 20;
    p.margin = 0.1;
    p.t = 1.2;
    constexpr double kNegativeWeights[] = {1, 1, 1.3, 0, -1e-9};
    p.positive_in_softmax = test.row_options == 0;
    p.negative_weight = kNegativeWeights[test.row_options];
    p.refined = !p.positive_in_softmax && (test.variant & 8) != 0 && (test.variant & 1) != 0;
    for (int64_t i = 0; i < batch_; ++i) {
      const double zero_row = i == 2 ? 0 : 1;  // A row without a direction.
      for (int64_t d = 0; d < dim_; ++d) {
        p.user_emb.push_back(Store(dtype_, user_emb_.data(), i * stride_ + d, zero_row * normal(random)));
        p.item_emb.push_back(Store(dtype_, item_emb_.data(), i * stride_ + d, zero_row * normal(random)));
      }
      const bool counted = uniform(random) < 0.8;
      p.counted.push_back(counted);
      static_cast<uint8_t*>(labels_.data())[i] = counted;
      const bool weighted = (test.variant & 4) != 0;
      const double weight = weighted ? (i % 5 == 1 ? 0 : uniform(random)) : 1;
      p.weights.push_back(Store(compute_, weights_.data(), i, weight));
      if ((test.variant & 8) != 0) {
        p.sampling_probability.push_back(Store(compute_, probability_.data(), i, i == 3 ? 0 : uniform(random)));
        p.candidate_ids.push_back(static_cast<int64_t*>(ids_.data())[i] = static_cast<int64_t>(random() % 7));
      }
    }
    for (int64_t k = 0; k < test.num_negatives; ++k) {
      int64_t shift = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(batch_ - 1));
      if (k % 3 == 1) shift -= 5 * batch_;  // Any representative modulo the batch size will do.
      p.shifts.push_back(static_cast<int64_t*>(shifts_.data())[k] = shift);
    }

    args.batch_size = batch_;
    args.embedding_dim = dim_;
    args.num_negatives = test.num_negatives;
    args.dtype = dtype_;
    args.user_emb = user_emb_.data();
    args.item_emb = item_emb_.data();
    args.user_row_stride = args.item_row_stride = stride_;
    args.embed_normed = p.embed_normed;
    args.label_dtype = DType::kUInt8;
    args.labels = labels_.data();
    if ((test.variant & 4) != 0) args.weights = weights_.data();
    args.shifts = static_cast<const int64_t*>(shifts_.data());
    args.gamma = p.gamma;
    args.margin = p.margin;
    args.t = p.t;
    args.refined = p.refined;
    args.positive_in_softmax = p.positive_in_softmax;
    args.negative_weight = p.negative_weight;
    if ((test.variant & 8) != 0) {
      args.sampling_probability = probability_.data();
      args.candidate_ids = static_cast<const int64_t*>(ids_.data());
    }
    args.loss = loss_.data();
  }

  void AskForGradients() {
    args.grad_user = grad_user_.data();
    args.grad_item = grad_item_.data();
    if (args.weights != nullptr) args.grad_weights = grad_weights_.data();
    args.grad_scalars = grad_scalars_.data();
  }

  Status Run(int num_threads) {
    Buffer workspace(RolledSoftmaxWorkspaceBytes(args));
    args.workspace = workspace.data();
    args.workspace_bytes = workspace.size();
    args.executor = num_threads == 0 ? Executor() : PoolExecutor(num_threads);
    return RolledSoftmax(args);
  }

  // All results in one string of bytes.
  std::vector<char> Results() {
    std::vector<char> bytes;
    for (Buffer* buffer : {&loss_, &grad_user_, &grad_item_, &grad_weights_, &grad_scalars_}) {
      const char* data = static_cast<const char*>(buffer->data());
      bytes.insert(bytes.end(), data, data + buffer->size());
    }
    return bytes;
  }

  double loss() { return Load(compute_, loss_.data(), 0); }

  // Errors relative to the largest value of a result, or to a typical one where they all cancel.
  void CheckAgainst(const Solution& truth) {
    const double tolerance = compute_ == DType::kFloat64 ? 1e-11 : 2e-5;
    CheckClose(&loss_, &truth.loss, 1, tolerance);
    if (args.grad_user == nullptr) return;
    CheckClose(&grad_user_, truth.grad_user.data(), truth.grad_user.size(), tolerance);
    CheckClose(&grad_item_, truth.grad_item.data(), truth.grad_item.size(), tolerance);
    CheckClose(&grad_scalars_, truth.grad_scalars, 3, tolerance);
    if (args.weights == nullptr) return;
    CheckClose(&grad_weights_, truth.grad_weights.data(), truth.grad_weights.size(), tolerance);
  }

  Problem problem;
  RolledSoftmaxArgs args;

 private:
  static size_t Count(int64_t count) { return static_cast<size_t>(count); }

  // The last row ends where its numbers end, without the stride's gap.
  size_t RowsBytes() const { return Count((batch_ - 1) * stride_ + dim_) * SizeOf(dtype_); }

  void CheckClose(Buffer* buffer, const double* truth, size_t size, double tolerance) {
    double largest = problem.gamma / static_cast<double>(batch_);
    for (size_t i = 0; i < size; ++i) largest = std::max(largest, std::fabs(truth[i]));
    for (size_t i = 0; i < size; ++i) {
      const double value = Load(compute_, buffer->data(), static_cast<int64_t>(i));
      if (std::fabs(value - truth[i]) <= tolerance * largest) continue;
      std::fprintf(stderr, "element %zu of %zu: %.9g instead of %.9g (largest %.3g)\n", i, size, value, truth[i],
                   largest);
      FASTNEG_CHECK(false);
    }
  }

  DType dtype_, compute_;
  int64_t batch_, dim_, stride_;
  Buffer user_emb_, item_emb_, labels_, weights_, probability_, ids_, shifts_;
  Buffer loss_, grad_user_, grad_item_, grad_weights_, grad_scalars_;
};

void TestValues(const Case& test) {
  Trial forward(test);
  const Solution truth = testing::Solve(forward.problem);
  FASTNEG_CHECK(forward.Run(2) == Status::kOk);
  forward.CheckAgainst(truth);

  Trial trial(test);
  trial.AskForGradients();
  FASTNEG_CHECK(trial.Run(0) == Status::kOk);
  trial.CheckAgainst(truth);
  const std::vector<char> results = trial.Results();
  for (int num_threads : {1, 2, 8}) {
    FASTNEG_CHECK(trial.Run(num_threads) == Status::kOk);
    FASTNEG_CHECK(trial.Results() == results);
  }
}

void TestManyShapes() {
  constexpr int64_t kShapes[][3] = {{2, 1, 1},   {3, 2, 5},    {5, 1, 64},     {17, 16, 3},   {33, 7, 50},
                                    {64, 4, 64}, {100, 37, 8}, {130, 20, 100}, {257, 64, 16}, {300, 33, 31}};
  int variant = 0;
  for (const auto& shape : kShapes) {
    for (DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
      for (int repeat = 0; repeat < 4; ++repeat) {
        TestValues({shape[0], shape[1], shape[2], dtype, variant});
        TestValues({shape[0], shape[1], shape[2], dtype, variant, 1 + repeat});
        variant = (variant + 5) % 16;  // Visits all sixteen, in an order that mixes with dtypes and shapes.
      }
      variant = (variant + 1) % 16;
    }
  }
}

void TestBadArguments() {
  const Case test = {10, 3, 4, DType::kFloat32, 0};
  const auto status_after = [&](auto change) {
    Trial trial(test);
    change(&trial.args);
    return trial.Run(1);
  };
  using Args = RolledSoftmaxArgs;
  FASTNEG_CHECK(status_after([](Args*) {}) == Status::kOk);
  FASTNEG_CHECK(status_after([](Args* a) { a->num_negatives = 10; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->num_negatives = 0; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->batch_size = -1; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->embedding_dim = -1; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->item_row_stride = 3; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->dtype = DType::kInt32; }) == Status::kUnsupportedDType);
  FASTNEG_CHECK(status_after([](Args* a) { a->user_emb = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->item_emb = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->shifts = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->loss = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->negative_weight = 2; }) == Status::kInvalidOption);
  FASTNEG_CHECK(status_after([](Args* a) { a->refined = true; }) == Status::kInvalidOption);
  const auto refine = [](Args* a) {
    a->refined = true;
    a->positive_in_softmax = false;
  };
  FASTNEG_CHECK(status_after(refine) == Status::kInvalidOption);  // Without probabilities.

  int64_t index = -1;
  const int64_t shifts[] = {1, INT64_MIN / 10 * 10, 3};
  const auto use_bad_shift = [&](Args* a) {
    a->shifts = shifts;
    a->error_index = &index;
  };
  FASTNEG_CHECK(status_after(use_bad_shift) == Status::kShiftIsMultiple);
  FASTNEG_CHECK(index == 1);

  Trial trial(test);
  Buffer workspace(RolledSoftmaxWorkspaceBytes(trial.args) - 1);
  trial.args.workspace = workspace.data();
  trial.args.workspace_bytes = workspace.size();
  FASTNEG_CHECK(RolledSoftmax(trial.args) == Status::kWorkspaceTooSmall);
}

void TestEmptyBatch() {
  RolledSoftmaxArgs args;
  float loss = 1;
  float grad_scalars[3] = {1, 1, 1};
  args.num_negatives = 4;
  args.loss = &loss;
  args.grad_scalars = grad_scalars;
  FASTNEG_CHECK(RolledSoftmaxWorkspaceBytes(args) == 0);
  FASTNEG_CHECK(RolledSoftmax(args) == Status::kOk);
  FASTNEG_CHECK(loss == 0 && grad_scalars[0] == 0 && grad_scalars[1] == 0 && grad_scalars[2] == 0);
}

void TestScaleGrad() {
  for (int64_t size : {0, 1, 33, 200'000}) {
    for (DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
      const DType compute = ComputeType(dtype);
      Buffer in(static_cast<size_t>(size) * SizeOf(compute), SizeOf(compute));
      Buffer out(static_cast<size_t>(size) * SizeOf(dtype), SizeOf(dtype));
      for (int64_t i = 0; i < size; ++i) Store(compute, in.data(), i, 1.0 + static_cast<double>(i % 7));
      ScaleGradArgs args;
      args.size = size;
      args.dtype = dtype;
      args.unit_grad = in.data();
      args.out = out.data();
      args.scale = 0.5;
      args.executor = PoolExecutor(2);
      FASTNEG_CHECK(ScaleGrad(args) == Status::kOk);
      Buffer expected(out.size(), SizeOf(dtype));
      for (int64_t i = 0; i < size; ++i) Store(dtype, expected.data(), i, 0.5 * (1.0 + static_cast<double>(i % 7)));
      FASTNEG_CHECK(std::memcmp(out.data(), expected.data(), out.size()) == 0);
    }
  }
}

}  // namespace
}  // namespace fastneg

int main() {
  using namespace fastneg;
  for (const char* const* isa = AvailableIsas(); *isa != nullptr; ++isa) {
    std::printf("%s\n", *isa);
    FASTNEG_CHECK(SetIsa(*isa));
    TestManyShapes();
    TestBadArguments();
    TestEmptyBatch();
    TestScaleGrad();
  }
  FASTNEG_CHECK(!SetIsa("x86-64-v5"));
}
