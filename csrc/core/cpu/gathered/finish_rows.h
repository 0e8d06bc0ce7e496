// The end of a tile of the gathered losses' second pass: from what the rows' candidates add up to, to losses and
// gradients.
#ifndef FASTNEG_CORE_CPU_GATHERED_FINISH_ROWS_H_
#define FASTNEG_CORE_CPU_GATHERED_FINISH_ROWS_H_

#include "core/cpu/gathered/plan.h"
#include "core/cpu/gathered/prepare_rows.h"
#include "core/cpu/gathered/row_losses.h"
#include "core/cpu/gathered/row_tile.h"
#include "core/cpu/gathered/rows.h"
#include "core/cpu/simd/simd_math.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T>
class FinishRows {
 public:
  FinishRows(const GatheredPlan& plan, RowTile<T>* tile) : plan_(plan), tile_(*tile) {}

  // Row losses, their sums, and the user gradient's last step.
  FASTNEG_NOINLINE void Run() {
    for (int64_t block = tile_.begin / kSumRows; block * kSumRows < tile_.end; ++block) {
      for (int s = 0; s < 4; ++s) plan_.block_sums[4 * block + s] = 0;
    }
    const T* weights = static_cast<const T*>(plan_.weights);
    T* const grad_weights = static_cast<T*>(plan_.grad_weights);
    ClearInactiveRows();
    for (int64_t a = 0; a < tile_.num_active; a += kL) {
      const int64_t count = tile_.num_active - a < kL ? tile_.num_active - a : kL;
      RowLosses<T> row_losses;
      ComputeLosses(a, count, &row_losses);
      for (int l = 0; l < count; ++l) {
        const int64_t r = tile_.rows[a + l];
        const int64_t i = tile_.begin + r;
        const T weight = weights == nullptr ? T(1) : weights[i];
        const double loss = static_cast<double>(row_losses.loss[l]);
        const double coefficient = weight == 0 ? 0.0 : static_cast<double>(weight) * plan_.inverse_count;
        const double slope = coefficient * static_cast<double>(row_losses.factor[l]);
        const double total = static_cast<double>(row_losses.total[l]);
        const T positive = row_losses.positive[l];
        double* block_sums = plan_.block_sums + 4 * (i / kSumRows);
        if (weight != 0) block_sums[0] += coefficient * loss;
        if (grad_weights != nullptr) {
          grad_weights[i] = plan_.inverse_count == 0 ? T(0) : T(loss * plan_.inverse_count);
        }
        if (weight != 0 && plan_.want_scalars) {
          const double per_sum = slope / total;
          block_sums[1] += per_sum * (static_cast<double>(Sum<T>(tile_.score_sums[r])) + OwnScoreTerm(r, positive));
          block_sums[2] += per_sum * plan_.gamma * static_cast<double>(positive);
          block_sums[3] += per_sum * plan_.gamma * static_cast<double>(Sum<T>(tile_.hard_sums[r]));
        }
        if (plan_.grad_user != nullptr) {
          static_cast<T*>(plan_.positive_weights)[i] = weight == 0 ? T(0) : -positive;
          FinishGradUser(i, weight == 0 ? T(0) : T(slope * plan_.gamma / total), positive);
        }
      }
    }
  }

 private:
  static constexpr int kL = kLanes<T>;

  // Of the active rows number first .. first + count - 1; lanes behind them repeat the first.
  FASTNEG_INLINE void ComputeLosses(int64_t first, int64_t count, RowLosses<T>* row_losses) {
    Vec<T> row_sums[kL];
    T positive_logits[kL], references[kL];
    for (int l = 0; l < kL; ++l) {
      const int64_t r = tile_.rows[first + (l < count ? l : 0)];
      row_sums[l] = tile_.sums[r];
      positive_logits[l] = tile_.positive_logit[r];
      references[l] = tile_.reference[r];
    }
    const Vec<T> negatives = TransposedSums<T>(row_sums);
    const Vec<T> below = Load(positive_logits) - Load(references);
    if (plan_.positive_in_softmax) return LossesWithPositive<T>(negatives, below, row_losses);
    T sums[kL];
    Store(sums, negatives);
    FinishDecoupled(first, count, sums, positive_logits, references, row_losses);
  }

