// Third pass of the gathered losses: every item row gathers the user rows that had it as a candidate. No two groups
// write the same row, so nothing is added atomically.
//
// A pair's weight is computed anew from the two rows, of which one is in registers and the other is on its way there
// for the sum anyway. Keeping the weights instead would cost 4 (K + 1) B bytes of memory, written and read, to save a
// product that the loads leave time for.
//
// Memory: as in the row pass, D elements and 16 bytes for each pair, from the caches.
#ifndef FASTNEG_CORE_CUDA_GATHERED_GATHER_ITEM_GRADS_CUH_
#define FASTNEG_CORE_CUDA_GATHERED_GATHER_ITEM_GRADS_CUH_

#include "core/cuda/common/math.cuh"
#include "core/cuda/gathered/pairs.cuh"
#include "core/cuda/gathered/plan.h"
#include "core/cuda/gathered/row_sets.cuh"
#include "core/cuda/gathered/rows.cuh"

namespace fastneg::cuda {

template <typename Row, typename Candidates>
class ItemGrad {
 public:
  using Element = typename Row::Element;
  using T = typename Row::T;
  using Group = typename Row::Group;
  static constexpr int kTogether = Row::kTogether;

  __device__ ItemGrad(const GatheredPlan& plan, int64_t j)
      : plan_(plan),
        candidates_(plan),
        pairs_(plan),
        exists_(j < plan.batch_size),
        j_(exists_ ? static_cast<int>(j) : 0),
        row_(plan.embedding_dim, exists_ ? GradItem() : nullptr) {}

  __device__ void Start() {
    row_.SetOwn(exists_ ? pairs_.ItemRow(j_) : nullptr);
    item_inverse_ = exists_ ? pairs_.ItemInverse(j_) : T(0);
    neg_log_prob_ = exists_ ? pairs_.NegLogProb(j_) : T(0);
  }

  __device__ __forceinline__ void Step(int first) {
    const int own = first + Group::Index() % kTogether;
    bool kept = exists_ && own < plan_.num_candidates;
    const int user = kept ? candidates_.User(j_, own) : 0;
    RowFacts<T> facts = {};
    if (kept) facts = Facts(user);
    kept = kept && facts.scale != T(0) && !pairs_.IsHit(user, j_);  // Other rows are not even read.
    const int place = kept ? user : -1;
    const Element* rows[kTogether];
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      const int i = Group::From(place, q);
      rows[q] = i < 0 ? nullptr : pairs_.UserRow(i);
    }
    const T score = Cosine(row_.Meet(rows), facts.inverse, item_inverse_);
    const auto pair = pairs_.Reweight(facts.positive, score);
    const T e = Exp(pairs_.Exponent(pair.score, facts.reference, neg_log_prob_)) * facts.scale;
    const T weight = kept ? (pair.hard ? e * pairs_.params.t : e) * facts.inverse : T(0);
    used_ |= weight != T(0);
    row_.AddMet(weight);
  }

  __device__ void Finish() {
    const T positive_weight = exists_ ? static_cast<const T*>(plan_.positive_weights)[j_] : T(0);
    if (positive_weight != T(0)) row_.Add(pairs_.UserRow(j_), positive_weight * Facts(j_).inverse);
    const bool used = Group::Any(used_ || positive_weight != T(0));
    const T inverse = exists_ ? static_cast<const T*>(plan_.item_inverse)[j_] : T(1);
    row_.Finish(used, T(1), NormalisationGrad<T>(inverse, plan_.normalise), exists_, GradItem());
  }

  __device__ void FinishBroken() {
    if (!exists_) return;
    for (int d = Group::Index(); d < plan_.embedding_dim; d += Row::kLanes) GradItem()[d] = NotANumber<T>();
  }

 private:
  __device__ __forceinline__ RowFacts<T> Facts(int i) const {
    return static_cast<const RowFacts<T>*>(plan_.row_facts)[i];
  }

  __device__ T* GradItem() const { return static_cast<T*>(plan_.grad_item) + int64_t{j_} * plan_.embedding_dim; }

  const GatheredPlan& plan_;
  const Candidates candidates_;
  const Pairs<Element> pairs_;
  const bool exists_;
  const int j_;
  Row row_;
  T item_inverse_ = 0;
  T neg_log_prob_ = 0;
  bool used_ = false;  // Whether this lane had a pair with a weight.
};

template <typename Row, typename Candidates, int kSets>
__global__ void __launch_bounds__(kBlockThreads, kBlocksAtOnce<kSets>) GatherItemGradsKernel(const GatheredPlan plan) {
  using Pass = ItemGrad<Row, Candidates>;
  constexpr int kRows = kBlockThreads / Row::kLanes;
  const int r = static_cast<int>(threadIdx.x) / Row::kLanes;
  RowSets<Pass, kSets> rows(plan, int64_t{blockIdx.x} * (kSets * kRows) + r, kRows);
  if (plan.control->error == 0) {
    RunSets(plan, &rows);
    rows.ForEach([](Pass& row, int) { row.Finish(); });
  } else {
    rows.ForEach([](Pass& row, int) { row.FinishBroken(); });
  }
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_GATHERED_GATHER_ITEM_GRADS_CUH_
