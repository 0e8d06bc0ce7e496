// One execution of a kernel: inputs, outputs, scratch and failure, with owners for what TensorFlow hands out.
#ifndef FASTNEG_TF_OPS_KERNEL_CONTEXT_H_
#define FASTNEG_TF_OPS_KERNEL_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/api.h"
#include "tf_ops/status.h"
#include "tf_ops/tf_c_api.h"

namespace fastneg::tf_ops {

// A reference to a TensorFlow tensor; empty after a failure.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(TF_Tensor* tensor) : tensor_(tensor) {}
  Tensor(Tensor&& other) noexcept : tensor_(other.tensor_) { other.tensor_ = nullptr; }
  Tensor& operator=(Tensor&& other) noexcept;
  ~Tensor();

  explicit operator bool() const { return tensor_ != nullptr; }
  TF_Tensor* get() const { return tensor_; }
  TF_DataType dtype() const { return TF_TensorType(tensor_); }
  int rank() const { return TF_NumDims(tensor_); }
  int64_t dim(int index) const { return TF_Dim(tensor_, index); }
  int64_t num_elements() const;

  // Never null, also for a tensor without elements, for which TensorFlow may have no buffer.
  void* data() const;

  // "[64, 32]"
  std::string ShapeText() const;

 private:
  TF_Tensor* tensor_ = nullptr;
};

class KernelContext {
 public:
  explicit KernelContext(TF_OpKernelContext* context) : context_(context) {}

  // False once anything has failed; the kernel should then return.
  bool ok() const { return ok_; }
  int num_inputs() const { return TF_NumInputs(context_); }

  // Fails with `message`, which states the requirement and then what was received.
  void Fail(TF_Code code, const std::string& message);

  Tensor Input(int index);
  void SetOutput(int index, const Tensor& tensor);
  Tensor AllocateOutput(int index, TF_DataType dtype, const int64_t* dims, int rank);
  Tensor AllocateOutput(int index, TF_DataType dtype, std::initializer_list<int64_t> dims) {
    return AllocateOutput(index, dtype, dims.begin(), static_cast<int>(dims.size()));
  }
  // An output that may not be wanted: if so it has no elements, and the result is empty.
  Tensor AllocateOutputIf(bool wanted, int index, TF_DataType dtype, std::initializer_list<int64_t> dims);
  // The buffer of input `input` if nobody else needs it, else a new one. No other reference to that input may
  // be held. `forwarded` tells which it was.
  Tensor ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank, bool* forwarded);
  Tensor AllocateTemp(size_t num_bytes);

 private:
  Tensor Checked(TF_Tensor* tensor);

  TF_OpKernelContext* context_;
  ScopedStatus status_;
  bool ok_ = true;
};

// Null for an empty tensor: what was not given, or is not wanted.
inline void* DataOrNull(const Tensor& tensor) { return tensor ? tensor.data() : nullptr; }

size_t SizeOf(TF_DataType dtype);

// The core's name for a type; false if the core does not know it.
bool ToCoreType(TF_DataType dtype, DType* result);

// The message for a status of the core that validation should have made impossible.
std::string CoreStatusText(Status status);

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_KERNEL_CONTEXT_H_
