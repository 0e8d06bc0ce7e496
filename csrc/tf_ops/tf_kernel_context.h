// An execution by TensorFlow on the CPU, through the C API.
#ifndef FASTNEG_TF_OPS_TF_KERNEL_CONTEXT_H_
#define FASTNEG_TF_OPS_TF_KERNEL_CONTEXT_H_

#include <cstddef>
#include <cstdint>

#include "ops/kernel_context.h"
#include "tf_ops/status.h"
#include "tf_ops/tf_c_api.h"

namespace fastneg::tf_ops {

class TfKernelContext final : public ops::KernelContext {
 public:
  explicit TfKernelContext(TF_OpKernelContext* context) : context_(context) {}

  int num_inputs() const override { return TF_NumInputs(context_); }
  ops::Tensor Input(int index) override;
  DType OutputType(int index) const override;
  ops::Tensor AllocateOutput(int index, DType dtype, const int64_t* dims, int rank) override;
  ops::Tensor ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank,
                                           bool* forwarded) override;
  void PassOn(int input, int output) override;
  ops::Tensor AllocateTemp(size_t num_bytes) override;
  int num_threads() const override;
  const ops::Device* device() const override { return nullptr; }

 private:
  void Report(ops::ErrorCode code, const char* message) override;
  ops::Tensor Checked(TF_Tensor* tensor);

  TF_OpKernelContext* context_;
  ScopedStatus status_;
};

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_TF_KERNEL_CONTEXT_H_
