#include "tf_ops/kernel_attributes.h"

#include <cstdint>
#include <string>

namespace fastneg::tf_ops {

bool ReadFlag(TF_OpKernelConstruction* construction, const char* name, bool* value, const ScopedStatus& status) {
  TF_Bool flag = 0;
  TF_OpKernelConstruction_GetAttrBool(construction, name, &flag, status.get());
  *value = flag != 0;
  return status.ok();
}

bool ReadPresence(TF_OpKernelConstruction* construction, const char* name, bool* present, const ScopedStatus& status) {
  int64_t count = 0;
  TF_OpKernelConstruction_GetAttrInt64(construction, name, &count, status.get());
  if (!status.ok()) return false;
  if (count > 1) {
    const std::string message = std::string("`") + name + "` must be 0 or 1. Received: " + std::to_string(count) + ".";
    TF_SetStatus(status.get(), TF_INVALID_ARGUMENT, message.c_str());
    return false;
  }
  *present = count == 1;
  return true;
}

}  // namespace fastneg::tf_ops
