// Second pass of the shared losses: a block of rows against all candidates, to the losses and the input gradients.
#ifndef FASTNEG_CORE_CPU_SHARED_SCORE_BLOCK_H_
#define FASTNEG_CORE_CPU_SHARED_SCORE_BLOCK_H_

#include "core/cpu/runtime/flush_denormals.h"
#include "core/cpu/shared/pack_candidates.h"
#include "core/cpu/shared/plan.h"
#include "core/cpu/simd/convert.h"
#include "core/cpu/simd/matrix_tiles.h"
#include "core/cpu/simd/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

// The slot of one block: pointers into the plan's workspace.
template <typename T>
struct Block {
  int64_t first = 0;  // Row of the batch.
  int64_t count = 0;
  int64_t rows = 0;  // block_rows: the stride of per-row arrays.
  T *exponentials, *inputs, *true_logits, *scales, *maxima;
  T* grads = nullptr;
  int64_t grads_stride = 0;
  int32_t *first_hit, *next_hit;  // Of each panel the first entry of `label_rows` that hits it; of each entry the next.

  Block(const SharedPlan& plan, int64_t block) {
    const int64_t slot = block % plan.blocks_per_round;
    rows = plan.block_rows;
    first = block * rows;
    count = plan.batch_size - first < rows ? plan.batch_size - first : rows;
    exponentials = static_cast<T*>(plan.exponentials) + slot * plan.num_panels * rows * kWidthOfPanel<T>;
    inputs = static_cast<T*>(plan.block_inputs) + slot * rows * plan.dim_stride;
    if (plan.block_grads != nullptr) {
      grads = static_cast<T*>(plan.block_grads) + slot * rows * plan.dim_stride;
      grads_stride = plan.dim_stride;
    } else if (plan.grad_inputs != nullptr) {
      grads = static_cast<T*>(plan.grad_inputs) + first * plan.embedding_dim;
      grads_stride = plan.embedding_dim;
    }
    true_logits = static_cast<T*>(plan.block_true) + slot * rows * plan.num_true;
    scales = static_cast<T*>(plan.block_scales) + slot * rows;
    maxima = static_cast<T*>(plan.block_maxima) + slot * rows;
    first_hit = plan.block_first_hit + slot * plan.num_panels;
    next_hit = plan.block_next_hit + slot * rows * plan.num_true;
  }

  T* Panel(int64_t panel) const { return exponentials + panel * rows * kWidthOfPanel<T>; }
};

// Inputs widened to the compute type, and the logits of the positives.
template <typename T>
FASTNEG_INLINE void LoadBlock(const SharedPlan& plan, const Block<T>& block) {
  const int64_t dim = plan.embedding_dim, num_true = plan.num_true;
  const T* biases = static_cast<const T*>(plan.biases);
  const T* counts = static_cast<const T*>(plan.true_expected_count) + block.first * num_true;
  const int32_t* labels = plan.label_rows + block.first * num_true;
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t r = 0; r < block.count; ++r) {
      Storage* input = static_cast<Storage*>(plan.inputs) + (block.first + r) * plan.input_row_stride;
      T* copy = block.inputs + r * plan.dim_stride;
      ForChunks<T>(dim, [&](int64_t d, int64_t valid)
                            FASTNEG_LAMBDA_INLINE { Store(copy + d, LoadWidened<T>(input + d, valid)); });
    }
    for (int64_t first = 0; first < block.count; first += kLanes<T>) {
      const int64_t count = block.count - first < kLanes<T> ? block.count - first : kLanes<T>;
      for (int64_t t = 0; t < num_true; ++t) {
        Vec<T> dots[kLanes<T>] = {};
        T others[kLanes<T>], expected[kLanes<T>];
        for (int64_t l = 0; l < kLanes<T>; ++l) {
          others[l] = T(0);
          expected[l] = T(1);
          if (l >= count) continue;
          const int64_t entry = (first + l) * num_true + t;
          const int64_t row = labels[entry];
          expected[l] = counts[entry];
          if (biases != nullptr) others[l] = biases[row];
          Storage* candidate = static_cast<Storage*>(plan.rows) + row * plan.row_stride;
          const T* input = block.inputs + (first + l) * plan.dim_stride;
          Vec<T> dot = Zero<T>();
          ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
            dot += Load(input + d) * LoadWidened<T>(candidate + d, valid);
          });
          dots[l] = dot;
        }
        const Vec<T> logit = TransposedSums<T>(dots) + Load(others) - LogOfCount<T>(Load(expected));
        Store(block.true_logits + t * block.rows + first, logit);
      }
    }
  });
}

