// An execution by TensorFlow on the CPU, through the C API.
#ifndef FASTNEG_TF_OPS_TF_KERNEL_CONTEXT_H_
#define FASTNEG_TF_OPS_TF_KERNEL_CONTEXT_H_

#include <cstddef>
#include <cstdint>

#include "tf_ops/kernel_context.h"
#include "tf_ops/status.h"
#include "tf_ops/tf_c_api.h"

namespace fastneg::tf_ops {

class TfKernelContext final : public KernelContext {
 public:
  using KernelContext::AllocateOutput;

  explicit TfKernelContext(TF_OpKernelContext* context) : context_(context) {}

  int num_inputs() const { return TF_NumInputs(context_); }
  Tensor Input(int index) override;
  void SetOutput(int index, const Tensor& tensor);
  Tensor AllocateOutput(int index, TF_DataType dtype, const int64_t* dims, int rank) override;
  Tensor ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank, bool* forwarded) override;
  Tensor AllocateTemp(size_t num_bytes) override;
  int num_threads() const override;

 private:
  void Report(TF_Code code, const char* message) override;
  Tensor Checked(TF_Tensor* tensor);

  TF_OpKernelContext* context_;
  ScopedStatus status_;
};

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_TF_KERNEL_CONTEXT_H_
