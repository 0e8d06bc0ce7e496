// Softmax over given scores: a group of lanes takes a row, from its scores to its loss and its gradients.
//
// Memory: scores are read once and gradients written once. That is the bound; there are some 40 instructions for the 8
// bytes of a float32 score and its gradient, about what an H200's arithmetic can do in the time of its memory. Rows too
// long for registers are read three times, twice of them from the caches.
#ifndef FASTNEG_CORE_CUDA_SCORES_ROWS_CUH_
#define FASTNEG_CORE_CUDA_SCORES_ROWS_CUH_

#include "core/cuda/common/block_sums.cuh"
#include "core/cuda/common/lanes.cuh"
#include "core/cuda/common/narrow.cuh"
#include "core/cuda/common/scalar.cuh"
#include "core/cuda/common/softmax_row.cuh"
#include "core/cuda/common/storage.cuh"
#include "core/losses/sv_softmax.h"

namespace fastneg::cuda {

// Plain data, passed to the kernels by value. void pointers hold the compute type unless said otherwise.
struct SvSoftmaxPlan {
  int64_t num_rows = 0;              // P
  int64_t num_negatives = 0;         // K
  const void* pos_score = nullptr;   // [P] of the storage type.
  const void* neg_scores = nullptr;  // [P, K] of the storage type.
  const void* weights = nullptr;     // [P] or null.
  Scalar margin;
  Scalar t;
  Scalar smooth;
  Scalar threshold;

  // Results; null where not wanted. grad_pos and grad_neg come together; narrow_grads: they are of the storage type.
  bool narrow_grads = false;
  void* loss = nullptr;
  void* grad_pos = nullptr;
  void* grad_neg = nullptr;  // May be neg_scores.
  void* grad_weights = nullptr;
  void* grad_scalars = nullptr;

  // Workspace.
  Control* control = nullptr;
  unsigned long long* count = nullptr;  // Rows with a weight; only with `weights`.
  double* block_sums = nullptr;
};

// kLanes lanes with kChunks packs each hold a row; with kChunks = 0 the row stays in memory.
template <typename StorageType, int kVecElements, int kLaneCount, int kChunkCount>
struct ScoreLayout {
  using Storage = StorageType;
  static constexpr int kVec = kVecElements;
  static constexpr int kLanes = kLaneCount;
  static constexpr int kChunks = kChunkCount;
  static constexpr int kRows = kBlockThreads / kLanes;  // Of a block.
};

template <typename Layout, bool kGrad>
class GivenRow {
 public:
  using Storage = typename Layout::Storage;
  using T = Compute<Storage>;
  using Group = Lanes<Layout::kLanes>;

  // Row i, or none if i >= P.
  __device__ GivenRow(const SvSoftmaxPlan& plan, int64_t i)
      : plan_(plan),
        params_{plan.smooth.Get<T>(), plan.margin.Get<T>(), plan.t.Get<T>()},
        threshold_(plan.threshold.Get<T>()),
        exists_(i < plan.num_rows),
        i_(exists_ ? i : 0),
        count_(plan.weights == nullptr ? static_cast<unsigned long long>(plan.num_rows) : *plan.count),
        weight_(!exists_                  ? T(0)
                : plan.weights == nullptr ? T(1)
                                          : static_cast<const T*>(plan.weights)[i_]),
        // A row of weight 0 has a loss to tell its weight, and nothing else.
        read_(exists_ && (weight_ != T(0) || (plan.grad_weights != nullptr && count_ != 0))) {}

  __device__ void Run(double* sums) {
    Read();
    Sum();
    Finish(sums);
  }

 private:
  static constexpr int kVec = Layout::kVec;
  static constexpr int kSpan = Layout::kLanes * kVec;
  static constexpr bool kKept = Layout::kChunks > 0;

