// What belongs to no loss in particular.
#include "core/cpu/common/kernels.h"
#include "core/cpu/common/probes.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/simd/convert.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {
namespace {

template <typename T, typename Storage>
void ScaleRange(const ScaleGradArgs& args, int64_t begin, int64_t end) {
  const T* unit = static_cast<const T*>(args.unit_grad);
  Storage* out = static_cast<Storage*>(args.out);
  const Vec<T> scale = Broadcast(static_cast<T>(args.scale));
  ForChunks<T>(end - begin, [&](int64_t i, int64_t count) FASTNEG_LAMBDA_INLINE {
    StoreNarrowed<T>(out + begin + i, scale * LoadValid(unit + begin + i, count), count);
  });
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
