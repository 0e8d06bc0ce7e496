// The CUDA kernels against the CPU core, on small problems, every buffer of exactly the size that it needs.
//
// One source for two programs: compiled by the C++ compiler with the stand-in for CUDA beside it, for the address
// sanitizer; and by nvcc, for a GPU and its sanitizer (benchmarks/gpu_proof.py runs that).
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "core/api.h"
#include "core/cuda/api.h"
#include "tests/core/check.h"

namespace fastneg {
namespace {

// Whether memory starts as NaN, so that a result that is not written shows. Else it starts as it is found, which lets
// tools see what is read before it is written.
bool poison = true;

// Memory of the device.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes) : bytes_(bytes) {
    FASTNEG_CHECK(cudaMalloc(&memory_, bytes) == cudaSuccess);
    if (poison) FASTNEG_CHECK(cudaMemset(memory_, 0xff, bytes) == cudaSuccess);
  }
  explicit DeviceBuffer(const std::vector<char>& contents) : DeviceBuffer(contents.size()) {
    FASTNEG_CHECK(cudaMemcpy(memory_, contents.data(), bytes_, cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~DeviceBuffer() { cudaFree(memory_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* get() const { return memory_; }

  std::vector<char> Read() const {
    std::vector<char> contents(bytes_);
    FASTNEG_CHECK(cudaMemcpy(contents.data(), memory_, bytes_, cudaMemcpyDeviceToHost) == cudaSuccess);
    return contents;
  }

 private:
  const size_t bytes_;
  void* memory_ = nullptr;
};

size_t ComputeBytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

void Append(const void* value, size_t bytes, std::vector<char>* out) {
  const char* p = static_cast<const char*>(value);
  out->insert(out->end(), p, p + bytes);
}

// `values` in a type that holds them exactly if they are multiples of 1/64 below 2.
std::vector<char> Encode(const std::vector<double>& values, DType dtype) {
  std::vector<char> out;
  for (const double value : values) {
    const float narrow = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof(bits));
    uint16_t half = static_cast<uint16_t>(bits >> 16);
    if (dtype == DType::kFloat64) {
      Append(&value, sizeof(value), &out);
    } else if (dtype == DType::kFloat32) {
      Append(&narrow, sizeof(narrow), &out);
    } else {
      if (dtype == DType::kFloat16) {
        const uint32_t magnitude = bits & 0x7fffffff;
        half = static_cast<uint16_t>((bits >> 16 & 0x8000) | (magnitude == 0 ? 0 : (magnitude - (112u << 23)) >> 13));
      }
      Append(&half, sizeof(half), &out);
    }
  }
  return out;
}

template <typename T>
std::vector<char> Bytes(const std::vector<T>& values) {
  std::vector<char> out;
  for (const T& value : values) Append(&value, sizeof(value), &out);
  return out;
}

std::vector<double> Decode(const std::vector<char>& bytes, DType compute) {
  std::vector<double> values;
  for (size_t at = 0; at < bytes.size(); at += ComputeBytes(compute)) {
    double wide;
    float narrow;
    if (compute == DType::kFloat64) {
      std::memcpy(&wide, bytes.data() + at, sizeof(wide));
    } else {
      std::memcpy(&narrow, bytes.data() + at, sizeof(narrow));
      wide = narrow;
    }
    values.push_back(wide);
  }
  return values;
}

std::vector<double> RandomValues(size_t size, std::mt19937* random) {
  std::uniform_int_distribution<int> parts(-127, 127);
  std::vector<double> values(size);
  for (double& value : values) value = parts(*random) / 64.0;
  return values;
}

// A result on both sides.
struct Result {
  const char* name;
  std::vector<char> on_cpu;
  DeviceBuffer on_device;

  Result(const char* result_name, size_t bytes) : name(result_name), on_cpu(bytes, '\xff'), on_device(bytes) {}

  void Compare(DType dtype, double usual) const {
    const DType compute = ComputeType(dtype);
    const std::vector<double> expected = Decode(on_cpu, compute);
    const std::vector<double> actual = Decode(on_device.Read(), compute);
    double scale = usual, error = 0;
    for (const double value : expected) scale = std::max(scale, std::fabs(value));
    for (size_t e = 0; e < expected.size(); ++e) {
      FASTNEG_CHECK(std::isfinite(actual[e]));
      error = std::max(error, std::fabs(actual[e] - expected[e]));
    }
    const double allowed = (compute == DType::kFloat64 ? 1e-13 : 2e-5) * scale;
    if (error > allowed) std::fprintf(stderr, "%s: error %g, allowed %g\n", name, error, allowed);
    FASTNEG_CHECK(error <= allowed);
  }
};

struct Shape {
  int64_t batch_size, num_negatives, embedding_dim;
};

// Everything that the arguments of the gathered losses point to. `with_all`: the optional inputs too.
template <typename Args>
class GatheredCase {
 public:
  GatheredCase(const Shape& shape, DType dtype, bool with_all)
      : shape_(shape), dtype_(dtype), with_all_(with_all), random_(static_cast<uint32_t>(shape.embedding_dim)) {}

  // `set_candidates(args, on_device)` adds what tells the candidates apart.
  template <typename SetCandidates>
  void Run(const SetCandidates& set_candidates) {
    const size_t rows = static_cast<size_t>(shape_.batch_size);
    const size_t elements = rows * static_cast<size_t>(shape_.embedding_dim);
    std::vector<double> labels(rows), weights(rows), probabilities(rows);
    std::vector<int64_t> ids(rows);
    for (size_t i = 0; i < rows; ++i) {
      labels[i] = i % 5 != 1;
      weights[i] = i % 7 == 2 ? 0 : 0.5 + static_cast<double>(i % 3);
      probabilities[i] = i % 4 == 3 ? 0 : 1.0 / static_cast<double>(i + 2);
      ids[i] = static_cast<int64_t>(i % 9);
    }
    const std::vector<char> inputs[] = {Encode(RandomValues(elements, &random_), dtype_),
                                        Encode(RandomValues(elements, &random_), dtype_),
                                        Encode(labels, DType::kFloat32),
                                        Encode(weights, ComputeType(dtype_)),
                                        Encode(probabilities, ComputeType(dtype_)),
                                        Bytes(ids),
                                        Encode({8.0, 0.125, 1.25, 1.0}, ComputeType(dtype_))};
    std::vector<std::unique_ptr<DeviceBuffer>> device_inputs;
    for (const std::vector<char>& input : inputs) device_inputs.push_back(std::make_unique<DeviceBuffer>(input));
    const size_t bytes = ComputeBytes(dtype_);
    Result results[] = {{"loss", bytes},
                        {"grad_user", elements * bytes},
                        {"grad_item", elements * bytes},
                        {"grad_scalars", 3 * bytes},
                        {"grad_weights", rows * bytes}};

    Args args[2];  // For the CPU, for the device.
    for (const bool on_device : {false, true}) {
      Args& a = args[on_device];
      const auto input = [&](int n) {
        return on_device ? device_inputs[static_cast<size_t>(n)]->get() : static_cast<const void*>(inputs[n].data());
      };
      const auto result = [&](int n) {
        return on_device ? results[n].on_device.get() : static_cast<void*>(results[n].on_cpu.data());
      };
      a.batch_size = shape_.batch_size;
      a.embedding_dim = shape_.embedding_dim;
      a.num_negatives = shape_.num_negatives;
      a.dtype = dtype_;
      a.user_emb = input(0);
      a.item_emb = input(1);
      a.user_row_stride = a.item_row_stride = shape_.embedding_dim;
      a.gamma = 8.0;
      a.margin = 0.125;
      a.t = 1.25;
      a.loss = result(0);
      a.grad_user = result(1);
      a.grad_item = result(2);
      a.grad_scalars = result(3);
      if (with_all_) {
        a.labels = input(2);
        a.weights = input(3);
        a.sampling_probability = input(4);
        a.candidate_ids = static_cast<const int64_t*>(input(5));
        a.grad_weights = result(4);
        if (on_device) {
          const auto scalar = [&](size_t n) { return static_cast<const char*>(input(6)) + n * bytes; };
          a.gamma = a.margin = a.t = std::nan("");
          a.on_device = {scalar(0), scalar(1), scalar(2), scalar(3)};
        }
      }
      set_candidates(&a, on_device);
    }
    RunOnCpu(&args[0]);
    DeviceBuffer error_index(sizeof(int64_t));
    args[1].error_index = static_cast<int64_t*>(error_index.get());
    for (const bool grads : {false, true}) {
      Args wanted = args[1];
      if (!grads) wanted.grad_user = wanted.grad_item = wanted.grad_scalars = wanted.grad_weights = nullptr;
      RunOnDevice(&wanted);
      const double rows_usual = 8.0 / static_cast<double>(rows);
      results[0].Compare(dtype_, 1.0);
      int64_t index;
      std::memcpy(&index, error_index.Read().data(), sizeof(index));
      FASTNEG_CHECK(index == -1);
      if (!grads) continue;
      for (int n = 1; n < 5; ++n) {
        if (n < 4 || with_all_) results[n].Compare(dtype_, n == 3 ? 8.0 : rows_usual);
      }
    }
  }

 private:
  static void RunOnCpu(RolledSoftmaxArgs* args) {
    std::vector<char> memory = Workspace(RolledSoftmaxWorkspaceBytes(*args), args);
    FASTNEG_CHECK(RolledSoftmax(*args) == Status::kOk);
  }
  static void RunOnCpu(ShuffledCosineArgs* args) {
    std::vector<char> memory = Workspace(ShuffledCosineWorkspaceBytes(*args), args);
    FASTNEG_CHECK(ShuffledCosine(*args) == Status::kOk);
  }
  static std::vector<char> Workspace(size_t bytes, GatheredSoftmaxArgs* args) {
    std::vector<char> memory(bytes + 64);
    const size_t misplaced = reinterpret_cast<uintptr_t>(memory.data()) % 64;
    args->workspace = memory.data() + (64 - misplaced) % 64;
    args->workspace_bytes = bytes;
    return memory;
  }

  static void RunOnDevice(RolledSoftmaxArgs* args) {
    args->workspace_bytes = cuda::RolledSoftmaxWorkspaceBytes(*args);
    const DeviceBuffer workspace(args->workspace_bytes);
    args->workspace = workspace.get();
    FASTNEG_CHECK(cuda::RolledSoftmax(*args, nullptr) == Status::kOk);
    FASTNEG_CHECK(cudaDeviceSynchronize() == cudaSuccess);
  }
  static void RunOnDevice(ShuffledCosineArgs* args) {
    args->workspace_bytes = cuda::ShuffledCosineWorkspaceBytes(*args);
    const DeviceBuffer workspace(args->workspace_bytes);
    args->workspace = workspace.get();
    FASTNEG_CHECK(cuda::ShuffledCosine(*args, nullptr) == Status::kOk);
    FASTNEG_CHECK(cudaDeviceSynchronize() == cudaSuccess);
  }

  const Shape shape_;
  const DType dtype_;
  const bool with_all_;
  std::mt19937 random_;
};

void CheckRolled(const Shape& shape, DType dtype, bool with_all) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int64_t> any(1, shape.batch_size - 1);
  std::vector<int64_t> shifts(static_cast<size_t>(shape.num_negatives));
  for (int64_t& shift : shifts) shift = any(random) - 3 * shape.batch_size;
  const DeviceBuffer on_device(Bytes(shifts));
  GatheredCase<RolledSoftmaxArgs>(shape, dtype, with_all).Run([&](RolledSoftmaxArgs* args, bool device) {
    args->shifts = device ? static_cast<const int64_t*>(on_device.get()) : shifts.data();
  });
}

void CheckShuffled(const Shape& shape, DType dtype, bool with_all) {
  std::mt19937 random(7);
  std::vector<int32_t> permutations;
  for (int64_t k = 0; k < shape.num_negatives; ++k) {
    std::vector<int32_t> permutation(static_cast<size_t>(shape.batch_size));
    std::iota(permutation.begin(), permutation.end(), 0);
    std::shuffle(permutation.begin(), permutation.end(), random);
    permutations.insert(permutations.end(), permutation.begin(), permutation.end());
  }
  const DeviceBuffer on_device(Bytes(permutations));
  GatheredCase<ShuffledCosineArgs>(shape, dtype, with_all).Run([&](ShuffledCosineArgs* args, bool device) {
    args->permutations = device ? on_device.get() : static_cast<const void*>(permutations.data());
  });
}

void CheckSvSoftmax(int64_t num_rows, int64_t num_negatives, DType dtype, bool weighted) {
  std::mt19937 random(3);
  const size_t rows = static_cast<size_t>(num_rows), elements = rows * static_cast<size_t>(num_negatives);
  std::vector<double> weights(rows);
  for (size_t i = 0; i < rows; ++i) weights[i] = i % 7 == 2 ? 0 : 0.5 + static_cast<double>(i % 3);
  const std::vector<char> pos = Encode(RandomValues(rows, &random), dtype);
  const std::vector<char> neg = Encode(RandomValues(elements, &random), dtype);
  const std::vector<char> encoded_weights = Encode(weights, ComputeType(dtype));
  const std::vector<char> scalars = Encode({3.0, 0.125, 1.25, 0.0625}, ComputeType(dtype));
  const DeviceBuffer device_pos(pos), device_neg(neg), device_weights(encoded_weights), device_scalars(scalars);
  const size_t bytes = ComputeBytes(dtype);
  Result loss("loss", bytes), grad_pos("grad_pos", rows * bytes), grad_neg("grad_neg", elements * bytes);
  Result grad_weights("grad_weights", rows * bytes), grad_scalars("grad_scalars", 3 * bytes);
  for (const bool device : {false, true}) {
    SvSoftmaxArgs args;
    args.num_rows = num_rows;
    args.num_negatives = num_negatives;
    args.dtype = dtype;
    args.pos_score = device ? device_pos.get() : static_cast<const void*>(pos.data());
    args.neg_scores = device ? device_neg.get() : static_cast<const void*>(neg.data());
    args.smooth = 3.0;
    args.margin = 0.125;
    args.t = 1.25;
    args.threshold = 0.0625;
    const auto result = [&](Result* r) { return device ? r->on_device.get() : static_cast<void*>(r->on_cpu.data()); };
    args.loss = result(&loss);
    args.grad_pos = result(&grad_pos);
    args.grad_neg = result(&grad_neg);
    args.grad_scalars = result(&grad_scalars);
    if (weighted) {
      args.weights = device ? device_weights.get() : static_cast<const void*>(encoded_weights.data());
      args.grad_weights = result(&grad_weights);
      if (device) {
        const auto scalar = [&](size_t n) { return static_cast<const char*>(device_scalars.get()) + n * bytes; };
        args.smooth = args.margin = args.t = args.threshold = std::nan("");
        args.on_device = {scalar(0), scalar(1), scalar(2), scalar(3)};
      }
    }
    if (device) {
      args.workspace_bytes = cuda::SvSoftmaxWorkspaceBytes(args);
      const DeviceBuffer workspace(args.workspace_bytes);
      args.workspace = workspace.get();
      FASTNEG_CHECK(cuda::SvSoftmax(args, nullptr) == Status::kOk);
      FASTNEG_CHECK(cudaDeviceSynchronize() == cudaSuccess);
    } else {
      std::vector<char> memory(SvSoftmaxWorkspaceBytes(args) + 64);
      args.workspace = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
      args.workspace_bytes = memory.size() - 64;
      FASTNEG_CHECK(SvSoftmax(args) == Status::kOk);
    }
  }
  const double usual = 3.0 / static_cast<double>(num_rows);
  loss.Compare(dtype, 1.0);
  grad_pos.Compare(dtype, usual);
  grad_neg.Compare(dtype, usual);
  grad_scalars.Compare(dtype, 3.0);
  if (weighted) grad_weights.Compare(dtype, usual);
}

void Refusals() {
  RolledSoftmaxArgs args;
  FASTNEG_CHECK(cuda::RolledSoftmax(args, nullptr) == Status::kNullPointer);  // Even no rows have a loss.
  args.batch_size = 4;
  args.num_negatives = 4;
  FASTNEG_CHECK(cuda::RolledSoftmax(args, nullptr) == Status::kInvalidSize);
  FASTNEG_CHECK(cuda::RolledSoftmaxWorkspaceBytes(args) == 0);
  args.num_negatives = 3;
  args.dtype = DType::kInt32;
  const int64_t shifts[3] = {1, 2, 3};
  args.shifts = shifts;
  FASTNEG_CHECK(cuda::RolledSoftmax(args, nullptr) == Status::kUnsupportedDType);
  args.dtype = DType::kFloat32;
  const DeviceBuffer loss(4);
  args.loss = loss.get();
  FASTNEG_CHECK(cuda::RolledSoftmax(args, nullptr) == Status::kWorkspaceTooSmall);
  args.label_dtype = static_cast<DType>(99);
  args.labels = loss.get();
  FASTNEG_CHECK(cuda::RolledSoftmax(args, nullptr) == Status::kUnsupportedDType);
  args.batch_size = int64_t{1} << 31;
  FASTNEG_CHECK(cuda::RolledSoftmax(args, nullptr) == Status::kInvalidSize);
  SvSoftmaxArgs scores;
  scores.num_rows = scores.num_negatives = int64_t{1} << 40;
  FASTNEG_CHECK(cuda::SvSoftmax(scores, nullptr) == Status::kInvalidSize);
}

}  // namespace
}  // namespace fastneg

// With any argument: fewer problems, for tools under which each takes long.
int main(int argc, char**) {
  using fastneg::DType;
  const bool few = argc > 1;
  fastneg::poison = !few;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32, DType::kFloat16, DType::kFloat64}) {
    if (few && dtype == DType::kFloat16) break;
    for (const bool with_all : {true, false}) {
      for (const fastneg::Shape& shape : {fastneg::Shape{5, 4, 3},
                                          {33, 8, 32},
                                          {37, 9, 64},
                                          {34, 5, 128},
                                          {19, 7, 256},
                                          {18, 5, 300},
                                          {40, 13, 31},
                                          {17, 6, 131},
                                          {9, 3, 1024},
                                          {65, 17, 16},
                                          {130, 6, 64},
                                          {70, 5, 128}}) {
        fastneg::CheckRolled(shape, dtype, with_all);
        fastneg::CheckShuffled(shape, dtype, with_all);
      }
      for (const int64_t num_negatives : {1, 5, 16, 32, 100, 256, 500, 1003, 1024}) {
        fastneg::CheckSvSoftmax(35, num_negatives, dtype, with_all);
      }
      if (few) break;
    }
  }
  fastneg::Refusals();
  std::printf("all is well\n");
  return 0;
}