  // Finds the score of the row's largest logit.
  __device__ void Read() {
    positive_ = read_ ? Widen(static_cast<const Storage*>(plan_.pos_score)[i_]) - params_.margin : T(0);
    const T sign = params_.gamma < T(0) ? T(-1) : T(1);
    T highest = sign * positive_;
    if constexpr (kKept) {
      // All loads before the first use.
#pragma unroll
      for (int c = 0; c < Layout::kChunks; ++c) packs_[c] = Load(Place(c));
#pragma unroll
      for (int c = 0; c < Layout::kChunks; ++c) highest = Higher(packs_[c], Place(c), sign, highest);
    } else if (read_) {
#pragma unroll 4
      for (int64_t k = Place(0); k < plan_.num_negatives; k += kSpan) highest = Higher(Load(k), k, sign, highest);
    }
    reference_ = sign * Group::Max(highest);
  }

  __device__ void Sum() {
    if constexpr (kKept) {
#pragma unroll
      for (int c = 0; c < Layout::kChunks; ++c) {
        T terms[kVec];
        AddTerms(packs_[c], Place(c), terms);
#pragma unroll
        for (int v = 0; v < kVec; ++v) terms_[c * kVec + v] = terms[v];
      }
    } else if (read_) {
#pragma unroll 4
      for (int64_t k = Place(0); k < plan_.num_negatives; k += kSpan) {
        T terms[kVec];
        AddTerms(Load(k), k, terms);
      }
    }
    negatives_ = Group::Sum(negatives_);
    if (plan_.grad_scalars != nullptr) {
      leads_ = Group::Sum(leads_);
      hard_ = Group::Sum(hard_);
    }
  }

  __device__ void Finish(double* sums) {
    const double inverse_count = count_ == 0 ? 0.0 : 1.0 / static_cast<double>(count_);
    const T behind = reference_ - positive_;
    const T below = -params_.gamma * behind;
    const T own = Exp(below);
    const T total = negatives_ + own;
    const T loss = RowLoss(below, own, negatives_);
    const bool counts = weight_ != T(0);
    const double share = counts ? static_cast<double>(weight_) * inverse_count : 0.0;
    // Read again: kept from the beginning it would take a register too many in one of the layouts.
    const double smooth = static_cast<double>(plan_.smooth.Get<T>());
    const T scale = counts ? T(share * smooth) / total : T(0);
    if (Group::Index() == 0) {
      const double by_total = counts ? share / static_cast<double>(total) : 0.0;
      sums[0] = counts ? share * static_cast<double>(loss) : 0.0;
      sums[1] = counts ? by_total * static_cast<double>(leads_ + negatives_ * behind) : 0.0;
      sums[2] = counts ? by_total * smooth * static_cast<double>(negatives_) : 0.0;
      sums[3] = counts ? by_total * smooth * static_cast<double>(hard_) : 0.0;
      if (exists_ && plan_.grad_weights != nullptr) {
        static_cast<T*>(plan_.grad_weights)[i_] = read_ ? T(static_cast<double>(loss) * inverse_count) : T(0);
      }
      if (kGrad && exists_) {
        const T grads[] = {counts ? -(negatives_ * scale) : T(0)};
        StoreGrads(grads, plan_.grad_pos, i_);
      }
    }
    if constexpr (kGrad) {
      if (!exists_) return;
      if constexpr (kKept) {
#pragma unroll
        for (int c = 0; c < Layout::kChunks; ++c) {
          T terms[kVec];
#pragma unroll
          for (int v = 0; v < kVec; ++v) terms[v] = terms_[c * kVec + v];
          Write(Place(c), counts, scale, terms);
        }
      } else {
        for (int64_t k = Place(0); k < plan_.num_negatives; k += kSpan) {
          T terms[kVec] = {};
          if (counts) AddTerms(Load(k), k, terms);  // The sums are done with: this is for the terms.
          Write(k, counts, scale, terms);
        }
      }
    }
  }

  static __device__ __forceinline__ int64_t Place(int chunk) {
    return static_cast<int64_t>(chunk) * kSpan + Group::Index() * kVec;
  }

  // Not through LoadPack: gradients may be written over scores, which the cache for what nobody writes does not allow.
  __device__ __forceinline__ Pack<Storage, kVec> Load(int64_t k) const {
    if (!read_ || k >= plan_.num_negatives) return ZeroPack<Storage, kVec>();
    return *reinterpret_cast<const Pack<Storage, kVec>*>(static_cast<const Storage*>(plan_.neg_scores) +
                                                         i_ * plan_.num_negatives + k);
  }