// Lists, by panel, the accidental hits of a block.
template <typename T>
FASTNEG_INLINE void ListHits(const SharedPlan& plan, const Block<T>& block) {
  const int32_t* labels = plan.label_rows + block.first * plan.num_true;
  for (int64_t panel = 0; panel < plan.num_panels; ++panel) block.first_hit[panel] = -1;
  for (int64_t entry = 0; entry < block.count * plan.num_true; ++entry) {
    const int64_t hit = plan.last_sampled[labels[entry]];
    if (hit < 0) continue;
    int32_t* head = block.first_hit + hit / kWidthOfPanel<T>;
    block.next_hit[entry] = *head;
    *head = static_cast<int32_t>(entry);
  }
}

// Sets the logits of one panel's accidental hits to -inf.
template <typename T>
FASTNEG_INLINE void RemoveHits(const SharedPlan& plan, const Block<T>& block, int64_t panel) {
  const int32_t* labels = plan.label_rows + block.first * plan.num_true;
  for (int64_t entry = block.first_hit[panel]; entry >= 0; entry = block.next_hit[entry]) {
    const int64_t lane = plan.last_sampled[labels[entry]] % kWidthOfPanel<T>;
    block.Panel(panel)[entry / plan.num_true * kWidthOfPanel<T> + lane] = -T(__builtin_huge_val());
  }
}

// Logits of one panel's candidates, -inf for accidental hits.
template <typename T>
FASTNEG_INLINE void ScorePanel(const SharedPlan& plan, const Block<T>& block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_sampled, panel);
  const T* columns = static_cast<const T*>(plan.panels) + panel * plan.embedding_dim * kWidth;
  const T* offsets = static_cast<const T*>(plan.offsets) + panel * kWidth;
  MultiplyByPanel<T>(block.inputs, plan.dim_stride, columns, plan.embedding_dim, block.count, vecs, offsets,
                     block.Panel(panel));
  if (plan.last_sampled != nullptr) RemoveHits(plan, block, panel);
}

// Each row's largest logit among its positives and the candidates of the first `num_panels` panels.
template <typename T>
FASTNEG_INLINE void FindMaxima(const SharedPlan& plan, const Block<T>& block, int64_t num_panels) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  T largest[kMaxBlockRows * kLanes<T>];
  for (int64_t r = 0; r < block.rows; ++r) Store(largest + r * kLanes<T>, kMinusInfinity<T>);
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    const int64_t vecs = VecsOfPanel<T>(plan.num_sampled, panel);
    const T* logits = block.Panel(panel);
    for (int64_t r = 0; r < block.count; ++r) {
      Vec<T> maximum = Load(largest + r * kLanes<T>);
      ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
        maximum = Max<T>(Load(logits + r * kWidth + v * kLanes<T>), maximum);
      });
      Store(largest + r * kLanes<T>, maximum);
    }
  }
  for (int64_t r = 0; r < block.count; r += kLanes<T>) {
    Vec<T> maximum = LargestLanes<T>(largest + r * kLanes<T>);
    for (int64_t t = 0; t < plan.num_true; ++t) maximum = Max<T>(Load(block.true_logits + t * block.rows + r), maximum);
    Store(block.maxima + r, maximum);
  }
}

// One panel's logits to exponentials relative to block.maxima, added to `partial`, a vector for each row. Logits so
// large that they would overflow are cut where the sum tells of it.
template <typename T>
FASTNEG_INLINE void ExponentiatePanel(const SharedPlan& plan, const Block<T>& block, int64_t panel, T* partial) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = VecsOfPanel<T>(plan.num_sampled, panel);
  const Vec<T> highest = Broadcast<T>(MathConstants<T>::kExpHighest);
  T* values = block.Panel(panel);
  for (int64_t r = 0; r < block.count; ++r) {
    const Vec<T> reference = Broadcast(block.maxima[r]);
    Vec<T> sum = Load(partial + r * kLanes<T>);
    ForPanelVecs(vecs, [&](int64_t v) FASTNEG_LAMBDA_INLINE {
      T* value = values + r * kWidth + v * kLanes<T>;
      const Vec<T> e = Exp<T>(Min<T>(highest, Load(value) - reference));
      Store(value, e);
      sum += e;
    });
    Store(partial + r * kLanes<T>, sum);
  }
}

