#include "tf_ops/tf_kernel_context.h"

#include <string>

#include "tf_ops/runtime.h"

namespace fastneg::tf_ops {

void TfKernelContext::Report(TF_Code code, const char* message) {
  TF_SetStatus(status_.get(), code, message);
  TF_OpKernelContext_Failure(context_, status_.get());
}

Tensor TfKernelContext::Checked(TF_Tensor* tensor) {
  if (!status_.ok() && ok()) Fail(TF_GetCode(status_.get()), TF_Message(status_.get()));
  return Tensor(tensor);
}

Tensor TfKernelContext::Input(int index) {
  if (!ok()) return Tensor();
  TF_Tensor* tensor = nullptr;
  TF_GetInput(context_, index, &tensor, status_.get());
  return Checked(tensor);
}

void TfKernelContext::SetOutput(int index, const Tensor& tensor) {
  if (!ok()) return;
  TF_SetOutput(context_, index, tensor.get(), status_.get());
  Checked(nullptr);
}

Tensor TfKernelContext::AllocateOutput(int index, TF_DataType dtype, const int64_t* dims, int rank) {
  if (!ok()) return Tensor();
  size_t num_bytes = SizeOf(dtype);
  for (int i = 0; i < rank; ++i) num_bytes *= static_cast<size_t>(dims[i]);
  return Checked(TF_AllocateOutput(context_, index, dtype, dims, rank, num_bytes, status_.get()));
}

Tensor TfKernelContext::ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank,
                                                     bool* forwarded) {
  if (!ok()) return Tensor();
  int forwarded_input = -1;
  Tensor tensor = Checked(
      TF_ForwardInputOrAllocateOutput(context_, &input, 1, output, dims, rank, &forwarded_input, status_.get()));
  *forwarded = forwarded_input >= 0;
  return tensor;
}

Tensor TfKernelContext::AllocateTemp(size_t num_bytes) {
  if (!ok()) return Tensor();
  const int64_t dims = static_cast<int64_t>(num_bytes);
  TF_AllocatorAttributes attributes = {};
  attributes.struct_size = offsetof(TF_AllocatorAttributes, on_host) + sizeof(TF_Bool);
  attributes.on_host = 1;
  Tensor tensor = Checked(TF_AllocateTemp(context_, TF_UINT8, &dims, 1, &attributes, status_.get()));
  if (ok() && num_bytes > 0 && TF_TensorData(tensor.get()) == nullptr) {
    Fail(TF_RESOURCE_EXHAUSTED, "fastneg could not get " + std::to_string(num_bytes) + " bytes of scratch memory.");
  }
  return tensor;
}

int TfKernelContext::num_threads() const { return NumThreads(); }

}  // namespace fastneg::tf_ops
