#include "tf_ops/loss_op.h"

#include <cstring>
#include <string>

namespace fastneg::tf_ops {
namespace {

constexpr int kMostLossOps = 16;

struct LossOps {
  LossOp ops[kMostLossOps];
  int count = 0;
};

LossOps& Registered() {
  static LossOps registered;
  return registered;
}

}  // namespace

bool ReadAttribute(TF_OpKernelConstruction* construction, const char* name, AttributeKind kind, bool* value,
                   const ScopedStatus& status) {
  if (kind == AttributeKind::kFlag) {
    TF_Bool flag = 0;
    TF_OpKernelConstruction_GetAttrBool(construction, name, &flag, status.get());
    *value = flag != 0;
    return status.ok();
  }
  int64_t count = 0;
  TF_OpKernelConstruction_GetAttrInt64(construction, name, &count, status.get());
  if (!status.ok()) return false;
  if (count > 1) {
    const std::string message = std::string("`") + name + "` must be 0 or 1. Received: " + std::to_string(count) + ".";
    TF_SetStatus(status.get(), TF_INVALID_ARGUMENT, message.c_str());
    return false;
  }
  *value = count == 1;
  return true;
}

bool RegisterLossOp(const LossOp& op) {
  LossOps& registered = Registered();
  if (registered.count == kMostLossOps) return false;
  registered.ops[registered.count++] = op;
  return true;
}

}  // namespace fastneg::tf_ops

extern "C" __attribute__((visibility("default"))) const fastneg::tf_ops::LossOp* FastnegFindLossOp(const char* name) {
  const auto& registered = fastneg::tf_ops::Registered();
  for (int i = 0; i < registered.count; ++i) {
    if (std::strcmp(registered.ops[i].name, name) == 0) return &registered.ops[i];
  }
  return nullptr;
}
