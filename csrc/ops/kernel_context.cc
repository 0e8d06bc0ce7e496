#include "ops/kernel_context.h"

#include <cstring>

namespace fastneg::ops {
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
    case Status::kInvalidOption:
      return "options must be in their ranges and go together";
  }
  return "unknown status";
}

}  // namespace

Tensor KernelContext::AllocateOutputIf(bool wanted, int index, DType dtype, std::initializer_list<int64_t> dims) {
  if (wanted) return AllocateOutput(index, dtype, dims);
  AllocateOutput(index, dtype, {0});
  return Tensor();
}

void KernelContext::SetZero(const Tensor& tensor) {
  if (!tensor) return;
  if (device() == nullptr) {
    std::memset(tensor.data(), 0, tensor.num_bytes());
  } else if (const Status status = device()->SetZero(tensor.data(), tensor.num_bytes()); status != Status::kOk) {
    Fail(ErrorCode::kInternal, "fastneg: " + CoreStatusText(status, device()));
  }
}

std::string CoreStatusText(Status status, const Device* device) {
  std::string text = Requirement(status);
  if (status == Status::kNoDevice || status == Status::kDeviceFailure) {
    text += std::string(". Received: ") + device->LastErrorName();
  }
  return text + ".";
}

}  // namespace fastneg::ops
