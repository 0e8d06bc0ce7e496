// What XLA hands to a handler, in the ops' words.
#ifndef FASTNEG_XLA_FFI_CALL_FRAME_H_
#define FASTNEG_XLA_FFI_CALL_FRAME_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "core/api.h"
#include "ops/kernel_context.h"
#include "ops/tensor.h"
#include "xla_ffi/xla_ffi_c_api.h"

namespace fastneg::xla_ffi {

// False for a type that no op knows.
bool ToCoreType(XLA_FFI_DataType type, DType* result);

// The buffer as a tensor, which the buffer has to outlive; empty if its type is not known.
ops::Tensor AsTensor(const XLA_FFI_Buffer& buffer);

// The named attributes of a call, which XLA sorts by name. A missing one reads as false: the caller knows what it
// means.
class Attributes {
 public:
  explicit Attributes(const XLA_FFI_Attrs& attrs) : attrs_(attrs) {}

  bool Text(const char* name, std::string_view* value) const;
  // Of any integer type or bool.
  bool Integer(const char* name, int64_t* value) const;
  // Of any floating-point or integer type.
  bool Number(const char* name, double* value) const;

 private:
  const void* Find(const char* name, XLA_FFI_AttrType type) const;

  const XLA_FFI_Attrs& attrs_;
};

XLA_FFI_Error* MakeError(const XLA_FFI_Api* api, ops::ErrorCode code, const std::string& message);

// The message of an error, which is destroyed.
std::string TakeMessage(const XLA_FFI_Api* api, XLA_FFI_Error* error);

}  // namespace fastneg::xla_ffi

#endif  // FASTNEG_XLA_FFI_CALL_FRAME_H_
