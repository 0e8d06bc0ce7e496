// The passes of the gathered losses for float64.
#include "core/cuda/gathered/passes.cuh"

namespace fastneg::cuda {

const GatheredKernels kFloat64GatheredKernels = {LaunchLayout<double, RolledCandidates>,
                                                 LaunchLayout<double, ShuffledCandidates>};

}  // namespace fastneg::cuda
