// Fastneg>GatherRows: rows of a table, for functions that XLA compiles for CPUs. XLA's own gather works number by
// number there, and on one thread.
#include <cstdint>
#include <vector>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/kernel_context.h"
#include "ops/op.h"
#include "ops/run_loss.h"

namespace fastneg::ops::gather_rows {
namespace {

enum InputIndex { kTable, kIds };

struct GatherRowsKernel {
  static std::vector<Attribute> Attributes() { return {}; }
  void Compute(KernelContext& context) const;
};

void GatherRowsKernel::Compute(KernelContext& context) const {
  const Tensor table = context.Input(kTable);
  const Tensor ids = context.Input(kIds);
  if (!context.ok()) return;
  if (table.rank() != 2) {
    context.Refuse("`table` must have rank 2, [num_rows, width]. Received: " + table.ShapeText() + ".");
  } else if (ids.rank() != 1) {
    context.Refuse("`ids` must have rank 1, [num_ids]. Received: " + ids.ShapeText() + ".");
  }
  if (!context.ok()) return;
  const Tensor rows = context.AllocateOutput(0, table.dtype(), {ids.dim(0), table.dim(1)});
  if (!context.ok()) return;
  GatherRowsArgs args;
  args.num_ids = ids.dim(0);
  args.table_rows = table.dim(0);
  args.row_bytes = table.dim(1) * static_cast<int64_t>(SizeOf(table.dtype()));
  args.table = table.data();
  args.ids = static_cast<const int64_t*>(ids.data());
  args.rows = rows.data();
  int64_t bad = 0;
  args.error_index = &bad;
  args.executor = PoolExecutor(WorthwhileThreads(args, context.num_threads()));
  const Status status = GatherRows(args);
  if (status == Status::kIdOutOfRange) {
    context.Refuse("`ids` must be at least 0 and less than the number of rows, " + Text(args.table_rows) +
                   ". Received: " + Text(args.ids[bad]) + ".");
  } else {
    CheckStatus(context, "GatherRows", status);
  }
}

[[maybe_unused]] const bool kRegistered = KernelOp<GatherRowsKernel>::Register({
    "Fastneg>GatherRows",
    {{"table", "T"}, {"ids", "int64"}},
    {{"rows", "T"}},
    {FloatTypes("T")},
    {{kTable, 2, 2, "`table` must have rank 2, [num_rows, width]"}, {kIds, 1, 1, "`ids` must have rank 1, [num_ids]"}},
});

}  // namespace
}  // namespace fastneg::ops::gather_rows
