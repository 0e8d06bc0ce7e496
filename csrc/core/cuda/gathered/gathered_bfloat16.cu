// The passes of the gathered losses for bfloat16.
#include "core/cuda/gathered/passes.cuh"

namespace fastneg::cuda {

const GatheredKernels kBFloat16GatheredKernels = {LaunchLayout<BFloat16, RolledCandidates>,
                                                  LaunchLayout<BFloat16, ShuffledCandidates>};

}  // namespace fastneg::cuda
