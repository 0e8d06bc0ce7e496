// The custom call behind every loss: finds the op by its name and runs it in XLA's buffers.
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "tf_ops/loss_op.h"
#include "tf_xla/contexts.h"
#include "tf_xla/custom_call.h"
#include "xla/ffi/api/ffi.h"

namespace xla::ffi {
const XLA_FFI_Api* GetXlaFfiApi();  // As in xla/ffi/ffi_api.h, which draws in much more.
}

namespace fastneg::tf_xla {
namespace {

namespace ffi = xla::ffi;

TF_DataType TensorFlowType(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::PRED:
      return TF_BOOL;
    case ffi::DataType::S8:
      return TF_INT8;
    case ffi::DataType::U8:
      return TF_UINT8;
    case ffi::DataType::S16:
      return TF_INT16;
    case ffi::DataType::U16:
      return TF_UINT16;
    case ffi::DataType::S32:
      return TF_INT32;
    case ffi::DataType::U32:
      return TF_UINT32;
    case ffi::DataType::S64:
      return TF_INT64;
    case ffi::DataType::U64:
      return TF_UINT64;
    case ffi::DataType::F16:
      return TF_HALF;
    case ffi::DataType::BF16:
      return TF_BFLOAT16;
    case ffi::DataType::F64:
      return TF_DOUBLE;
    default:
      return TF_FLOAT;  // No other type gets past the op's definition.
  }
}

Buffer AsBuffer(const ffi::AnyBuffer& buffer) {
  return {TensorFlowType(buffer.element_type()), static_cast<int>(buffer.dimensions().size()),
          buffer.dimensions().begin(), buffer.untyped_data()};
}

ffi::Error Run(ffi::RemainingArgs args, ffi::RemainingRets results, std::string_view name, int64_t flags,
               int64_t num_threads) {
  const tf_ops::LossOp* op = FastnegFindLossOp(std::string(name).c_str());
  if (op == nullptr) return ffi::Error(ffi::ErrorCode::kInternal, "fastneg has no op " + std::string(name) + ".");
  std::vector<Buffer> inputs, outputs;
  for (size_t i = 0; i < args.size(); ++i) inputs.push_back(AsBuffer(*args.get<ffi::AnyBuffer>(i)));
  for (size_t i = 0; i < results.size(); ++i) outputs.push_back(AsBuffer(**results.get<ffi::AnyBuffer>(i)));
  RunContext context(inputs, outputs, static_cast<int>(num_threads), nullptr);
  op->compute(static_cast<uint64_t>(flags), context);
  if (context.ok()) return ffi::Error::Success();
  return ffi::Error(static_cast<ffi::ErrorCode>(context.failure().code), context.failure().message);
}

XLA_FFI_DEFINE_HANDLER_EXPLICIT(
    kHandler, Run,
    ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<std::string_view>("op").Attr<int64_t>("flags").Attr<int64_t>(
        "num_threads"));

bool Register() {
  const XLA_FFI_Api* api = ffi::GetXlaFfiApi();
  XLA_FFI_Error* error = ffi::Ffi::RegisterStaticHandler(api, kTarget, "Host", kHandler);
  if (error == nullptr) return true;
  std::fprintf(stderr, "fastneg: the custom call for XLA could not be registered.\n");
  return false;
}

[[maybe_unused]] const bool kRegistered = Register();

}  // namespace
}  // namespace fastneg::tf_xla
