// Cuts the sorted rows of a pairwise loss into blocks and leaves, depth by depth.
#ifndef FASTNEG_CORE_CPU_PAIRWISE_CUT_H_
#define FASTNEG_CORE_CPU_PAIRWISE_CUT_H_

#include <cstdint>

#include "core/cpu/pairwise/kernels.h"
#include "core/cpu/pairwise/plan.h"
#include "core/workspace.h"

namespace fastneg::cpu {

// Everything that is known from the batch size alone: how much room the lists below can need.
struct PairwiseCapacity {
  explicit PairwiseCapacity(int64_t batch_size);

  int64_t leaves, ranges, tasks, numbers;
};

class PairwiseCut {
 public:
  // Takes its room from `workspace`, which may be measuring.
  PairwiseCut(int64_t batch_size, Workspace* workspace);

  // Adds the rows of one session.
  void AddSession(const PairwisePlan& plan, RowRange rows) { AddRange(plan, rows, &num_ranges_, ranges_); }

  // Makes the next depth's blocks and tasks and points the plan to them; false if there is none.
  bool NextDepth(const PairwiseKernels& kernels, PairwisePlan* plan);

  int64_t num_blocks() const { return num_blocks_; }
  int64_t num_moment_tasks() const { return num_moment_tasks_; }
  int64_t num_evaluate_tasks() const { return num_evaluate_tasks_; }
  const RowRange* leaves() const { return leaves_; }
  int64_t num_leaves() const { return num_leaves_; }

 private:
  void AddRange(const PairwisePlan& plan, RowRange rows, int64_t* num_ranges, RowRange* ranges);
  uint32_t FindCut(const PairwisePlan& plan, RowRange rows) const;
  bool PlaceBoxes(const PairwiseKernels& kernels, const PairwisePlan& plan, PairwiseBlock* block);
  void AddMomentTasks(const PairwiseBlock* block, Side side);
  void AddEvaluateTasks(const PairwiseBlock* block, Side side);

  PairwiseCapacity capacity_;
  RowRange* leaves_;
  RowRange* ranges_;       // Still to be cut.
  RowRange* next_ranges_;  // The same for the depth after.
  PairwiseBlock* blocks_;
  PairwiseTask* moment_tasks_;
  PairwiseTask* evaluate_tasks_;
  double* numbers_;  // Moments and polynomials of one depth.
  int64_t num_leaves_ = 0, num_ranges_ = 0, num_blocks_ = 0;
  int64_t num_moment_tasks_ = 0, num_evaluate_tasks_ = 0, num_numbers_ = 0;
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_PAIRWISE_CUT_H_
