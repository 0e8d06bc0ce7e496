// One execution of an op, whoever runs it: TensorFlow through its C API (tf_ops/), or XLA through its own (xla_ffi/).
// Ops see this interface alone. What is defined here and not in kernel_context.cc is what those who implement it need.
#ifndef FASTNEG_OPS_KERNEL_CONTEXT_H_
#define FASTNEG_OPS_KERNEL_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/api.h"
#include "ops/tensor.h"

namespace fastneg::ops {

// Numbered as TensorFlow and XLA number them.
enum class ErrorCode : int32_t {
  kInvalidArgument = 3,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kInternal = 13,
};

// Where the losses run if it is not on the CPU: every buffer is in that device's memory, but for scalars that the
// caller gave as numbers (Tensor::on_device tells).
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
  // False once anything has failed; the op should then return.
  bool ok() const { return ok_; }

  void Fail(ErrorCode code, const std::string& message) {
    if (!ok_) return;
    ok_ = false;
    Report(code, message.c_str());
  }
  // Fails for a bad argument: `message` states the requirement and then what was received.
  void Refuse(const std::string& message) { Fail(ErrorCode::kInvalidArgument, message); }

  virtual int num_inputs() const = 0;
  virtual Tensor Input(int index) = 0;
  // The type of an output that inputs do not tell.
  virtual DType OutputType(int index) const = 0;
  virtual Tensor AllocateOutput(int index, DType dtype, const int64_t* dims, int rank) = 0;
  // The buffer of input `input` if nobody else needs it, else a new one. No other reference to that input may
  // be held. `forwarded` tells which it was.
  virtual Tensor ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank,
                                              bool* forwarded) = 0;
  // Makes the input the output, as it is.
  virtual void PassOn(int input, int output) = 0;
  virtual Tensor AllocateTemp(size_t num_bytes) = 0;
  // How many threads there are to use.
  virtual int num_threads() const = 0;
  // Null: the CPU.
  virtual const Device* device() const = 0;

  Tensor AllocateOutput(int index, DType dtype, std::initializer_list<int64_t> dims) {
    return AllocateOutput(index, dtype, dims.begin(), static_cast<int>(dims.size()));
  }
  // An output that may not be wanted: if so it has no elements, and the result is empty.
  Tensor AllocateOutputIf(bool wanted, int index, DType dtype, std::initializer_list<int64_t> dims);

  void SetZero(const Tensor& tensor);

 protected:
  KernelContext() = default;
  ~KernelContext() = default;
  virtual void Report(ErrorCode code, const char* message) = 0;

 private:
  bool ok_ = true;
};

// The message for a status of the core that validation should have made impossible, or that comes from `device`.
std::string CoreStatusText(Status status, const Device* device);

}  // namespace fastneg::ops

#endif  // FASTNEG_OPS_KERNEL_CONTEXT_H_
