// Second pass of the gathered losses: every active row meets its candidates once. Scores, the row's softmax, its loss
// and the user gradient come out of one sweep; the last block to finish adds up the losses.
//
// Memory: a pair reads its item row, D elements of the storage type, from the second-level cache or, where the rows of
// a block share it, from the first; nothing is written but results and 5 numbers for each row. So the bound is
// B (K + 1) D sizeof(element) / (second-level bandwidth), or B D sizeof(element) / (memory bandwidth) for few
// negatives.
//
// A group of lanes holds the user row and the sum in registers and meets kTogether item rows at a time, all of whose
// loads are in flight together. Lane q of the group then owns the pair with row q: index, score, re-weighting and
// exponential are computed once, not once by each lane. Logits are relative to the positive's, or where that is not in
// the softmax to the largest of the first ones, until one is so much larger that the row's sums have to be rescaled.
#ifndef FASTNEG_CORE_CUDA_GATHERED_SCORE_ROWS_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_SCORE_ROWS_CUH_

#include "core/cuda/common/block_sums.cuh"
#include "core/cuda/gathered/pairs.cuh"
#include "core/cuda/gathered/plan.h"
#include "core/cuda/gathered/prepare_rows.cuh"
#include "core/cuda/gathered/row_end.cuh"
#include "core/cuda/gathered/row_sets.cuh"
#include "core/cuda/gathered/rows.cuh"

namespace fastneg::cuda {

template <typename Row, typename Candidates, bool kGrad>
class ScoredRow {
 public:
  using Element = typename Row::Element;
  using T = typename Row::T;
  using Group = typename Row::Group;
  static constexpr int kTogether = Row::kTogether;

  // Row i, or none if i >= B.
  __device__ ScoredRow(const GatheredPlan& plan, int64_t i)
      : plan_(plan),
        candidates_(plan),
        pairs_(plan),
        exists_(i < plan.batch_size),
        i_(exists_ ? static_cast<int>(i) : 0),
        active_(exists_ && plan.active[i_] != 0),
        row_(plan.embedding_dim,
             kGrad && exists_ ? static_cast<T*>(plan.grad_user) + int64_t{i_} * plan.embedding_dim : nullptr) {}

  // Before the first candidate.
  __device__ void Start() {
    row_.SetOwn(active_ ? pairs_.UserRow(i_) : nullptr);
    const T product = row_.Dot(active_ ? pairs_.ItemRow(i_) : nullptr);
    user_inverse_ = active_ ? Magnitude(static_cast<const T*>(plan_.user_inverse)[i_]) : T(0);
    positive_ = (active_ ? Cosine(product, user_inverse_, pairs_.ItemInverse(i_)) : T(0)) - pairs_.params.margin;
    positive_logit_ = pairs_.params.gamma * positive_ + (active_ && !plan_.refined ? pairs_.NegLogProb(i_) : T(0));
    reference_ = plan_.positive_in_softmax ? positive_logit_ : kLowestReference<T>;
  }

  // Candidates first .. first + kTogether - 1.
  __device__ __forceinline__ void Step(int first) {
    const int own = first + Group::Index() % kTogether;  // This lane's candidate.
    bool kept = active_ && own < plan_.num_candidates;
    const int item = kept ? candidates_.Item(i_, own) : 0;
    kept = kept && !pairs_.IsHit(i_, item);
    const int place = kept ? item : -1;
    const Element* rows[kTogether];
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      const int j = Group::From(place, q);
      rows[q] = j < 0 ? nullptr : pairs_.ItemRow(j);
    }
    const T item_inverse = kept ? pairs_.ItemInverse(item) : T(0);
    const T score = Cosine(row_.Meet(rows), user_inverse_, item_inverse);
    const auto pair = pairs_.Reweight(positive_, score);
    T exponent = pairs_.Exponent(pair.score, reference_, kept ? pairs_.NegLogProb(item) : T(0));
    if (__any_sync(kWholeWarp, kept && exponent > T(kExponentsAbove))) {
      const T neg_log_prob = kept ? pairs_.NegLogProb(item) : T(0);
      Raise(kept ? pairs_.Logit(pair.score, neg_log_prob) : reference_);
      exponent = pairs_.Exponent(pair.score, reference_, neg_log_prob);
    }
    const T e = kept ? Exp(exponent) : T(0);
    if (Group::Index() < kTogether) {  // The lanes behind repeat these.
      negatives_ += e;
      if (plan_.grad_scalars != nullptr && kept) {
        score_sum_ += WeightedTerm(e, pair.score - positive_);
        hard_sum_ += pair.hard ? WeightedTerm(e, score + T(1)) : T(0);
      }
    }
    if constexpr (kGrad) row_.AddMet(kept ? (pair.hard ? e * pairs_.params.t : e) * item_inverse : T(0));
  }

