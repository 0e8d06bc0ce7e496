// The passes of the gathered losses for float32.
#include "core/cuda/gathered/passes.cuh"

namespace fastneg::cuda {

const GatheredKernels kFloat32GatheredKernels = {LaunchLayout<float, RolledCandidates>,
                                                 LaunchLayout<float, ShuffledCandidates>};

}  // namespace fastneg::cuda
