// Which rows count.
#ifndef FASTNEG_CORE_CPU_GATHERED_LABELS_H_
#define FASTNEG_CORE_CPU_GATHERED_LABELS_H_

#include <cstdint>

#include "core/api.h"

namespace fastneg::cpu {

// counted[i] = labels[i] > 0; false for an unknown `dtype`. NaN does not count.
bool CountedRows(const void* labels, DType dtype, int64_t size, uint8_t* counted);

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_GATHERED_LABELS_H_
