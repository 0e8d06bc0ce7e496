// One execution of an op, whoever runs it: TensorFlow through its C API (tf_kernel_context.h), XLA (tf_xla/), or
// TensorFlow on a GPU (tf_gpu/). The losses' ops see this interface alone.
#ifndef FASTNEG_TF_OPS_KERNEL_CONTEXT_H_
#define FASTNEG_TF_OPS_KERNEL_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/api.h"
#include "tf_ops/tf_c_api.h"

namespace fastneg::tf_ops {

// A tensor that somebody else owns.
struct Buffer {
  TF_DataType dtype = TF_FLOAT;
  int rank = 0;
  const int64_t* dims = nullptr;
  void* data = nullptr;
};

// A reference to a tensor of TensorFlow's, or to a Buffer, which has to outlive it. Empty after a failure.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(TF_Tensor* tensor) : tensor_(tensor) {}
  explicit Tensor(const Buffer* buffer) : buffer_(buffer) {}
  Tensor(Tensor&& other) noexcept { *this = static_cast<Tensor&&>(other); }
  Tensor& operator=(Tensor&& other) noexcept;
  ~Tensor();

  explicit operator bool() const { return tensor_ != nullptr || buffer_ != nullptr; }
  TF_Tensor* get() const { return tensor_; }
  TF_DataType dtype() const { return buffer_ != nullptr ? buffer_->dtype : TF_TensorType(tensor_); }
  int rank() const { return buffer_ != nullptr ? buffer_->rank : TF_NumDims(tensor_); }
  int64_t dim(int index) const { return buffer_ != nullptr ? buffer_->dims[index] : TF_Dim(tensor_, index); }
  int64_t num_elements() const;

  // Never null, also for a tensor without elements, for which there may be no memory.
  void* data() const;

  // "[64, 32]"
  std::string ShapeText() const;

 private:
  TF_Tensor* tensor_ = nullptr;
  const Buffer* buffer_ = nullptr;
};

// Where the losses run if it is not on the CPU: every buffer is in that device's memory, but for scalars.
class Device {
 public:
  virtual size_t WorkspaceBytes(const RolledSoftmaxArgs& args) const = 0;
  virtual size_t WorkspaceBytes(const ShuffledCosineArgs& args) const = 0;
  virtual size_t WorkspaceBytes(const SvSoftmaxArgs& args) const = 0;
  virtual Status Run(const RolledSoftmaxArgs& args) const = 0;
  virtual Status Run(const ShuffledCosineArgs& args) const = 0;
  virtual Status Run(const SvSoftmaxArgs& args) const = 0;
  virtual Status SetZero(void* memory, size_t num_bytes) const = 0;
  // What the device calls the error behind the last status that this thread got from it.
  virtual const char* LastErrorName() const = 0;

 protected:
  ~Device() = default;
};

class KernelContext {
 public:
  // False once anything has failed; the kernel should then return.
  bool ok() const { return ok_; }

  // Fails with `message`, which states the requirement and then what was received.
  void Fail(TF_Code code, const std::string& message);

  virtual Tensor Input(int index) = 0;
  virtual Tensor AllocateOutput(int index, TF_DataType dtype, const int64_t* dims, int rank) = 0;
  Tensor AllocateOutput(int index, TF_DataType dtype, std::initializer_list<int64_t> dims) {
    return AllocateOutput(index, dtype, dims.begin(), static_cast<int>(dims.size()));
  }
  // An output that may not be wanted: if so it has no elements, and the result is empty.
  Tensor AllocateOutputIf(bool wanted, int index, TF_DataType dtype, std::initializer_list<int64_t> dims);
  // The buffer of input `input` if nobody else needs it, else a new one. No other reference to that input may
  // be held. `forwarded` tells which it was.
  virtual Tensor ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank, bool* forwarded);
  virtual Tensor AllocateTemp(size_t num_bytes) = 0;

  // Whether only shapes are asked for: no buffer may be read or written, but for the scalars among the inputs.
  virtual bool only_shapes() const { return false; }
  // How many threads there are to use.
  virtual int num_threads() const = 0;
  // Null: the CPU.
  virtual const Device* device() const { return nullptr; }

  void SetZero(const Tensor& tensor);

 protected:
  KernelContext() = default;
  ~KernelContext() = default;
  virtual void Report(TF_Code code, const char* message) = 0;

 private:
  bool ok_ = true;
};

// Null for an empty tensor: what was not given, or is not wanted.
inline void* DataOrNull(const Tensor& tensor) { return tensor ? tensor.data() : nullptr; }

size_t SizeOf(TF_DataType dtype);

// The core's name for a type; false if the core does not know it.
bool ToCoreType(TF_DataType dtype, DType* result);

// The message for a status of the core that validation should have made impossible, or that comes from `device`.
std::string CoreStatusText(Status status, const Device* device);

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_KERNEL_CONTEXT_H_
