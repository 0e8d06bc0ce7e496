// A tensor as an op sees it: where its elements are and how many there are in each dimension.
#ifndef FASTNEG_OPS_TENSOR_H_
#define FASTNEG_OPS_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "core/api.h"

namespace fastneg::ops {

// Bytes of one element.
constexpr size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kBool:
    case DType::kInt8:
    case DType::kUInt8:
      return 1;
    case DType::kInt16:
    case DType::kUInt16:
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kInt32:
    case DType::kUInt32:
    case DType::kFloat32:
      return 4;
    case DType::kInt64:
    case DType::kUInt64:
    case DType::kFloat64:
      return 8;
  }
  return 0;
}

// A reference to memory that somebody else owns, or has handed over with a function that releases it. Empty after a
// failure, and for what was not given or is not wanted.
class Tensor {
 public:
  // No op takes a tensor of more dimensions; of one that comes with more, only the first are known.
  static constexpr int kMostDims = 8;

  Tensor() = default;
  Tensor(DType dtype, const int64_t* dims, int rank, void* data) {
    state_.valid = true;
    state_.dtype = dtype;
    state_.rank = rank;
    for (int i = 0; i < rank && i < kMostDims; ++i) state_.dims[i] = dims[i];
    state_.data = data;
  }
  Tensor(Tensor&& other) noexcept { std::swap(state_, other.state_); }
  Tensor& operator=(Tensor&& other) noexcept {
    Tensor moved(std::move(other));
    std::swap(state_, moved.state_);
    return *this;
  }
  ~Tensor() {
    if (state_.release != nullptr) state_.release(state_.owner);
  }

  // Its elements are in the memory of the context's device, which the host must not read.
  void SetOnDevice() { state_.on_device = true; }

  // `release` is called with `owner` when the tensor goes.
  void SetOwner(void* owner, void (*release)(void*)) {
    state_.owner = owner;
    state_.release = release;
  }

  explicit operator bool() const { return state_.valid; }
  bool on_device() const { return state_.on_device; }
  DType dtype() const { return state_.dtype; }
  int rank() const { return state_.rank; }
  int64_t dim(int index) const { return state_.dims[index]; }
  const int64_t* dims() const { return state_.dims; }

  int64_t num_elements() const {
    int64_t count = 1;
    for (int i = 0; i < rank() && i < kMostDims; ++i) count *= dim(i);
    return count;
  }
  size_t num_bytes() const { return static_cast<size_t>(num_elements()) * SizeOf(dtype()); }

  // Never null, also for a tensor without elements, for which there may be no memory.
  void* data() const {
    alignas(64) static char nothing[64];
    return state_.data != nullptr ? state_.data : nothing;
  }

  // "[64, 32]"
  std::string ShapeText() const {
    std::string text = "[";
    for (int i = 0; i < rank() && i < kMostDims; ++i) {
      if (i > 0) text += ", ";
      text += std::to_string(dim(i));
    }
    return text + (rank() > kMostDims ? ", ...]" : "]");
  }

 private:
  struct State {
    bool valid = false;
    bool on_device = false;
    DType dtype = DType::kFloat32;
    int rank = 0;
    int64_t dims[kMostDims] = {};
    void* data = nullptr;
    void* owner = nullptr;
    void (*release)(void*) = nullptr;
  };

  State state_;
};

// Null for an empty tensor.
inline void* DataOrNull(const Tensor& tensor) { return tensor ? tensor.data() : nullptr; }

}  // namespace fastneg::ops

#endif  // FASTNEG_OPS_TENSOR_H_
