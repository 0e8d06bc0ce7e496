// Which op of _ops.so a kernel is for, and with which attributes.
#ifndef FASTNEG_TF_CXX_LOSS_FLAGS_H_
#define FASTNEG_TF_CXX_LOSS_FLAGS_H_

#include <cstdint>
#include <string>

#include "tensorflow/core/framework/op_kernel.h"
#include "tf_ops/loss_op.h"

namespace fastneg::tf_cxx {

struct LossCall {
  const tf_ops::LossOp* op = nullptr;
  uint64_t flags = 0;
};

// Fails in `construction` for an op that _ops.so does not have.
inline LossCall ReadLossCall(tensorflow::OpKernelConstruction* construction) {
  const std::string& name = construction->def().op();
  LossCall call;
  call.op = FastnegFindLossOp(name.c_str());
  if (call.op == nullptr) construction->CtxFailure(absl::InternalError("fastneg has no op " + name + "."));
  for (int i = 0; call.op != nullptr && i < call.op->num_attributes; ++i) {
    const char* attribute = call.op->attribute_name(i);
    bool flag = false;
    int32_t count = 0;
    const bool is_flag = call.op->attribute_kind(i) == tf_ops::AttributeKind::kFlag;
    const absl::Status status =
        is_flag ? construction->GetAttr(attribute, &flag) : construction->GetAttr(attribute, &count);
    if (!status.ok()) construction->CtxFailure(status);
    if (count > 1) {
      const std::string received = std::to_string(count);
      construction->CtxFailure(
          absl::InvalidArgumentError(std::string("`") + attribute + "` must be 0 or 1. Received: " + received + "."));
    }
    call.flags |= static_cast<uint64_t>(flag || count > 0) << i;
  }
  return call;
}

}  // namespace fastneg::tf_cxx

#endif  // FASTNEG_TF_CXX_LOSS_FLAGS_H_