// What the inputs get of one panel's candidates, added to block.grads; set by the first panel.
template <typename T>
FASTNEG_INLINE void AddInputGrads(const SharedPlan& plan, const Block<T>& block, int64_t panel) {
  constexpr int64_t kWidth = kWidthOfPanel<T>;
  const int64_t vecs = (plan.embedding_dim + kLanes<T> - 1) / kLanes<T>;
  const int64_t left = plan.num_sampled - panel * kWidth;
  const T* candidates = static_cast<const T*>(plan.candidates) + panel * kWidth * plan.dim_stride;
  const Factors<T> factors{block.Panel(panel), kWidth, 1, candidates, plan.dim_stride, left < kWidth ? left : kWidth};
  if (panel == 0) {
    MultiplyMatrix<T, Write::kSet>(factors, block.count, vecs, block.grads, block.grads_stride);
  } else {
    MultiplyMatrix<T, Write::kAdd>(factors, block.count, vecs, block.grads, block.grads_stride);
  }
}

// From inputs to exponentials, their sums over the sampled candidates, [block_rows], and the raw input gradients, panel
// by panel while it is in the first-level cache. Exponentials are relative to the largest logit of the positives and
// the first `num_referred` panels.
template <typename T>
FASTNEG_NOINLINE void SweepPanels(const SharedPlan& plan, const Block<T>& block, int64_t num_referred, T* sums) {
  for (int64_t panel = 0; panel < num_referred; ++panel) ScorePanel(plan, block, panel);
  FindMaxima(plan, block, num_referred);
  T partial[kMaxBlockRows * kLanes<T>];
  for (int64_t r = 0; r < block.rows; ++r) Store(partial + r * kLanes<T>, Zero<T>());
  for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
    if (panel >= num_referred) ScorePanel(plan, block, panel);
    ExponentiatePanel(plan, block, panel, partial);
    if (plan.grad_inputs != nullptr) AddInputGrads(plan, block, panel);
  }
  for (int64_t r = 0; r < block.count; r += kLanes<T>) {
    Store(sums + r, SumsOfLanes<T>(partial + r * kLanes<T>));
  }
}

// Whether no exponential can be so large that a product with it overflows. False also for NaN.
template <typename T>
FASTNEG_INLINE bool InRange(const Block<T>& block, const T* sums) {
  constexpr T kLargest = T(1 << 30);
  bool in_range = true;
  for (int64_t r = 0; r < block.count; ++r) in_range &= sums[r] <= kLargest;
  return in_range;
}

// Losses, d loss / d logit of the positives (with the row's weight), and what a row's exponentials are to be scaled by.
template <typename T>
FASTNEG_INLINE void FinishRows(const SharedPlan& plan, const Block<T>& block, const T* sums) {
  const int64_t num_true = plan.num_true;
  T* loss = static_cast<T*>(plan.loss);
  T* coefficients = static_cast<T*>(plan.true_coefficients);
  for (int64_t r = 0; r < block.count; r += kLanes<T>) {
    const int64_t valid = block.count - r < kLanes<T> ? block.count - r : kLanes<T>;
    const Vec<T> maximum = LoadValid(block.maxima + r, valid), others = LoadValid(sums + r, valid);
    Vec<T> sum = others, mean = Zero<T>();
    for (int64_t t = 0; t < num_true; ++t) {
      const Vec<T> logit = LoadValid(block.true_logits + t * block.rows + r, valid);
      sum += Exp<T>(logit - maximum);
      mean += logit - maximum;
    }
    const T share = T(1) / static_cast<T>(num_true);
    Vec<T> row_loss = Log<T>(sum) - mean * share;
    // A small loss may not come from a difference: where the only positive has the largest logit, sum = 1 + others.
    if (num_true == 1) row_loss = mean == T(0) ? Log1p<T>(others) : row_loss;
    if (loss != nullptr) StoreValid(loss + block.first + r, row_loss, valid);
    if (coefficients == nullptr) continue;

    const Vec<T> weight = plan.row_weights == nullptr
                              ? Broadcast(T(1))
                              : LoadValid(static_cast<const T*>(plan.row_weights) + block.first + r, valid);
    const auto counts = weight != T(0);  // Other rows get coefficients of 0 whatever they hold.
    const Vec<T> scale = counts ? weight / sum : Zero<T>();
    StoreValid(block.scales + r, scale, valid);
    for (int64_t t = 0; t < num_true; ++t) {
      const Vec<T> logit = LoadValid(block.true_logits + t * block.rows + r, valid);
      Vec<T> c = num_true == 1 ? -others * scale : Exp<T>(logit - maximum) * scale - weight * share;
      c = counts ? c : Zero<T>();
      for (int64_t l = 0; l < valid; ++l) coefficients[(block.first + r + l) * num_true + t] = c[l];
    }
  }
}

