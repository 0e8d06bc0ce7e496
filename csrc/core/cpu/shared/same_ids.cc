#include "core/cpu/shared/same_ids.h"

#include <cstring>

namespace fastneg::cpu {

void SameIdsBuilder::Take(int64_t count, Workspace* workspace) {
  count_ = count;
  while ((int64_t{1} << bits_) < 2 * count) ++bits_;  // At most half of the slots are used.
  const auto take = [&](int64_t size) { return static_cast<int32_t*>(workspace->Take(size, 1, sizeof(int32_t))); };
  slots_ = take(int64_t{1} << bits_);
  first_ = take(count);
  group_of_ = take(count);
  begin_ = take(count + 2);
  members_ = take(count);
}

SameIds SameIdsBuilder::Build(const int64_t* ids) {
  std::memset(slots_, 0, sizeof(int32_t) << bits_);
  const uint64_t mask = (uint64_t{1} << bits_) - 1;
  int32_t groups = 0;
  for (int64_t j = 0; j < count_; ++j) {
    // The upper bits of a product with 2^64 / golden ratio: neighbouring ids, which are common, land far apart.
    uint64_t slot = (static_cast<uint64_t>(ids[j]) * 0x9e3779b97f4a7c15u) >> (64 - bits_);
    while (slots_[slot] != 0 && ids[first_[slots_[slot] - 1]] != ids[j]) slot = (slot + 1) & mask;
    if (slots_[slot] == 0) {
      first_[groups] = static_cast<int32_t>(j);
      slots_[slot] = ++groups;
    }
    group_of_[j] = slots_[slot] - 1;
  }
  // A counting sort, stable: counts two places behind become ends one place behind, and begins when all are placed.
  std::memset(begin_, 0, static_cast<size_t>(groups + 2) * sizeof(int32_t));
  for (int64_t j = 0; j < count_; ++j) ++begin_[group_of_[j] + 2];
  for (int32_t g = 2; g < groups + 2; ++g) begin_[g] += begin_[g - 1];
  for (int64_t j = 0; j < count_; ++j) members_[begin_[group_of_[j] + 1]++] = static_cast<int32_t>(j);
  return {group_of_, begin_, members_};
}

}  // namespace fastneg::cpu
