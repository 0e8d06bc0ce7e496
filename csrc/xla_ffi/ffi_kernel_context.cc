#include "xla_ffi/ffi_kernel_context.h"

#include <cstring>

#include "ops/runtime.h"
#include "xla_ffi/scratch.h"

namespace fastneg::xla_ffi {
namespace {

using ops::ErrorCode;
using ops::Tensor;

std::string ShapeText(const int64_t* dims, int rank) { return Tensor(DType::kBool, dims, rank, nullptr).ShapeText(); }

}  // namespace

FfiKernelContext::~FfiKernelContext() {
  for (const DeviceMemory& memory : device_memory_) {
    XLA_FFI_DeviceMemory_Free_Args args = {};
    args.struct_size = sizeof(args);
    args.ctx = frame_.ctx;
    args.size = memory.num_bytes;
    args.data = memory.data;
    if (XLA_FFI_Error* error = frame_.api->XLA_FFI_DeviceMemory_Free(&args)) TakeMessage(frame_.api, error);
  }
}

void FfiKernelContext::Report(ErrorCode code, const char* message) {
  error_code_ = code;
  error_message_ = message;
}

void FfiKernelContext::Bind(const ops::Op& op, int64_t* attributes) {
  // One allocation each: a call of a small loss takes no longer than a few dozen of them.
  inputs_.reserve(op.inputs.size() + static_cast<size_t>(frame_.args.size));
  outputs_.reserve(static_cast<size_t>(frame_.rets.size));
  types_.reserve(op.types.size() + 1);
  int64_t* value = attributes;
  for (const ops::OpAttribute& attribute : op.attributes) {
    *value = attribute.default_value;
    attributes_.Integer(attribute.name, value);
    const int64_t least = attribute.kind == ops::AttributeKind::kNumber ? 1 : 0;
    if (*value < least || (*value > 1 && (attribute.kind == ops::AttributeKind::kPresence ||
                                          attribute.kind == ops::AttributeKind::kFlag))) {
      Refuse(std::string("`") + attribute.name + "` must be " +
             (least == 1                                      ? "at least 1"
              : attribute.kind == ops::AttributeKind::kLength ? "at least 0"
                                                              : "0 or 1") +
             ". Received: " + std::to_string(*value) + ".");
      return;
    }
    ++value;
  }
  BindOutputs(op, attributes);
  if (ok()) BindInputs(op, attributes);
}

int64_t FfiKernelContext::Count(const ops::Op& op, const char* count, const int64_t* attributes) const {
  if (count == nullptr) return 1;
  for (size_t i = 0; i < op.attributes.size(); ++i) {
    if (std::strcmp(op.attributes[i].name, count) == 0) return attributes[i];
  }
  return 0;
}

const FfiKernelContext::TypeOf* FfiKernelContext::Known(const char* type) const {
  for (const TypeOf& known : types_) {
    if (std::strcmp(known.name, type) == 0) return &known;
  }
  return nullptr;
}

bool FfiKernelContext::AddBuffer(const XLA_FFI_Buffer& buffer, const char* name, const ops::Op& op, const char* type,
                                 std::vector<View>* views) {
  View view;
  if (!ToCoreType(buffer.dtype, &view.dtype) || !op.Allows(type, view.dtype)) {
    Refuse(std::string("`") + name + "` must have a type that " + op.name + " takes. Received: XLA's type number " +
           std::to_string(buffer.dtype) + ".");
    return false;
  }
  const TypeOf* known = Known(type);
  if (known == nullptr) {
    types_.push_back({type, view.dtype});
  } else if (known->dtype != view.dtype) {
    Refuse(std::string("`") + name + "` must have the dtype that the others have which " + op.name +
           " wants to be alike. Received: XLA's type number " + std::to_string(buffer.dtype) + ".");
    return false;
  }
  view.dims = buffer.dims;
  view.rank = static_cast<int>(buffer.rank);
  view.data = buffer.data;
  views->push_back(view);
  return true;
}

void FfiKernelContext::BindOutputs(const ops::Op& op, const int64_t* attributes) {
  int64_t next = 0;
  for (const ops::OpOutput& output : op.outputs) {
    for (int64_t i = Count(op, output.count, attributes); i > 0; --i, ++next) {
      if (next == frame_.rets.size) return RefuseCount(op, "results", frame_.rets.size);
      const auto& buffer = *static_cast<const XLA_FFI_Buffer*>(frame_.rets.rets[next]);
      if (!AddBuffer(buffer, output.name, op, output.type, &outputs_)) return;
    }
  }
  if (next != frame_.rets.size) RefuseCount(op, "results", frame_.rets.size);
}

void FfiKernelContext::BindInputs(const ops::Op& op, const int64_t* attributes) {
  int64_t next = 0;
  for (const ops::OpInput& input : op.inputs) {
    double number;
    if (input.count == nullptr && attributes_.Number(input.name, &number)) {
      BindNumber(input, number);
      continue;
    }
    for (int64_t i = Count(op, input.count, attributes); i > 0; --i, ++next) {
      if (next == frame_.args.size) return RefuseCount(op, "arguments", frame_.args.size);
      const auto& buffer = *static_cast<const XLA_FFI_Buffer*>(frame_.args.args[next]);
      if (!AddBuffer(buffer, input.name, op, input.type, &inputs_)) return;
    }
  }
  int64_t witnesses = 0;
  attributes_.Integer("witnesses", &witnesses);
  if (next + witnesses != frame_.args.size) RefuseCount(op, "arguments", frame_.args.size);
}

void FfiKernelContext::RefuseCount(const ops::Op& op, const char* what, int64_t received) {
  Refuse(std::string("The number of ") + what + " must be what " + op.name +
         " has with these attributes. Received: " + std::to_string(received) + ".");
}

// A number has the type of the others of its kind: the outputs are there.
void FfiKernelContext::BindNumber(const ops::OpInput& input, double number) {
  View view;
  if (const TypeOf* known = Known(input.type)) view.dtype = known->dtype;
  view.is_number = true;
  view.data = HostScalar(view.dtype, number);
  if (view.data != nullptr) inputs_.push_back(view);
}

void* FfiKernelContext::HostScalar(DType dtype, double number) {
  if (num_scalars_ == kMostScalars) {
    Fail(ErrorCode::kInternal, "fastneg: there must be at most " + std::to_string(kMostScalars) + " scalars.");
    return nullptr;
  }
  Scalar& scalar = scalars_[num_scalars_++];
  if (dtype == DType::kFloat64) {
    scalar.float64 = number;
    return &scalar.float64;
  }
  scalar.float32 = static_cast<float>(number);
  return &scalar.float32;
}

Tensor FfiKernelContext::Input(int index) {
  const View& view = inputs_[static_cast<size_t>(index)];
  Tensor tensor(view.dtype, view.dims, view.rank, view.data);
  if (device_ != nullptr && !view.is_number) tensor.SetOnDevice();
  return tensor;
}

Tensor FfiKernelContext::AllocateOutput(int index, DType dtype, const int64_t* dims, int rank) {
  if (!ok()) return Tensor();
  const View& output = outputs_[static_cast<size_t>(index)];
  bool same = output.dtype == dtype && output.rank == rank;
  for (int i = 0; same && i < rank; ++i) same = output.dims[i] == dims[i];
  if (same) return Tensor(dtype, dims, rank, output.data);
  Refuse("fastneg's result number " + std::to_string(index) + " must have shape " + ShapeText(dims, rank) +
         " and the dtype of its kind. Received: " + ShapeText(output.dims, output.rank) + ".");
  return Tensor();
}

Tensor FfiKernelContext::ForwardInputOrAllocateOutput(int input, int output, const int64_t* dims, int rank,
                                                      bool* forwarded) {
  *forwarded = false;
  return AllocateOutput(output, inputs_[static_cast<size_t>(input)].dtype, dims, rank);
}

void FfiKernelContext::PassOn(int input, int output) {
  const Tensor from = Input(input);
  const Tensor to = AllocateOutput(output, from.dtype(), from.dims(), from.rank());
  const bool in_place = to.data() == from.data();  // XLA was told that it may.
  if (ok() && !in_place) std::memcpy(to.data(), from.data(), from.num_bytes());
}

Tensor FfiKernelContext::AllocateTemp(size_t num_bytes) {
  if (!ok()) return Tensor();
  const auto size = static_cast<int64_t>(num_bytes);
  if (device_ == nullptr || device_->on_host()) {
    void* memory = TakeScratch(num_bytes);
    Tensor tensor(DType::kUInt8, &size, 1, memory);
    if (memory != nullptr) {
      tensor.SetOwner(memory, &GiveBackScratch);
    } else {
      Fail(ErrorCode::kResourceExhausted,
           "fastneg could not get " + std::to_string(size) + " bytes of scratch memory.");
    }
    return tensor;
  }
  XLA_FFI_DeviceMemory_Allocate_Args args = {};
  args.struct_size = sizeof(args);
  args.ctx = frame_.ctx;
  args.size = num_bytes;
  args.alignment = 256;
  if (XLA_FFI_Error* error = frame_.api->XLA_FFI_DeviceMemory_Allocate(&args)) {
    Fail(ErrorCode::kResourceExhausted, "fastneg could not get " + std::to_string(size) +
                                            " bytes of scratch memory: " + TakeMessage(frame_.api, error));
    return Tensor();
  }
  device_memory_.push_back({args.data, num_bytes});
  return Tensor(DType::kUInt8, &size, 1, args.data);
}

int FfiKernelContext::num_threads() const { return device_ == nullptr ? ops::NumThreads() : 1; }

}  // namespace fastneg::xla_ffi
