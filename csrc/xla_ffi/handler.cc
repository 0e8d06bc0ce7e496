// The custom call behind every op inside XLA: finds the op by the name in the attribute `op` and runs it.
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "ops/op.h"
#include "xla_ffi/call_frame.h"
#include "xla_ffi/cuda_device.h"
#include "xla_ffi/ffi_kernel_context.h"
#include "xla_ffi/xla_ffi_c_api.h"

namespace fastneg::xla_ffi {
namespace {

using ops::ErrorCode;

constexpr int kApiMajor = 0;
constexpr int kApiMinor = 1;

// Whether XLA asks what the handler is, which is answered here.
bool AnswersMetadata(const XLA_FFI_CallFrame& frame) {
  XLA_FFI_Extension_Base* extension = frame.extension_start;
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata& metadata = *reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata;
  metadata.api_version = {sizeof(XLA_FFI_Api_Version), nullptr, kApiMajor, kApiMinor};
  metadata.traits = 0;
  return true;
}

const ops::Op* FindOp(const Attributes& attributes) {
  std::string_view name;
  if (!attributes.Text("op", &name)) return nullptr;
  for (const ops::Op& op : ops::AllOps()) {
    if (name == op.name) return &op;
  }
  return nullptr;
}

XLA_FFI_Error* Run(const XLA_FFI_CallFrame& frame, const CudaDevice* device) {
  const ops::Op* op = FindOp(Attributes(frame.attrs));
  if (op == nullptr) {
    return MakeError(frame.api, ErrorCode::kInvalidArgument, "The attribute `op` must name an op of fastneg.");
  }
  if (device != nullptr && !op->runs_on_devices) {
    return MakeError(frame.api, ErrorCode::kInvalidArgument, std::string(op->name) + " must run on the CPU.");
  }
  FfiKernelContext context(frame, device);
  int64_t attributes[ops::kMostAttributes] = {};
  context.Bind(*op, attributes);
  if (context.ok()) op->compute(attributes, context);
  return context.ok() ? nullptr : MakeError(frame.api, context.error_code(), context.error_message());
}

XLA_FFI_Error* RunOnCpu(XLA_FFI_CallFrame* frame) { return AnswersMetadata(*frame) ? nullptr : Run(*frame, nullptr); }

XLA_FFI_Error* RunOnCuda(XLA_FFI_CallFrame* frame) {
  if (AnswersMetadata(*frame)) return nullptr;
  XLA_FFI_Stream_Get_Args args = {};
  args.struct_size = sizeof(args);
  args.ctx = frame->ctx;
  if (XLA_FFI_Error* error = frame->api->XLA_FFI_Stream_Get(&args)) return error;
  const CudaDevice device(args.stream);
  return Run(*frame, &device);
}

XLA_FFI_Error* RunOnHostInPlaceOfCuda(XLA_FFI_CallFrame* frame) {
  if (AnswersMetadata(*frame)) return nullptr;
  const CudaDevice device = CudaDevice::OnHost();
  return Run(*frame, &device);
}

XLA_FFI_Handler* HandlerFor(std::string_view platform, bool cuda) {
  if (!cuda) return &RunOnCpu;
  return platform == "Host" ? &RunOnHostInPlaceOfCuda : &RunOnCuda;
}

std::string Register(const XLA_FFI_Api* api, const char* target, const char* platform, XLA_FFI_Handler* handler) {
  XLA_FFI_Handler_Register_Args args = {};
  args.struct_size = sizeof(args);
  args.name = {target, std::strlen(target)};
  args.platform = {platform, std::strlen(platform)};
  args.bundle.execute = handler;
  XLA_FFI_Error* error = api->XLA_FFI_Handler_Register(&args);
  return error == nullptr ? "" : TakeMessage(api, error);
}

}  // namespace
}  // namespace fastneg::xla_ffi

#define FASTNEG_EXPORT extern "C" __attribute__((visibility("default")))

FASTNEG_EXPORT XLA_FFI_Error* FastnegXlaHandler(XLA_FFI_CallFrame* frame) { return fastneg::xla_ffi::RunOnCpu(frame); }

// Needs FastnegLoadCuda.
FASTNEG_EXPORT XLA_FFI_Error* FastnegXlaCudaHandler(XLA_FFI_CallFrame* frame) {
  return fastneg::xla_ffi::RunOnCuda(frame);
}

// Of the kernels that FastnegLoadCuda has loaded, if they are such that run on the host: for tests.
FASTNEG_EXPORT XLA_FFI_Error* FastnegXlaCudaOnHostHandler(XLA_FFI_CallFrame* frame) {
  return fastneg::xla_ffi::RunOnHostInPlaceOfCuda(frame);
}

// Registers a handler as `target` for a platform of XLA's, "Host" or "CUDA": of the CPU's kernels, or of those that
// FastnegLoadCuda has loaded (on the host, for tests, such that run there). Returns null, or why it could not be done,
// which stays valid until this thread calls again.
FASTNEG_EXPORT const char* FastnegRegisterXlaHandler(const XLA_FFI_Api* api, const char* target, const char* platform,
                                                     bool cuda) {
  using namespace fastneg::xla_ffi;
  static thread_local std::string problem;
  // Version 0.1 tells the size up to this function, although it has all that are declared here.
  constexpr size_t kNeeded = offsetof(XLA_FFI_Api, XLA_FFI_Stream_Get) + sizeof(void*);
  if (api->struct_size < kNeeded || api->api_version.major_version != kApiMajor ||
      api->api_version.minor_version < kApiMinor) {
    problem = "XLA's foreign function interface must have version 0.1 or a newer 0.x. Received: " +
              std::to_string(api->api_version.major_version) + "." + std::to_string(api->api_version.minor_version) +
              ".";
  } else {
    problem = Register(api, target, platform, HandlerFor(platform, cuda));
  }
  return problem.empty() ? nullptr : problem.c_str();
}
