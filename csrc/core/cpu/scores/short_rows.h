// Softmax over given scores for rows that fit a vector: several rows share it.
//
// A row takes kWidth lanes, the smallest power of two that holds its negatives; kLanes rows are a block of kWidth
// vectors, whose sums come out of one transposing reduction.
#ifndef FASTNEG_CORE_CPU_SCORES_SHORT_ROWS_H_
#define FASTNEG_CORE_CPU_SCORES_SHORT_ROWS_H_

#include "core/cpu/scores/rows.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

template <typename T, int kWidth>
class ShortRows {
 public:
  explicit ShortRows(const SvSoftmaxPlan& plan)
      : plan_(plan), finish_(plan), params_(plan), grad_dtype_(GradType<T>(plan)), k_(plan.num_negatives) {
    using Int = typename Simd<T>::Int;
    for (int l = 0; l < kL; ++l) {
      const int row = l / kWidth, column = l % kWidth;
      in_use_[l] = column < k_ ? -1 : 0;
      spread_[l] = static_cast<Int>(column < k_ ? row * k_ + column : 0);
      pack_[l] = static_cast<Int>(l < kRows * k_ ? l / k_ * kWidth + l % k_ : 0);
      owner_[l] = static_cast<Int>(row);
      // Lane row * kWidth + v of the reduction holds the sum of that row of vector v.
      natural_[l] = static_cast<Int>(l % kRows * kWidth + l / kRows);
    }
  }

  FASTNEG_NOINLINE void RunBlock(int64_t begin, int64_t end, double scale, double* sums) {
    BlockSums<T> block;
    for (int64_t first = begin; first < end; first += kL) {
      const int64_t count = end - first < kL ? end - first : kL;
      const T* pos = static_cast<const T*>(plan_.pos_score) + first;
      const T* neg = static_cast<const T*>(plan_.neg_scores) + first * k_;
      const bool direct = count == kL && !IsHalf(grad_dtype_);
      T* out = nullptr;
      if (plan_.grad_neg != nullptr) out = direct ? static_cast<T*>(plan_.grad_neg) + first * k_ : neg_copy_;
      if (count < kL || IsHalf(plan_.dtype)) {
        WidenRange(plan_.dtype, plan_.pos_score, first, count, kL, pos_copy_);
        WidenRange(plan_.dtype, plan_.neg_scores, first * k_, count * k_, kL * k_, neg_copy_);
        pos = pos_copy_;
        neg = neg_copy_;
      }
      RunGroup(first, count, pos, neg, out, &block);
      if (direct || out == nullptr) continue;
      ForChunks<T>(count * k_, [&](int64_t e, int64_t valid) FASTNEG_LAMBDA_INLINE {
        StoreAs<T>(grad_dtype_, plan_.grad_neg, first * k_ + e, LoadValid(out + e, valid), valid);
      });
    }
    block.Store(scale, sums);
  }

 private:
  static constexpr int kL = kLanes<T>;
  static constexpr int kRows = kL / kWidth;  // In a vector.

  static FASTNEG_INLINE bool IsHalf(DType dtype) { return dtype == DType::kFloat16 || dtype == DType::kBFloat16; }

  // One lane per row to one per element of vector v.
  FASTNEG_INLINE Vec<T> PerElement(Vec<T> rows, int v) const {
    return kWidth == 1 ? rows : Lanes<T>(rows, rows, owner_ + static_cast<typename Simd<T>::Int>(v * kRows));
  }

  // From kWidth vectors to one that holds, row by row, what `merge` makes of the row's elements. Destroys v.
  template <int kStep = 1, typename Merge>
  static FASTNEG_INLINE Vec<T> MergedByRow(Vec<T>* v, const Merge& merge) {
    if constexpr (kStep >= kWidth) {
      return v[0];
    } else {
      for (int l = 0; l < kWidth; l += 2 * kStep) v[l] = MergePairs<T, kStep>(v[l], v[l + kStep], merge);
      return MergedByRow<2 * kStep>(v, merge);
    }
  }
  template <typename Merge>
  FASTNEG_INLINE Vec<T> PerRow(Vec<T>* v, const Merge& merge) const {
    const Vec<T> merged = MergedByRow(v, merge);
    return kWidth == 1 || kWidth == kL ? merged : Lanes<T>(merged, merged, natural_);
  }
  FASTNEG_INLINE Vec<T> RowTotals(Vec<T>* v) const {
    return PerRow(v, [](Vec<T> a, Vec<T> b) FASTNEG_LAMBDA_INLINE { return a + b; });
  }
  FASTNEG_INLINE Vec<T> RowMaxima(Vec<T>* v) const {
    return PerRow(v, [](Vec<T> a, Vec<T> b) FASTNEG_LAMBDA_INLINE { return Greater<T>(a, b); });
  }