  FASTNEG_NOINLINE void FinishDecoupled(int64_t first, int64_t count, const T* sums, const T* positive_logits,
                                        const T* references, RowLosses<T>* row_losses) {
    RefinedTerms<T> refined;
    if (plan_.refined) {
      T others[kL], num_negatives[kL];
      for (int l = 0; l < kL; ++l) {
        const int64_t i = tile_.begin + tile_.rows[first + (l < count ? l : 0)];
        const T lowest = T(kLowestProbability);
        const T q = static_cast<const T*>(plan_.sampling_probability)[i];
        others[l] = T(1) - (q < lowest ? lowest : q);
        if (others[l] < lowest) others[l] = lowest;
        num_negatives[l] = static_cast<T>(tile_.NumNegatives(i));
      }
      refined = {Log<T>(Load(others)), Load(num_negatives)};
    }
    const Vec<T> reference = Load(references);
    LossesWithoutPositive<T>(plan_, Load(sums), Load(positive_logits) - reference, reference, refined, row_losses);
    if (!ShrinksNegatives(plan_)) return;
    for (int64_t l = 0; l < count; ++l) {
      if (sums[l] != 0) ShrinkNegatives(tile_.rows[first + l], static_cast<T>(plan_.negative_weight) / sums[l]);
    }
  }

  // Multiplies all that row r of the tile has of its negatives' exponentials.
  void ShrinkNegatives(int64_t r, T factor) {
    const int64_t i = tile_.begin + r;
    if (plan_.want_scalars) {
      tile_.score_sums[r] *= factor;
      tile_.hard_sums[r] *= factor;
    }
    if (!tile_.graded[r]) return;
    for (int64_t d = 0; d < plan_.embedding_dim; ++d) tile_.GradUser(i)[d] *= factor;
    for (int64_t k = 0; k < plan_.num_candidates; ++k) {
      static_cast<T*>(plan_.exp_weights)[k * plan_.exp_stride + i] *= factor;
    }
  }

  // What the positive's own score adds to sum_k e_k (score_k - positive), where the weights of both do not cancel.
  double OwnScoreTerm(int64_t r, T positive) const {
    if (plan_.negative_weight == 1) return 0.0;
    return static_cast<double>(positive) * (plan_.negative_weight - 1) * static_cast<double>(tile_.positive[r]);
  }

  // Rows that take no part have gradients of 0.
  FASTNEG_INLINE void ClearInactiveRows() {
    T* grad_weights = static_cast<T*>(plan_.grad_weights);
    if (plan_.grad_user != nullptr) {
      for (int64_t i = tile_.begin; i < tile_.end; ++i) {
        if (plan_.active[i]) continue;
        static_cast<T*>(plan_.positive_weights)[i] = 0;
        for (int64_t d = 0; d < plan_.embedding_dim; ++d) tile_.GradUser(i)[d] = 0;
      }
    }
    if (grad_weights != nullptr) {
      for (int64_t i = tile_.begin; i < tile_.end; ++i) {
        if (!plan_.active[i]) grad_weights[i] = 0;
      }
    }
  }

  // grad = scale (sum_k e_k v_k - S v_0), then back through the normalisation; the user row is left scaled.
  FASTNEG_INLINE void FinishGradUser(int64_t i, T scale, T negative_sum) {
    const int64_t dim = plan_.embedding_dim;
    T* grad = tile_.GradUser(i);
    T* user = static_cast<T*>(plan_.user) + i * plan_.row_stride;
    const T* item = tile_.Item(i);
    if (scale == 0) {
      for (int64_t d = 0; d < dim; ++d) grad[d] = 0;
      for (int64_t d = 0; d < plan_.row_stride; ++d) user[d] = 0;
      return;
    }
    const T inverse = tile_.user_inverse[i - tile_.begin];
    if (dim == 8 * kL) return FinishChunks<8>(scale, negative_sum, inverse, item, user, grad);
    if (dim == 4 * kL) return FinishChunks<4>(scale, negative_sum, inverse, item, user, grad);
    NormalisationGrad<T> through(inverse);
    ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
      const Vec<T> g = scale * (LoadValid(grad + d, valid) - negative_sum * LoadAligned(item + d));
      through.Meet(g, LoadAligned(user + d));
      StoreValid(grad + d, g, valid);
    });
    through.Close(plan_.normalise);
    ForChunks<T>(dim, [&](int64_t d, int64_t valid) FASTNEG_LAMBDA_INLINE {
      const Vec<T> row = LoadAligned(user + d);
      StoreValid(grad + d, through.Apply(LoadValid(grad + d, valid), row), valid);
      StoreAligned(user + d, scale * row);
    });
  }

  // The same where whole rows fit the registers.
  template <int kChunks>
  FASTNEG_INLINE void FinishChunks(T scale, T negative_sum, T inverse, const T* item, T* user, T* grad) {
    Vec<T> g[kChunks];
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) g[c] = scale * (Load(grad + c * kL) - negative_sum * LoadAligned(item + c * kL));
    NormalisationGrad<T>(inverse).template Run<kChunks>(plan_.normalise, user, g);
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) {
      Store(grad + c * kL, g[c]);
      StoreAligned(user + c * kL, scale * LoadAligned(user + c * kL));
    }
  }

  const GatheredPlan& plan_;
  RowTile<T>& tile_;
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_GATHERED_FINISH_ROWS_H_