  __device__ __forceinline__ T Reweight(T negative, bool* hard) const {
    *hard = IsHard(positive_, negative, threshold_);
    return *hard ? HardScore(negative, params_) : negative;
  }

  __device__ __forceinline__ T Higher(const Pack<Storage, kVec>& pack, int64_t k, T sign, T highest) const {
    if (k >= plan_.num_negatives) return highest;
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      bool hard;
      const T score = sign * Reweight(Widen(pack.elements[v]), &hard);
      highest = score > highest ? score : highest;  // A NaN shows in the sums, and need not here.
    }
    return highest;
  }

  // Adds the negatives of a pack to the sums; `terms` gets their exponentials, t times those of hard ones.
  __device__ __forceinline__ void AddTerms(const Pack<Storage, kVec>& pack, int64_t k, T (&terms)[kVec]) {
    const bool in_row = read_ && k < plan_.num_negatives;
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      const T negative = Widen(pack.elements[v]);
      bool hard;
      const T lead = Reweight(negative, &hard) - reference_;
      const T e = in_row ? Exp(params_.gamma * lead) : T(0);
      negatives_ += e;
      if (plan_.grad_scalars != nullptr && in_row) {
        leads_ += WeightedTerm(e, lead);
        hard_ += hard ? WeightedTerm(e, negative + T(1)) : T(0);
      }
      terms[v] = hard ? e * params_.t : e;
    }
  }

  __device__ __forceinline__ void Write(int64_t k, bool counts, T scale, T (&terms)[kVec]) const {
    if (k >= plan_.num_negatives) return;
#pragma unroll
    for (int v = 0; v < kVec; ++v) terms[v] = counts ? terms[v] * scale : T(0);
    StoreGrads(terms, plan_.grad_neg, i_ * plan_.num_negatives + k);
  }

  // As elements `first` and on of grad_pos or grad_neg.
  template <int kCount>
  __device__ __forceinline__ void StoreGrads(const T (&grads)[kCount], void* to, int64_t first) const {
    if constexpr (sizeof(Storage) < sizeof(T)) {
      if (plan_.narrow_grads) {
        Pack<Storage, kCount> pack;
#pragma unroll
        for (int v = 0; v < kCount; ++v) Narrow(grads[v], &pack.elements[v]);
        *reinterpret_cast<Pack<Storage, kCount>*>(static_cast<Storage*>(to) + first) = pack;
        return;
      }
    }
    StoreValues<kCount>(grads, static_cast<T*>(to) + first);
  }

  const SvSoftmaxPlan& plan_;
  const SvSoftmaxParams<T> params_;
  const T threshold_;
  const bool exists_;
  const int64_t i_;
  const unsigned long long count_;
  const T weight_;
  const bool read_;
  Pack<Storage, kVec> packs_[kKept ? Layout::kChunks : 1];
  T terms_[kKept ? Layout::kChunks * kVec : 1];
  T positive_ = 0;   // Score, less margin.
  T reference_ = 0;  // The score of the largest logit. Differences of scores lose less than those of logits do.
  T negatives_ = 0;  // Sum of the negatives' exponentials.
  T leads_ = 0;      // ... times (score - reference).
  T hard_ = 0;       // ... of the hard ones, times (score as given + 1).
};

template <typename Layout, bool kGrad>
__global__ void __launch_bounds__(kBlockThreads) SvSoftmaxKernel(const SvSoftmaxPlan plan) {
  __shared__ double sums[Layout::kRows][kNumSums];
  const int r = static_cast<int>(threadIdx.x) / Layout::kLanes;
  GivenRow<Layout, kGrad>(plan, int64_t{blockIdx.x} * Layout::kRows + r).Run(sums[r]);
  AddUpRows<Compute<typename Layout::Storage>>({plan.control, plan.block_sums, plan.loss, plan.grad_scalars, nullptr},
                                               sums, Layout::kRows);
}

}  // namespace fastneg::cuda

#endif  // FASTNEG_CORE_CUDA_SCORES_ROWS_CUH_
