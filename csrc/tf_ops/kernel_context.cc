#include "tf_ops/kernel_context.h"

#include <cstring>
#include <utility>

namespace fastneg::tf_ops {

Tensor& Tensor::operator=(Tensor&& other) noexcept {
  std::swap(tensor_, other.tensor_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

Tensor::~Tensor() {
  if (tensor_ != nullptr) TF_DeleteTensor(tensor_);
}

int64_t Tensor::num_elements() const {
  int64_t count = 1;
  for (int i = 0; i < rank(); ++i) count *= dim(i);
  return count;
}

void* Tensor::data() const {
  alignas(64) static char nothing[64];
  void* data = buffer_ != nullptr ? buffer_->data : TF_TensorData(tensor_);
  return data != nullptr ? data : nothing;
}

std::string Tensor::ShapeText() const {
  std::string text = "[";
  for (int i = 0; i < rank(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dim(i));
  }
  return text + "]";
}

void KernelContext::Fail(TF_Code code, const std::string& message) {
  if (!ok_) return;
  ok_ = false;
  Report(code, message.c_str());
}

Tensor KernelContext::AllocateOutputIf(bool wanted, int index, TF_DataType dtype, std::initializer_list<int64_t> dims) {
  if (wanted) return AllocateOutput(index, dtype, dims);
  AllocateOutput(index, dtype, {0});
  return Tensor();
}

Tensor KernelContext::ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank,
                                                   bool* forwarded) {
  *forwarded = false;
  const TF_DataType dtype = Input(input).dtype();
  return AllocateOutput(output, dtype, dims, rank);
}

void KernelContext::SetZero(const Tensor& tensor) {
  if (!tensor || only_shapes()) return;
  const size_t num_bytes = static_cast<size_t>(tensor.num_elements()) * SizeOf(tensor.dtype());
  if (device() == nullptr) {
    std::memset(tensor.data(), 0, num_bytes);
  } else if (const Status status = device()->SetZero(tensor.data(), num_bytes); status != Status::kOk) {
    Fail(TF_INTERNAL, "fastneg: " + CoreStatusText(status, device()));
  }
}

size_t SizeOf(TF_DataType dtype) {
  switch (dtype) {
    case TF_BOOL:
    case TF_INT8:
    case TF_UINT8:
      return 1;
    case TF_HALF:
    case TF_BFLOAT16:
    case TF_INT16:
    case TF_UINT16:
      return 2;
    case TF_FLOAT:
    case TF_INT32:
    case TF_UINT32:
      return 4;
    case TF_DOUBLE:
    case TF_INT64:
    case TF_UINT64:
      return 8;
  }
  return 0;
}

bool ToCoreType(TF_DataType dtype, DType* result) {
  static constexpr struct {
    TF_DataType from;
    DType to;
  } kTypes[] = {
      {TF_BOOL, DType::kBool},      {TF_INT8, DType::kInt8},         {TF_UINT8, DType::kUInt8},
      {TF_INT16, DType::kInt16},    {TF_UINT16, DType::kUInt16},     {TF_INT32, DType::kInt32},
      {TF_UINT32, DType::kUInt32},  {TF_INT64, DType::kInt64},       {TF_UINT64, DType::kUInt64},
      {TF_HALF, DType::kFloat16},   {TF_BFLOAT16, DType::kBFloat16}, {TF_FLOAT, DType::kFloat32},
      {TF_DOUBLE, DType::kFloat64},
  };
  for (const auto& type : kTypes) {
    if (type.from != dtype) continue;
    *result = type.to;
    return true;
  }
  return false;
}

namespace {
const char* Requirement(Status status) {
  switch (status) {
    case Status::kOk:
      return "no error";
    case Status::kInvalidSize:
      return "sizes must be valid and their products must fit 63 bits";
    case Status::kUnsupportedDType:
      return "the dtypes must be supported";
    case Status::kNullPointer:
      return "every required buffer must be there";
    case Status::kShiftIsMultiple:
      return "no shift may be 0 modulo the batch size";
    case Status::kNotAPermutation:
      return "every row of the permutations must be one";
    case Status::kWorkspaceTooSmall:
      return "the workspace must be as large as asked for";
    case Status::kIsaUnavailable:
      return "the instruction set must be available";
    case Status::kZeroTemperature:
      return "the temperature must not be 0";
    case Status::kIdOutOfRange:
      return "every id must be in its range";
    case Status::kNoDevice:
      return "there must be a GPU, and a driver as new as the CUDA toolkit that fastneg was built with";
    case Status::kDeviceFailure:
      return "CUDA must accept every call";
  }
  return "unknown status";
}
}  // namespace

std::string CoreStatusText(Status status, const Device* device) {
  std::string text = Requirement(status);
  if (status == Status::kNoDevice || status == Status::kDeviceFailure) {
    text += std::string(". Received: ") + device->LastErrorName();
  }
  return text + ".";
}

}  // namespace fastneg::tf_ops