  // Negatives of vector v; in unused lanes whatever.
  FASTNEG_INLINE Vec<T> Negatives(const T* neg, int v) const {
    const T* from = neg + v * kRows * k_;
    if (k_ == kWidth) return Load(from);
    const Vec<T> packed = LoadPartial(from, kRows * k_);
    return Lanes<T>(packed, packed, spread_);
  }
  FASTNEG_INLINE Vec<T> UsedOr(Vec<T> values, Vec<T> otherwise) const {
    return k_ == kWidth ? values : in_use_ ? values : otherwise;
  }

  // kLanes rows, of which `count` exist. `grad` may be `neg`.
  FASTNEG_NOINLINE void RunGroup(int64_t first, int64_t count, const T* pos, const T* neg, T* grad,
                                 BlockSums<T>* block) const {
    const ScoredParams<T> params = params_;
    RowSums<T> rows;
    rows.positive = Load(pos) - params.sv.margin;
    // Scores of the largest logits; those of the least where a negative scale turns them around.
    const T sign = params.exponent_scale < 0 ? T(-1) : T(1);
    Vec<T> scores[kWidth], work[kWidth];
    Mask<T> hard[kWidth];
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      const Reweighted<T> reweighted = Reweight<T>(PerElement(rows.positive, v), Negatives(neg, v), params);
      scores[v] = reweighted.score;
      hard[v] = reweighted.hard;
      work[v] = UsedOr(sign * reweighted.score, MinusInfinity<T>());
    }
    rows.reference = sign * Greater<T>(RowMaxima(work), sign * rows.positive);

    Vec<T> waiting[kWidth];
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      const Vec<T> e = UsedOr(Exp2<T>(params.exponent_scale * (scores[v] - PerElement(rows.reference, v))), Zero<T>());
      work[v] = e;
      waiting[v] = hard[v] ? e * params.sv.t : e;
    }
    if (plan_.want_scalars) {
      Vec<T> leads[kWidth], hard_parts[kWidth];
#pragma GCC unroll 4
      for (int v = 0; v < kWidth; ++v) {
        leads[v] = UsedOr(work[v] * FiniteLead<T>(scores[v] - PerElement(rows.reference, v)), Zero<T>());
        hard_parts[v] = UsedOr(work[v] * (hard[v] ? Negatives(neg, v) + T(1) : Zero<T>()), Zero<T>());
      }
      rows.leads = RowTotals(leads);
      rows.hard = RowTotals(hard_parts);
    }
    rows.negatives = RowTotals(work);
    const Vec<T> scale = finish_.Finish(first, count, rows, block);
    if (grad != nullptr) WriteGrads(first, count, waiting, scale, grad);
  }

  // Gradients of `count` rows' negatives, from their exponentials and their rows' scales.
  FASTNEG_INLINE void WriteGrads(int64_t first, int64_t count, const Vec<T>* waiting, Vec<T> scale, T* grad) const {
    Mask<T> counts{};
    bool all_count = true;
    if (plan_.weights != nullptr) {
      for (int64_t l = 0; l < count; ++l) counts[l] = finish_.Counts(first + l) ? -1 : 0;
      for (int64_t l = 0; l < count; ++l) all_count &= counts[l] != 0;
    }
#pragma GCC unroll 4
    for (int v = 0; v < kWidth; ++v) {
      Vec<T> value = waiting[v] * PerElement(scale, v);
      if (!all_count) {
        const Vec<T> in_row = PerElement(reinterpret_cast<Vec<T>>(counts), v);
        value = reinterpret_cast<Mask<T>>(in_row) ? value : Zero<T>();
      }
      T* out = grad + v * kRows * k_;
      if (k_ == kWidth) {
        Store(out, value);
      } else {
        StorePartial(out, Lanes<T>(value, value, pack_), kRows * k_);
      }
    }
  }

  const SvSoftmaxPlan& plan_;
  const RowFinish<T> finish_;
  const ScoredParams<T> params_;
  const DType grad_dtype_;
  const int64_t k_;
  // Lanes of a vector of elements: whether there is one, and where it lies in memory; and the way back.
  Mask<T> in_use_, spread_, pack_;
  Mask<T> owner_;    // Row of each element.
  Mask<T> natural_;  // Undoes the order in which MergedByRow leaves the rows.
  T pos_copy_[kL], neg_copy_[kL * kWidth];
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE

#endif  // FASTNEG_CORE_CPU_SCORES_SHORT_ROWS_H_
