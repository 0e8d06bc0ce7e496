// Rows sorted by session and label, in time in proportion to their number.
#ifndef FASTNEG_CORE_CPU_PAIRWISE_ORDER_H_
#define FASTNEG_CORE_CPU_PAIRWISE_ORDER_H_

#include <cstdint>

#include "core/api.h"

namespace fastneg::cpu {

// keys[i] orders as labels[i] does, exactly and for every type; kNoLabel for NaN. False for an unknown type.
constexpr uint64_t kNoLabel = UINT64_MAX;
bool LabelKeys(const void* labels, DType dtype, int64_t size, uint64_t* keys);

// Sorts `order` stably by keys[order[k]] and hands back the buffer, `order` or `spare`, that holds the result. The time
// is that of one pass for every 12 bits between the highest and the lowest one in which keys differ: one pass for
// binary or graded labels.
uint32_t* SortByKeys(const uint64_t* keys, int64_t size, uint32_t* order, uint32_t* spare);

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_PAIRWISE_ORDER_H_
