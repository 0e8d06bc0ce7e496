#include "tf_ops/tf_kernel_context.h"

#include <string>

// In libfastneg.so.
extern "C" int FastnegNumThreads();

namespace fastneg::tf_ops {
namespace {

using ops::ErrorCode;
using ops::Tensor;

constexpr struct {
  TF_DataType tf;
  DType core;
} kTypes[] = {
    {TF_BOOL, DType::kBool},      {TF_INT8, DType::kInt8},         {TF_UINT8, DType::kUInt8},
    {TF_INT16, DType::kInt16},    {TF_UINT16, DType::kUInt16},     {TF_INT32, DType::kInt32},
    {TF_UINT32, DType::kUInt32},  {TF_INT64, DType::kInt64},       {TF_UINT64, DType::kUInt64},
    {TF_HALF, DType::kFloat16},   {TF_BFLOAT16, DType::kBFloat16}, {TF_FLOAT, DType::kFloat32},
    {TF_DOUBLE, DType::kFloat64},
};

// No other type than these gets past an op's definition.
DType CoreType(TF_DataType dtype) {
  for (const auto& type : kTypes) {
    if (type.tf == dtype) return type.core;
  }
  return DType::kFloat32;
}

TF_DataType TfType(DType dtype) {
  for (const auto& type : kTypes) {
    if (type.core == dtype) return type.tf;
  }
  return TF_FLOAT;
}

void Delete(void* tensor) { TF_DeleteTensor(static_cast<TF_Tensor*>(tensor)); }

Tensor Own(TF_Tensor* tf_tensor) {
  int64_t dims[Tensor::kMostDims];
  const int rank = TF_NumDims(tf_tensor);
  for (int i = 0; i < rank && i < Tensor::kMostDims; ++i) dims[i] = TF_Dim(tf_tensor, i);
  Tensor tensor(CoreType(TF_TensorType(tf_tensor)), dims, rank, TF_TensorData(tf_tensor));
  tensor.SetOwner(tf_tensor, &Delete);
  return tensor;
}

}  // namespace

void TfKernelContext::Report(ErrorCode code, const char* message) {
  TF_SetStatus(status_.get(), static_cast<TF_Code>(code), message);
  TF_OpKernelContext_Failure(context_, status_.get());
}

Tensor TfKernelContext::Checked(TF_Tensor* tensor) {
  if (!status_.ok() && ok()) Fail(static_cast<ErrorCode>(TF_GetCode(status_.get())), TF_Message(status_.get()));
  return tensor == nullptr ? Tensor() : Own(tensor);
}

Tensor TfKernelContext::Input(int index) {
  if (!ok()) return Tensor();
  TF_Tensor* tensor = nullptr;
  TF_GetInput(context_, index, &tensor, status_.get());
  return Checked(tensor);
}

DType TfKernelContext::OutputType(int index) const { return CoreType(TF_ExpectedOutputDataType(context_, index)); }

Tensor TfKernelContext::AllocateOutput(int index, DType dtype, const int64_t* dims, int rank) {
  if (!ok()) return Tensor();
  size_t num_bytes = ops::SizeOf(dtype);
  for (int i = 0; i < rank; ++i) num_bytes *= static_cast<size_t>(dims[i]);
  return Checked(TF_AllocateOutput(context_, index, TfType(dtype), dims, rank, num_bytes, status_.get()));
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

void TfKernelContext::PassOn(int input, int output) {
  if (!ok()) return;
  TF_Tensor* tensor = nullptr;
  TF_GetInput(context_, input, &tensor, status_.get());
  if (status_.ok()) TF_SetOutput(context_, output, tensor, status_.get());
  Checked(tensor);
}

Tensor TfKernelContext::AllocateTemp(size_t num_bytes) {
  if (!ok()) return Tensor();
  const int64_t dims = static_cast<int64_t>(num_bytes);
  TF_AllocatorAttributes attributes = {};
  attributes.struct_size = offsetof(TF_AllocatorAttributes, on_host) + sizeof(TF_Bool);
  attributes.on_host = 1;
  TF_Tensor* memory = TF_AllocateTemp(context_, TF_UINT8, &dims, 1, &attributes, status_.get());
  const bool empty = memory == nullptr || TF_TensorData(memory) == nullptr;
  Tensor tensor = Checked(memory);
  if (ok() && num_bytes > 0 && empty) {
    Fail(ErrorCode::kResourceExhausted,
         "fastneg could not get " + std::to_string(num_bytes) + " bytes of scratch memory.");
  }
  return tensor;
}

int TfKernelContext::num_threads() const { return FastnegNumThreads(); }

}  // namespace fastneg::tf_ops
