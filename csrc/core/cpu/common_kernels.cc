// What belongs to no loss in particular.
#include "core/cpu/convert.h"
#include "core/cpu/flush_denormals.h"
#include "core/cpu/kernel_table.h"
#include "core/cpu/probes.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {
namespace {

template <typename T, typename Storage>
void ScaleRange(const ScaleGradArgs& args, int64_t begin, int64_t end) {
  const T* unit = static_cast<const T*>(args.unit_grad);
  Storage* out = static_cast<Storage*>(args.out);
  const T scale = static_cast<T>(args.scale);
  for (int64_t i = begin; i < end; ++i) Narrow(scale * unit[i], out + i);
}

void ScaleGradKernel(const ScaleGradArgs& args, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  switch (args.dtype) {
    case DType::kFloat64:
      return ScaleRange<double, double>(args, begin, end);
    case DType::kFloat16:
      return ScaleRange<float, Float16>(args, begin, end);
    case DType::kBFloat16:
      return ScaleRange<float, BFloat16>(args, begin, end);
    default:
      return ScaleRange<float, float>(args, begin, end);
  }
}

}  // namespace

extern const CommonKernels kCommonKernels;
const CommonKernels kCommonKernels = {ScaleGradKernel, ProbeFma, ProbeRead};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
