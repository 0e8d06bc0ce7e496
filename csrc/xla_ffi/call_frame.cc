#include "xla_ffi/call_frame.h"

#include <algorithm>
#include <cstring>

namespace fastneg::xla_ffi {
namespace {

constexpr struct {
  XLA_FFI_DataType xla;
  DType core;
} kTypes[] = {
    {XLA_FFI_DataType_PRED, DType::kBool},     {XLA_FFI_DataType_S8, DType::kInt8},
    {XLA_FFI_DataType_U8, DType::kUInt8},      {XLA_FFI_DataType_S16, DType::kInt16},
    {XLA_FFI_DataType_U16, DType::kUInt16},    {XLA_FFI_DataType_S32, DType::kInt32},
    {XLA_FFI_DataType_U32, DType::kUInt32},    {XLA_FFI_DataType_S64, DType::kInt64},
    {XLA_FFI_DataType_U64, DType::kUInt64},    {XLA_FFI_DataType_F16, DType::kFloat16},
    {XLA_FFI_DataType_F32, DType::kFloat32},   {XLA_FFI_DataType_F64, DType::kFloat64},
    {XLA_FFI_DataType_BF16, DType::kBFloat16},
};

template <typename T>
T Read(const void* value) {
  T result;
  std::memcpy(&result, value, sizeof(T));
  return result;
}

}  // namespace

bool ToCoreType(XLA_FFI_DataType type, DType* result) {
  for (const auto& known : kTypes) {
    if (known.xla != type) continue;
    *result = known.core;
    return true;
  }
  return false;
}

ops::Tensor AsTensor(const XLA_FFI_Buffer& buffer) {
  DType dtype;
  if (!ToCoreType(buffer.dtype, &dtype)) return ops::Tensor();
  return ops::Tensor(dtype, buffer.dims, static_cast<int>(buffer.rank), buffer.data);
}

const void* Attributes::Find(const char* name, XLA_FFI_AttrType type) const {
  const std::string_view wanted = name;
  const auto text = [](const XLA_FFI_ByteSpan* span) { return std::string_view(span->ptr, span->len); };
  XLA_FFI_ByteSpan** const end = attrs_.names + attrs_.size;
  XLA_FFI_ByteSpan** const found = std::lower_bound(
      attrs_.names, end, wanted, [&](const XLA_FFI_ByteSpan* span, std::string_view key) { return text(span) < key; });
  if (found == end || text(*found) != wanted) return nullptr;
  const int64_t place = found - attrs_.names;
  return attrs_.types[place] == type ? attrs_.attrs[place] : nullptr;
}

bool Attributes::Text(const char* name, std::string_view* value) const {
  const void* found = Find(name, XLA_FFI_AttrType_STRING);
  if (found == nullptr) return false;
  const auto& span = *static_cast<const XLA_FFI_ByteSpan*>(found);
  *value = std::string_view(span.ptr, span.len);
  return true;
}

bool Attributes::Integer(const char* name, int64_t* value) const {
  const void* found = Find(name, XLA_FFI_AttrType_SCALAR);
  if (found == nullptr) return false;
  const auto& scalar = *static_cast<const XLA_FFI_Scalar*>(found);
  switch (scalar.dtype) {
    case XLA_FFI_DataType_PRED:
      *value = Read<uint8_t>(scalar.value) != 0;
      return true;
    case XLA_FFI_DataType_S32:
      *value = Read<int32_t>(scalar.value);
      return true;
    case XLA_FFI_DataType_S64:
      *value = Read<int64_t>(scalar.value);
      return true;
    default:
      return false;
  }
}

bool Attributes::Number(const char* name, double* value) const {
  const void* found = Find(name, XLA_FFI_AttrType_SCALAR);
  if (found == nullptr) return false;
  const auto& scalar = *static_cast<const XLA_FFI_Scalar*>(found);
  if (scalar.dtype == XLA_FFI_DataType_F64) {
    *value = Read<double>(scalar.value);
    return true;
  }
  if (scalar.dtype == XLA_FFI_DataType_F32) {
    *value = static_cast<double>(Read<float>(scalar.value));
    return true;
  }
  int64_t integer;
  if (!Integer(name, &integer)) return false;
  *value = static_cast<double>(integer);
  return true;
}

XLA_FFI_Error* MakeError(const XLA_FFI_Api* api, ops::ErrorCode code, const std::string& message) {
  XLA_FFI_Error_Create_Args args = {};
  args.struct_size = sizeof(args);
  args.message = message.c_str();
  args.errc = static_cast<XLA_FFI_Error_Code>(code);
  return api->XLA_FFI_Error_Create(&args);
}

std::string TakeMessage(const XLA_FFI_Api* api, XLA_FFI_Error* error) {
  XLA_FFI_Error_GetMessage_Args get = {};
  get.struct_size = sizeof(get);
  get.error = error;
  api->XLA_FFI_Error_GetMessage(&get);
  const std::string message = get.message != nullptr ? get.message : "";
  XLA_FFI_Error_Destroy_Args destroy = {};
  destroy.struct_size = sizeof(destroy);
  destroy.error = error;
  api->XLA_FFI_Error_Destroy(&destroy);
  return message;
}

}  // namespace fastneg::xla_ffi
