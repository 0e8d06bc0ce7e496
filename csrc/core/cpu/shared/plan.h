// What every loss with shared candidates works on: all rows of the batch, its inputs, score the same candidates.
//
// Plain data, the same for every instruction set. void pointers hold the compute type (float or double) unless a
// comment says otherwise.
//
// A block of rows meets the candidates panel by panel: logits, exponentials and what the inputs get of them follow one
// another in the first-level cache. The exponentials are kept in scratch, a few blocks at a time, so that the scores
// are computed once and nothing of size [B, C] exists. Blocks are worked on in rounds. In a round each row task fills a
// slot with its block's exponentials and finishes the rows' losses and input gradients; then each candidate task adds
// what all slots have for its candidates. So every sum has one owner, whatever the number of threads.
#ifndef FASTNEG_CORE_CPU_SHARED_PLAN_H_
#define FASTNEG_CORE_CPU_SHARED_PLAN_H_

#include <cstdint>

#include "core/api.h"

namespace fastneg::cpu {

// Rows of a block, a power of two. Whole vectors of every type.
constexpr int64_t kMaxBlockRows = 128;
constexpr int64_t kMinBlockRows = 16;

struct SharedPlan {
  int64_t batch_size = 0;      // B
  int64_t num_candidates = 0;  // C
  int64_t embedding_dim = 0;   // D
  int64_t dim_stride = 0;      // Of prepared rows: D rounded up to whole 64-byte lines, or one more.

  int64_t panel_width = 0;  // Candidates that are scored side by side, from the kernels.
  int64_t num_panels = 0;
  int64_t block_rows = 0;  // Rows whose contributions to a candidate are added before anything else is.
  int64_t num_blocks = 0;
  int64_t blocks_per_round = 0;  // As many slots; no result depends on it.

  DType dtype = DType::kFloat32;  // Of inputs and candidates.
  const void* inputs = nullptr;   // [B, input_stride]
  int64_t input_stride = 0;
  double temperature = 1.0;  // Inputs are divided by it,
  bool normalize = false;    // after they were divided by their norms, as candidates are.

  bool transforms = false;        // Exponentials become coefficients only once a row's sums are known.
  bool sparse = false;            // So few coefficients are not 0 that the products had better pass over the others.
  bool keeps_panels = true;       // Slots hold all panels of a block, not one.
  bool offsets_in_scores = true;  // Offsets are part of the panels' scores; else they are added to logits.

  void* grad_inputs = nullptr;  // [B, D] or null: a result.

  // Workspace, by candidate. `padded` stands for num_panels * panel_width.
  void* panels = nullptr;      // [num_panels, panel_width * D] candidates, transposed tile by tile; pairs of dimensions
                               // where there are pairs.
  const void* rows = nullptr;  // [padded, row_stride], or the candidates themselves where they are fit for it.
  int64_t row_stride = 0;
  bool copies_rows = true;    // Rows are written by the first pass.
  void* inverse = nullptr;    // [padded] 1 / norm, negative where it was clipped; only with normalize.
  void* offsets = nullptr;    // [padded] what a candidate's logits have besides scores; -inf behind the end.
  void* grad_rows = nullptr;  // [padded, grad_stride], or [C, D] where that is the result itself.
  int64_t grad_stride = 0;

  // Whether all numbers of a panel's candidates, and of a block's inputs, are finite: where not, products pass over
  // what a coefficient of 0 takes out.
  uint8_t* panel_is_finite = nullptr;  // [num_panels]
  uint8_t* block_is_finite = nullptr;  // [num_blocks]

  // Slots, one per block of a round.
  void* exponentials = nullptr;  // [num_panels, block_rows, panel_width], or one panel.
  void* block_inputs = nullptr;  // [block_rows, dim_stride] prepared; scaled for the candidates once the block is done.
  void* block_grads = nullptr;   // [block_rows, dim_stride]; null where grad_inputs itself takes the sums.
};

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_SHARED_PLAN_H_
