// The passes of the gathered losses for float16.
#include "core/cuda/gathered/passes.cuh"

namespace fastneg::cuda {

const GatheredKernels kFloat16GatheredKernels = {LaunchLayout<Float16, RolledCandidates>,
                                                 LaunchLayout<Float16, ShuffledCandidates>};

}  // namespace fastneg::cuda