// Takes rows of weight 0 out of what the gradients are made of: they may hold NaN, and 0 times NaN is not 0.
template <typename T>
FASTNEG_INLINE void ClearUnweightedRows(const SharedPlan& plan, const Block<T>& block) {
  const T* weights = static_cast<const T*>(plan.row_weights) + block.first;
  for (int64_t r = 0; r < block.count; ++r) {
    if (weights[r] != T(0)) continue;
    for (int64_t panel = 0; panel < plan.num_panels; ++panel) {
      T* exponentials = block.Panel(panel) + r * kWidthOfPanel<T>;
      for (int64_t s = 0; s < kWidthOfPanel<T>; s += kLanes<T>) Store(exponentials + s, Zero<T>());
    }
    for (int64_t d = 0; d < plan.dim_stride; d += kLanes<T>) Store(block.inputs + r * plan.dim_stride + d, Zero<T>());
    for (int64_t d = 0; d < block.grads_stride; d += kLanes<T>)
      Store(block.grads + r * block.grads_stride + d, Zero<T>());
  }
}

// From raw sums to input gradients: scaled, and with what the positives add.
template <typename T>
FASTNEG_INLINE void FinishInputGrads(const SharedPlan& plan, const Block<T>& block) {
  const int64_t dim = plan.embedding_dim, num_true = plan.num_true;
  T* out = static_cast<T*>(plan.grad_inputs) + block.first * dim;
  WithStorage<T>(plan.dtype, [&](auto* storage) FASTNEG_LAMBDA_INLINE {
    using Storage = __typeof__(*storage);
    for (int64_t r = 0; r < block.count; ++r) {
      const int64_t first = (block.first + r) * num_true;
      const T* coefficients = static_cast<const T*>(plan.true_coefficients) + first;
      const T scale = block.scales[r];
      ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
        Vec<T> grad = Load(block.grads + r * block.grads_stride + d) * scale;
        for (int64_t t = 0; t < num_true; ++t) {
          if (coefficients[t] == T(0)) continue;  // Of a row without weight, whose labels may hold NaN.
          Storage* row = static_cast<Storage*>(plan.rows) + plan.label_rows[first + t] * plan.row_stride;
          grad += coefficients[t] * LoadWidened<T>(row + d, valid);
        }
        StoreValid(out + r * dim + d, grad, valid);
      });
    }
  });
}

template <typename T>
void ScoreBlock(void* context, int64_t index) {
  const FlushDenormals flush;
  const SharedPlan& plan = *static_cast<const SharedPlan*>(context);
  const Block<T> block(plan, index);
  T sums[kMaxBlockRows];
  LoadBlock<T>(plan, block);
  if (plan.last_sampled != nullptr) ListHits(plan, block);
  // Some of the logits are most often as good a reference as all, and save a pass.
  SweepPanels<T>(plan, block, 1, sums);
  if (!InRange(block, sums)) SweepPanels<T>(plan, block, plan.num_panels, sums);
  FinishRows<T>(plan, block, sums);
  if (plan.row_weights != nullptr) ClearUnweightedRows(plan, block);
  if (plan.grad_inputs != nullptr) FinishInputGrads<T>(plan, block);
  if (plan.grad_rows == nullptr) return;
  // What the candidates are to get of these rows, so that their pass can use raw exponentials.
  for (int64_t r = 0; r < block.count; ++r) {
    T* row = block.inputs + r * plan.dim_stride;
    for (int64_t d = 0; d < plan.dim_stride; d += kLanes<T>) Store(row + d, Load(row + d) * block.scales[r]);
  }
}

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SHARED_SCORE_BLOCK_H_