  // Stores what belongs to the row; `sums` gets its parts of the four sums.
  __device__ void Finish(double* sums) {
    negatives_ = Group::Sum(negatives_);
    if (plan_.grad_scalars != nullptr) {
      score_sum_ = Group::Sum(score_sum_);
      hard_sum_ = Group::Sum(hard_sum_);
    }
    const bool first_lane = Group::Index() == 0;
    const unsigned int count = plan_.control->count;
    const double inverse_count = count == 0 ? 0.0 : 1.0 / count;
    const RowEnd<T> end = End();
    const T loss = active_ ? end.loss : T(0);
    const T weight = !active_ ? T(0) : plan_.weights == nullptr ? T(1) : static_cast<const T*>(plan_.weights)[i_];
    const bool weighted = weight != T(0);
    const double coefficient = weighted ? static_cast<double>(weight) * inverse_count : 0.0;
    const double per_sum =
        weighted ? coefficient * static_cast<double>(end.factor) / static_cast<double>(end.total) : 0.0;
    const double gamma = static_cast<double>(pairs_.params.gamma);
    if (first_lane) {
      sums[0] = weighted ? coefficient * static_cast<double>(loss) : 0.0;
      const double share = static_cast<double>(end.share), positive = static_cast<double>(end.positive);
      double score_sum = share * static_cast<double>(score_sum_);
      // The weights of the positive and of the negatives may not cancel.
      const double negative_weight = static_cast<double>(plan_.negative_weight.Get<T>());
      if (negative_weight != 1) score_sum += positive * (negative_weight - 1) * static_cast<double>(positive_);
      sums[1] = weighted ? per_sum * score_sum : 0.0;
      sums[2] = weighted ? per_sum * gamma * positive : 0.0;
      sums[3] = weighted ? per_sum * gamma * share * static_cast<double>(hard_sum_) : 0.0;
      if (exists_ && plan_.grad_weights != nullptr) {
        static_cast<T*>(plan_.grad_weights)[i_] =
            active_ && count != 0 ? T(static_cast<double>(loss) * inverse_count) : T(0);
      }
    }
    if constexpr (kGrad) {
      const T scale = weighted ? T(per_sum * gamma) : T(0);
      const bool used = scale != T(0);
      const T inverse = active_ ? static_cast<const T*>(plan_.user_inverse)[i_] : T(1);
      if (first_lane && exists_) {
        static_cast<RowFacts<T>*>(plan_.row_facts)[i_] = {Magnitude(inverse), positive_, reference_, scale * end.share};
        static_cast<T*>(plan_.positive_weights)[i_] = used ? -end.positive * scale : T(0);
      }
      if (!plan_.positive_in_softmax) row_.ScaleSum(end.share);
      if (used) row_.Add(pairs_.ItemRow(i_), -end.positive * pairs_.ItemInverse(i_));
      row_.Finish(used, scale, NormalisationGrad<T>(inverse, plan_.normalise), exists_, GradUser());
    }
  }

