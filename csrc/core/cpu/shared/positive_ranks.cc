// positive_ranks on the CPU.
#include "core/api.h"
#include "core/cpu/isa.h"
#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/runtime/huge_pages.h"
#include "core/cpu/shared/in_batch_call.h"
#include "core/sizes.h"
#include "core/workspace.h"

namespace fastneg {
namespace {

cpu::InBatchPlan LayOut(const PositiveRanksArgs& args, const cpu::InBatchKernels& kernels, cpu::InBatchLayout* layout,
                        Workspace* workspace) {
  return layout->LayOut(args, kernels, {}, workspace);
}

}  // namespace

size_t PositiveRanksWorkspaceBytes(const PositiveRanksArgs& args) {
  const cpu::KernelTable* kernels = cpu::ActiveKernels();
  if (kernels == nullptr || cpu::CheckInBatchSizes(args) != Status::kOk || args.batch_size == 0) return 0;
  Workspace workspace(nullptr);
  cpu::InBatchLayout layout;
  LayOut(args, *kernels->in_batch_softmax, &layout, &workspace);
  return workspace.overflow() ? 0 : workspace.used();
}

int WorthwhileThreads(const PositiveRanksArgs& args, int num_threads) {
  return cpu::ThreadsForProducts(cpu::InBatchProducts(args), num_threads);
}

Status PositiveRanks(const PositiveRanksArgs& args) {
  const cpu::FlushDenormals flush;
  const cpu::KernelTable* table = cpu::ActiveKernels();
  if (table == nullptr) return Status::kIsaUnavailable;
  const cpu::InBatchKernels& kernels = *table->in_batch_softmax;
  if (const Status status = cpu::CheckInBatchSizes(args); status != Status::kOk) return status;
  if (args.batch_size == 0) return Status::kOk;
  if (args.ranks == nullptr) return Status::kNullPointer;
  if (const Status status = cpu::CheckInBatchInputs(args); status != Status::kOk) return status;
  Workspace workspace(args.workspace);
  cpu::InBatchLayout layout;
  cpu::InBatchPlan plan = LayOut(args, kernels, &layout, &workspace);
  if (workspace.overflow()) return Status::kInvalidSize;
  if (args.workspace == nullptr || args.workspace_bytes < workspace.used()) return Status::kWorkspaceTooSmall;
  constexpr size_t kLarge = 2 << 20;  // What is smaller has no huge page of its own.
  if (workspace.used() >= kLarge) cpu::PreferHugePages(args.workspace, workspace.used());
  layout.Fill(args, &plan);
  plan.ranks = args.ranks;

  const bool is_double = ComputeBytes(args.dtype) == 8;
  cpu::PhaseQueue phases(args.executor, &plan);
  phases.Push({plan.num_panels, kernels.pack[is_double]});
  cpu::ForRounds(
      plan, [&](int64_t, int64_t block, int64_t count) { phases.Push({count, kernels.rank_block[is_double], block}); });
  phases.Flush();
  return Status::kOk;
}

}  // namespace fastneg
