// Candidates with the same id, found once instead of by comparing every pair.
#ifndef FASTNEG_CORE_CPU_SHARED_SAME_IDS_H_
#define FASTNEG_CORE_CPU_SHARED_SAME_IDS_H_

#include <cstdint>

#include "core/workspace.h"

namespace fastneg::cpu {

// The candidates of group g, ascending, are members[begin[g] .. begin[g + 1]).
struct SameIds {
  const int32_t* group_of = nullptr;  // [count]; null: every candidate is a group of its own.
  const int32_t* begin = nullptr;     // [number of groups + 1]
  const int32_t* members = nullptr;   // [count]
};

class SameIdsBuilder {
 public:
  // Takes room for `count` ids.
  void Take(int64_t count, Workspace* workspace);

  SameIds Build(const int64_t* ids);

 private:
  int64_t count_ = 0;
  int bits_ = 4;                 // Of the table's size, a power of two.
  int32_t* slots_ = nullptr;     // 1 + group, or 0.
  int32_t* first_ = nullptr;     // [count] a candidate with the group's id.
  int32_t* group_of_ = nullptr;  // [count]
  int32_t* begin_ = nullptr;     // [count + 2]
  int32_t* members_ = nullptr;   // [count]
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_SAME_IDS_H_