  // What stands in for results where the candidates are not what they have to be.
  __device__ void FinishBroken(double* sums) {
    if (Group::Index() == 0) {
      for (int s = 0; s < kNumSums; ++s) sums[s] = 0;
      if (exists_ && plan_.grad_weights != nullptr) static_cast<T*>(plan_.grad_weights)[i_] = NotANumber<T>();
    }
    if constexpr (kGrad) {
      const int dim = exists_ ? plan_.embedding_dim : 0;
      for (int d = Group::Index(); d < dim; d += Row::kLanes) GradUser()[d] = NotANumber<T>();
    }
  }

 private:
  // Of the whole row, when its sums are complete.
  __device__ RowEnd<T> End() const {
    const T below = positive_logit_ - reference_;
    if (plan_.positive_in_softmax) return EndWithPositive(negatives_, below);
    const T weight = plan_.negative_weight.Get<T>();
    RowEnd<T> end = EndWithoutPositive(negatives_, below, reference_, weight);
    if (plan_.refined) {
      const int num_negatives = NumNegatives();
      const T lowest = T(kLowestProbability);
      const T q = active_ ? static_cast<const T*>(plan_.sampling_probability)[i_] : lowest;
      const T others = T(1) - (q < lowest ? lowest : q);
      Refine(negatives_, below, weight, Log(others < lowest ? lowest : others), num_negatives, &end);
    }
    return end;
  }

  // How many candidates have another id. Called by all lanes.
  __device__ int NumNegatives() const {
    int count = 0;
    for (int k = Group::Index(); active_ && k < plan_.num_candidates; k += Row::kLanes) {
      count += !pairs_.IsHit(i_, candidates_.Item(i_, k));
    }
    return Group::Sum(count);
  }

  // Raises the reference to the group's largest logit, if that is far above.
  __device__ __forceinline__ void Raise(T logit) {
    const T highest = Group::Max(logit);
    if (!(highest - reference_ > T(kExponentsAbove))) return;
    const T factor = Exp(reference_ - highest);
    reference_ = highest;
    negatives_ *= factor;
    score_sum_ *= factor;
    hard_sum_ *= factor;
    if constexpr (kGrad) row_.ScaleSum(factor);
  }

  __device__ T* GradUser() const { return static_cast<T*>(plan_.grad_user) + int64_t{i_} * plan_.embedding_dim; }

  const GatheredPlan& plan_;
  const Candidates candidates_;
  const Pairs<Element> pairs_;
  const bool exists_;
  const int i_;
  const bool active_;
  Row row_;
  T user_inverse_ = 0;
  T positive_ = 0;        // Score, less margin.
  T positive_logit_ = 0;  // Lane q's parts of the row's sums follow.
  T reference_ = 0;       // Subtracted from every logit.
  T negatives_ = 0;       // Sum of the negatives' exponentials.
  T score_sum_ = 0;       // ... times (score - positive).
  T hard_sum_ = 0;        // ... of the hard ones, times (cosine + 1).
};

template <typename Row, typename Candidates, int kSets, bool kGrad>
__global__ void __launch_bounds__(kBlockThreads, kBlocksAtOnce<kSets>) ScoreRowsKernel(const GatheredPlan plan) {
  using Pass = ScoredRow<Row, Candidates, kGrad>;
  constexpr int kRows = kBlockThreads / Row::kLanes;
  __shared__ double sums[kSets * kRows][kNumSums];
  const int r = static_cast<int>(threadIdx.x) / Row::kLanes;
  RowSets<Pass, kSets> rows(plan, int64_t{blockIdx.x} * (kSets * kRows) + r, kRows);
  if (plan.control->error == 0) {
    RunSets(plan, &rows);
    rows.ForEach([r](Pass& row, int set) { row.Finish(sums[set * kRows + r]); });
  } else {
    rows.ForEach([r](Pass& row, int set) { row.FinishBroken(sums[set * kRows + r]); });
  }
  AddUpRows<typename Row::T>({plan.control, plan.block_sums, plan.loss, plan.grad_scalars, plan.error_index}, sums,
                             kSets * kRows);
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_SCORE_ROWS_CUH_
