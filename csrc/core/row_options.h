// Which row options of the gathered losses go together.
#ifndef FASTNEG_CORE_ROW_OPTIONS_H_
#define FASTNEG_CORE_ROW_OPTIONS_H_

#include "core/api.h"

namespace fastneg {

inline bool RowOptionsFit(const GatheredSoftmaxArgs& args) {
  if (args.positive_in_softmax) return !args.refined && args.negative_weight == 1;
  return !args.refined || args.batch_size == 0 || args.sampling_probability != nullptr;
}

}  // namespace fastneg

#endif  // FASTNEG_CORE_ROW_OPTIONS_H_
