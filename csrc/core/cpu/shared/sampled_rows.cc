// Distinct ids among labels and samples, through a hash table with open addressing.
#include <algorithm>
#include <cstring>

#include "core/api.h"
#include "core/workspace.h"

namespace fastneg {
namespace {

constexpr int64_t kLargest = (int64_t{1} << 31) - 1;  // Rows are counted in int32.

Status CheckSizes(const SampledRowsArgs& args) {
  if (args.num_labels < 0 || args.num_sampled < 0 || args.num_classes < 0) return Status::kInvalidSize;
  if (args.num_labels > kLargest || args.num_sampled > kLargest) return Status::kInvalidSize;
  return args.num_labels + args.num_sampled > kLargest ? Status::kInvalidSize : Status::kOk;
}

// A power of two of slots, at most half of them used.
int Log2Slots(int64_t num_ids) {
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * num_ids) ++bits;
  return bits;
}

class RowTable {
 public:
  RowTable(int32_t* slots, int bits, int64_t* ids) : slots_(slots), bits_(bits), ids_(ids) {
    std::memset(slots, 0, sizeof(int32_t) << bits);
  }

  // The row of `id`, a new one if it has none yet.
  int32_t Find(int64_t id) {
    // The upper bits of a product with 2^64 / golden ratio: neighbouring ids, which are common, land far apart.
    uint64_t slot = (static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15u) >> (64 - bits_);
    const uint64_t mask = (uint64_t{1} << bits_) - 1;
    for (;; slot = (slot + 1) & mask) {
      const int32_t row = slots_[slot] - 1;
      if (row >= 0 && ids_[row] != id) continue;
      if (row >= 0) return row;
      ids_[size_] = id;
      slots_[slot] = static_cast<int32_t>(++size_);
      return static_cast<int32_t>(size_ - 1);
    }
  }

  int64_t size() const { return size_; }

 private:
  int32_t* slots_;  // Row + 1, or 0 for none.
  int bits_;
  int64_t* ids_;
  int64_t size_ = 0;
};

// The first index of an id that names no class; -1 if there is none.
int64_t FindBadId(const int64_t* ids, int64_t size, int64_t num_classes) {
  for (int64_t i = 0; i < size; ++i) {
    if (static_cast<uint64_t>(ids[i]) >= static_cast<uint64_t>(num_classes)) return i;
  }
  return -1;
}

}  // namespace

size_t SampledRowsWorkspaceBytes(const SampledRowsArgs& args) {
  if (CheckSizes(args) != Status::kOk) return 0;
  return sizeof(int32_t) << Log2Slots(args.num_labels + args.num_sampled);
}

Status SampledRows(const SampledRowsArgs& args) {
  if (const Status status = CheckSizes(args); status != Status::kOk) return status;
  const bool have_labels = args.num_labels == 0 || (args.labels != nullptr && args.label_rows != nullptr);
  const bool have_sampled = args.num_sampled == 0 || (args.sampled != nullptr && args.sampled_rows != nullptr);
  const bool have_ids = args.num_labels + args.num_sampled == 0 || args.ids != nullptr;
  if (!have_labels || !have_sampled || !have_ids || args.num_rows == nullptr) return Status::kNullPointer;
  int64_t bad = FindBadId(args.labels, args.num_labels, args.num_classes);
  if (bad < 0) {
    bad = FindBadId(args.sampled, args.num_sampled, args.num_classes);
    if (bad >= 0) bad += args.num_labels;
  }
  if (bad >= 0) {
    if (args.error_index != nullptr) *args.error_index = bad;
    return Status::kIdOutOfRange;
  }
  if (args.workspace == nullptr || args.workspace_bytes < SampledRowsWorkspaceBytes(args)) {
    return Status::kWorkspaceTooSmall;
  }
  RowTable table(static_cast<int32_t*>(args.workspace), Log2Slots(args.num_labels + args.num_sampled), args.ids);
  for (int64_t s = 0; s < args.num_sampled; ++s) args.sampled_rows[s] = table.Find(args.sampled[s]);
  for (int64_t i = 0; i < args.num_labels; ++i) args.label_rows[i] = table.Find(args.labels[i]);
  *args.num_rows = table.size();
  return Status::kOk;
}

}  // namespace fastneg
