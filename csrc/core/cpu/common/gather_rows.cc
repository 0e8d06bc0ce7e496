// Rows of a table that may be far larger than the caches: many are asked for before the first has to be there.
#include <algorithm>
#include <cstring>

#include "core/api.h"
#include "core/cpu/runtime/phases.h"
#include "core/sizes.h"

namespace fastneg {
namespace {

constexpr int64_t kTaskRows = 512;
constexpr int64_t kRowsAhead = 16;
constexpr int64_t kBytesAhead = 256;  // Of a row: the hardware goes on by itself.

const char* RowOf(const GatherRowsArgs& args, int64_t i) {
  return static_cast<const char*>(args.table) + args.ids[i] * args.row_bytes;
}

void GatherTask(void* context, int64_t index) {
  const GatherRowsArgs& args = *static_cast<const GatherRowsArgs*>(context);
  const int64_t begin = index * kTaskRows, end = std::min(begin + kTaskRows, args.num_ids);
  const int64_t ahead = std::min(args.row_bytes, kBytesAhead);
  for (int64_t i = begin; i < end; ++i) {
    if (i + kRowsAhead < end) {
      const char* next = RowOf(args, i + kRowsAhead);
      for (int64_t byte = 0; byte < ahead; byte += kLineBytes) __builtin_prefetch(next + byte);
    }
    std::memcpy(static_cast<char*>(args.rows) + i * args.row_bytes, RowOf(args, i),
                static_cast<size_t>(args.row_bytes));
  }
}

}  // namespace

int WorthwhileThreads(const GatherRowsArgs& args, int num_threads) {
  // What one thread copies while it would wait for another one.
  constexpr double kSavedBytes = 1 << 18;
  const double bytes = static_cast<double>(args.num_ids) * static_cast<double>(args.row_bytes);
  return bytes - bytes / num_threads < kSavedBytes ? 1 : num_threads;
}

Status GatherRows(const GatherRowsArgs& args) {
  if (!IsSize(args.num_ids) || !IsSize(args.table_rows) || !IsSize(args.row_bytes)) return Status::kInvalidSize;
  if (args.num_ids > 0 && args.ids == nullptr) return Status::kNullPointer;
  if (args.num_ids > 0 && args.row_bytes > 0 && (args.rows == nullptr || args.table == nullptr)) {
    return Status::kNullPointer;
  }
  for (int64_t i = 0; i < args.num_ids; ++i) {
    if (static_cast<uint64_t>(args.ids[i]) < static_cast<uint64_t>(args.table_rows)) continue;
    if (args.error_index != nullptr) *args.error_index = i;
    return Status::kIdOutOfRange;
  }
  if (args.row_bytes == 0) return Status::kOk;
  const Phase phase{CeilDiv(args.num_ids, kTaskRows), GatherTask};
  GatherRowsArgs context = args;
  cpu::RunPhases(args.executor, &phase, 1, &context);
  return Status::kOk;
}

}  // namespace fastneg
