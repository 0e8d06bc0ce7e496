// The custom call behind every loss: finds the op by its name and runs it in XLA's buffers.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tf_cxx/xla_contexts.h"
#include "tf_cxx/xla_custom_call.h"
#include "tf_ops/loss_op.h"
#include "xla/ffi/api/ffi.h"

#ifdef FASTNEG_HAVE_CUDA
#include "tf_cxx/cuda_device.h"
#endif

namespace xla::ffi {
const XLA_FFI_Api* GetXlaFfiApi();  // As in xla/ffi/ffi_api.h, which draws in much more.
}

namespace fastneg::tf_cxx {
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

std::vector<Buffer> InputBuffers(const ffi::RemainingArgs& args) {
  std::vector<Buffer> inputs;
  for (size_t i = 0; i < args.size(); ++i) inputs.push_back(AsBuffer(*args.get<ffi::AnyBuffer>(i)));
  return inputs;
}

ffi::Error RunOp(std::string_view name, int64_t flags, const std::vector<Buffer>& inputs,
                 const ffi::RemainingRets& results, int64_t num_threads, const tf_ops::Device* device) {
  const tf_ops::LossOp* op = FastnegFindLossOp(std::string(name).c_str());
  if (op == nullptr) return ffi::Error(ffi::ErrorCode::kInternal, "fastneg has no op " + std::string(name) + ".");
  std::vector<Buffer> outputs;
  for (size_t i = 0; i < results.size(); ++i) outputs.push_back(AsBuffer(**results.get<ffi::AnyBuffer>(i)));
  RunContext context(inputs, outputs, static_cast<int>(num_threads), device);
  op->compute(static_cast<uint64_t>(flags), context);
  if (context.ok()) return ffi::Error::Success();
  return ffi::Error(static_cast<ffi::ErrorCode>(context.failure().code), context.failure().message);
}

ffi::Error RunOnCpu(ffi::RemainingArgs args, ffi::RemainingRets results, std::string_view op, int64_t flags,
                    int64_t num_threads) {
  return RunOp(op, flags, InputBuffers(args), results, num_threads, nullptr);
}

XLA_FFI_DEFINE_HANDLER_EXPLICIT(
    kCpuHandler, RunOnCpu,
    ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<std::string_view>("op").Attr<int64_t>("flags").Attr<int64_t>(
        "num_threads"));

#ifdef FASTNEG_HAVE_CUDA

// Ops read scalars on the host. Those that XLA does not know, because they are trained, are copied there, which waits
// for the stream.
ffi::Error RunOnCuda(void* stream, ffi::RemainingArgs args, ffi::RemainingRets results, std::string_view op,
                     int64_t flags, int64_t known, ffi::Span<const int64_t> scalars) {
  std::vector<Buffer> inputs = InputBuffers(args);
  const CudaDevice device(stream);
  std::vector<double> doubles(inputs.size());
  std::vector<float> floats(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!IsFloatScalar(inputs[i])) continue;
    const bool is_double = inputs[i].dtype == TF_DOUBLE;
    void* host = is_double ? static_cast<void*>(&doubles[i]) : &floats[i];
    if ((known >> i & 1) != 0) {
      std::memcpy(&doubles[i], &scalars.begin()[i], sizeof(double));
      floats[i] = static_cast<float>(doubles[i]);
    } else if (const Status status = device.CopyToHost(host, inputs[i].data, tf_ops::SizeOf(inputs[i].dtype));
               status != Status::kOk) {
      return ffi::Error(ffi::ErrorCode::kInternal, "fastneg: " + tf_ops::CoreStatusText(status, &device));
    }
    inputs[i].data = host;
  }
  return RunOp(op, flags, inputs, results, 1, &device);
}

XLA_FFI_DEFINE_HANDLER_EXPLICIT(kCudaHandler, RunOnCuda,
                                ffi::Ffi::Bind()
                                    .Ctx<ffi::PlatformStream<void*>>()
                                    .RemainingArgs()
                                    .RemainingRets()
                                    .Attr<std::string_view>("op")
                                    .Attr<int64_t>("flags")
                                    .Attr<int64_t>("known")
                                    .Attr<ffi::Span<const int64_t>>("scalars"));

#endif  // FASTNEG_HAVE_CUDA

bool Register(const char* platform, XLA_FFI_Handler* handler) {
  if (ffi::Ffi::RegisterStaticHandler(ffi::GetXlaFfiApi(), kTarget, platform, handler) == nullptr) return true;
  std::fprintf(stderr, "fastneg: the custom call for XLA on %s could not be registered.\n", platform);
  return false;
}

[[maybe_unused]] const bool kCpuRegistered = Register("Host", kCpuHandler);
#ifdef FASTNEG_HAVE_CUDA
[[maybe_unused]] const bool kCudaRegistered = Register("CUDA", kCudaHandler);
#endif

}  // namespace
}  // namespace fastneg::tf_cxx
