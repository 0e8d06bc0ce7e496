// InBatchSoftmax and PositiveRanks on every instruction set that the machine has: values and gradients against a naive
// solution in double, the same bits for every number of threads, and a status for every bad argument. Buffers have
// exactly the size that api.h names, so that the sanitizers see the smallest step outside.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "core/api.h"
#include "tests/core/check.h"

namespace fastneg {
namespace {

struct Problem {
  int64_t batch_size = 0, num_candidates = 0, dim = 0;
  std::vector<float> query, candidate, weights, probability;
  std::vector<int64_t> positives, ids;
  std::vector<uint8_t> candidate_mask, score_mask;
  InBatchSoftmaxArgs options;                            // Numbers and choices alone.
  std::vector<uint16_t> query_halves, candidate_halves;  // What is passed where they are not empty, as bfloat16.
};

// Bits of `variant` turn options on.
Problem MakeProblem(int64_t batch_size, int64_t num_candidates, int64_t dim, int variant) {
  Problem p;
  p.batch_size = batch_size;
  p.num_candidates = num_candidates;
  p.dim = dim;
  std::mt19937 random(static_cast<unsigned>(batch_size * 31 + num_candidates + variant));
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < batch_size * dim; ++i) p.query.push_back(0.4f * normal(random));
  for (int64_t i = 0; i < num_candidates * dim; ++i) p.candidate.push_back(0.4f * normal(random));
  for (int64_t i = 0; i < batch_size; ++i) p.weights.push_back(static_cast<float>(random() % 4));
  for (int64_t j = 0; j < num_candidates; ++j) {
    p.probability.push_back(static_cast<float>(random() % 100 + 1) / 100.0f);
    p.ids.push_back(static_cast<int64_t>(random() % static_cast<unsigned>(num_candidates)) << 33);
    p.candidate_mask.push_back(random() % 5 != 0);
  }
  for (int64_t i = 0; i < batch_size * num_candidates; ++i) p.score_mask.push_back(random() % 4 != 0);
  const bool two_ways = (variant & 1) != 0;
  p.options.bidirectional = two_ways;
  p.options.normalize = (variant & 2) != 0;
  if ((variant & 4) != 0) {
    p.options.t = 1.3;
    p.options.margin = 0.2;
    p.options.temperature = 0.5;
  }
  if ((variant & 8) == 0) p.probability.clear();
  if ((variant & 8) == 0) p.ids.clear();
  if ((variant & 16) == 0) p.candidate_mask.clear();
  if ((variant & 16) == 0) p.score_mask.clear();
  if (!two_ways && (variant & 32) != 0) {
    for (int64_t i = 0; i < batch_size; ++i) {
      p.positives.push_back(static_cast<int64_t>(random() % static_cast<unsigned>(num_candidates)));
    }
    p.options.num_hard_negatives = std::max<int64_t>(num_candidates / 4, 1);
  }
  if ((variant & 64) != 0) {
    p.options.positive_in_softmax = false;
    p.options.negative_weight = 1.2;
    p.options.refined = !two_ways && !p.probability.empty();
  } else if ((variant & 2) != 0) {
    p.options.label_smoothing = 0.2;
  }
  p.options.reduction = (variant & 4) != 0 ? Reduction::kSum : Reduction::kMean;
  return p;
}

// Rounds the rows to numbers that bfloat16 has.
std::vector<uint16_t> ToBFloat16(std::vector<float>* rows) {
  std::vector<uint16_t> halves;
  for (float& value : *rows) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bits &= 0xffff0000u;
    std::memcpy(&value, &bits, sizeof(bits));
    halves.push_back(static_cast<uint16_t>(bits >> 16));
  }
  return halves;
}

using Matrix = std::vector<std::vector<double>>;

struct Solution {
  double loss = 0;
  std::vector<double> row_loss, grad_query, grad_candidate;
  std::vector<int32_t> ranks;
};

// The loss of one row, or column, over the negatives `kept`; adds `factor` times its gradients.
double Direction(const Problem& p, const std::vector<double>& logits, const std::vector<int64_t>& kept,
                 int64_t positive, bool refined, double factor, std::vector<double>* grads) {
  const InBatchSoftmaxArgs& o = p.options;
  std::vector<int64_t> terms = kept;
  if (o.positive_in_softmax) terms.push_back(positive);
  if (terms.empty()) return 0;
  double highest = -INFINITY, sum = 0, mean = 0;
  for (int64_t j : terms) highest = std::max(highest, logits[j]);
  for (int64_t j : terms) sum += std::exp(logits[j] - highest);
  const double log_sum = highest + std::log(sum), size = static_cast<double>(terms.size());
  for (int64_t j : terms) mean += logits[j] / size;
  double loss = o.negative_weight * log_sum - (1 - o.label_smoothing) * logits[positive];
  if (o.positive_in_softmax) loss -= o.label_smoothing * mean;
  if (refined) {
    const double doubt = 1 / (1 + std::exp(logits[positive] - log_sum + std::log(size)));
    loss *= doubt;
    factor *= doubt;
  }
  const double smoothing = o.positive_in_softmax ? o.label_smoothing / size : 0.0;
  for (int64_t j : terms) {
    (*grads)[j] += factor * (o.negative_weight * std::exp(logits[j] - log_sum) - smoothing);
  }
  (*grads)[positive] -= factor * (1 - o.label_smoothing);
  return loss;
}

std::vector<double> Normalized(const std::vector<float>& rows, int64_t dim, bool normalize,
                               std::vector<double>* norms) {
  std::vector<double> result(rows.begin(), rows.end());
  for (size_t begin = 0; begin < result.size(); begin += static_cast<size_t>(dim)) {
    double square = 0;
    for (int64_t d = 0; d < dim; ++d) square += result[begin + d] * result[begin + d];
    norms->push_back(normalize ? std::sqrt(std::max(square, 1e-12)) : 1.0);
    for (int64_t d = 0; d < dim; ++d) result[begin + d] /= norms->back();
  }
  return result;
}

void ThroughNorms(const std::vector<double>& rows, const std::vector<double>& norms, int64_t dim, bool normalize,
                  std::vector<double>* grads) {
  for (size_t i = 0; normalize && i < norms.size(); ++i) {
    double along = 0;
    for (int64_t d = 0; d < dim; ++d) along += rows[i * dim + d] * (*grads)[i * dim + d];
    for (int64_t d = 0; d < dim; ++d) {
      double& grad = (*grads)[i * dim + d];
      grad = (grad - along * rows[i * dim + d]) / norms[i];
    }
  }
}

Solution Solve(const Problem& p) {
  const InBatchSoftmaxArgs& o = p.options;
  const int64_t b = p.batch_size, c = p.num_candidates, dim = p.dim;
  std::vector<double> query_norms, candidate_norms;
  const std::vector<double> q = Normalized(p.query, dim, o.normalize, &query_norms);
  const std::vector<double> k = Normalized(p.candidate, dim, o.normalize, &candidate_norms);
  Matrix plain(b, std::vector<double>(c)), corrected = plain, grads = plain, slopes = plain;
  std::vector<std::vector<int64_t>> kept(b);
  Solution solution;
  double count = 0;
  for (int64_t i = 0; i < b; ++i) {
    count += p.weights[i] != 0;
    const int64_t own = p.positives.empty() ? i : p.positives[i];
    std::vector<double> scores(c);
    for (int64_t j = 0; j < c; ++j) {
      for (int64_t d = 0; d < dim; ++d) scores[j] += q[i * dim + d] * k[j * dim + d];
    }
    int32_t rank = 0;
    for (int64_t j = 0; j < c; ++j) {
      const bool hard = j != own && scores[own] - o.margin - scores[j] < 0;
      slopes[i][j] = (hard ? o.t : 1.0) / o.temperature;
      const double score = j == own ? scores[j] - o.margin : hard ? o.t * scores[j] + o.t - 1 : scores[j];
      plain[i][j] = corrected[i][j] = score / o.temperature;
      if (!p.probability.empty() && !(o.refined && j == own)) {
        corrected[i][j] -= std::log(static_cast<double>(p.probability[j]));
        if (o.refined) corrected[i][j] += std::log(std::max(1.0 - p.probability[own], 1e-9));
      }
      const bool same = j == own || (!p.ids.empty() && p.ids[j] == p.ids[own]);
      const bool masked = !p.candidate_mask.empty() && (p.candidate_mask[j] == 0 || p.score_mask[i * c + j] == 0);
      if (same || masked) continue;
      kept[i].push_back(j);
      rank += !(scores[j] < scores[own] || (scores[j] == scores[own] && j > own));
    }
    solution.ranks.push_back(rank);
  }
  const double divisor = o.reduction == Reduction::kMean ? std::max(count, 1.0) : 1.0;
  const double share = o.bidirectional ? 0.5 : 1.0;
  solution.row_loss.assign(b, 0.0);
  for (int64_t i = 0; i < b; ++i) {
    std::vector<int64_t> stay = kept[i];
    if (o.num_hard_negatives > 0) {
      std::stable_sort(stay.begin(), stay.end(),
                       [&](int64_t x, int64_t y) { return corrected[i][x] > corrected[i][y]; });
      if (static_cast<int64_t>(stay.size()) > o.num_hard_negatives) stay.resize(o.num_hard_negatives);
    }
    const double factor = share * p.weights[i] / divisor;
    const int64_t own = p.positives.empty() ? i : p.positives[i];
    solution.row_loss[i] += share * Direction(p, corrected[i], stay, own, o.refined, factor, &grads[i]);
    if (!o.bidirectional) continue;
    std::vector<double> column(b), column_grads(b, 0.0);
    std::vector<int64_t> others;
    for (int64_t j = 0; j < b; ++j) {
      column[j] = plain[j][i];
      if (std::find(kept[j].begin(), kept[j].end(), i) != kept[j].end()) others.push_back(j);
    }
    solution.row_loss[i] += share * Direction(p, column, others, i, false, factor, &column_grads);
    for (int64_t j = 0; j < b; ++j) grads[j][i] += column_grads[j];
  }
  solution.grad_query.assign(q.size(), 0.0);
  solution.grad_candidate.assign(k.size(), 0.0);
  for (int64_t i = 0; i < b; ++i) {
    solution.loss += solution.row_loss[i] * p.weights[i] / divisor;
    for (int64_t j = 0; j < c; ++j) {
      for (int64_t d = 0; d < dim; ++d) {
        solution.grad_query[i * dim + d] += grads[i][j] * slopes[i][j] * k[j * dim + d];
        solution.grad_candidate[j * dim + d] += grads[i][j] * slopes[i][j] * q[i * dim + d];
      }
    }
  }
  ThroughNorms(q, query_norms, dim, o.normalize, &solution.grad_query);
  ThroughNorms(k, candidate_norms, dim, o.normalize, &solution.grad_candidate);
  return solution;
}

// Memory aligned to 64 bytes that ends where the allocation ends.
class Buffer {
 public:
  explicit Buffer(size_t num_bytes) { FASTNEG_CHECK(posix_memalign(&start_, 64, num_bytes + (num_bytes == 0)) == 0); }
  ~Buffer() { std::free(start_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() { return start_; }

 private:
  void* start_ = nullptr;
};

template <typename T>
const T* DataOf(const std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}

void Fill(const Problem& p, InBatchScoresArgs* args) {
  args->batch_size = p.batch_size;
  args->num_candidates = p.num_candidates;
  args->embedding_dim = args->query_row_stride = args->candidate_row_stride = p.dim;
  args->queries = p.query.data();
  args->candidates = p.candidate.data();
  if (!p.query_halves.empty()) {
    args->dtype = DType::kBFloat16;
    args->queries = p.query_halves.data();
    args->candidates = p.candidate_halves.data();
  }
  args->normalize = p.options.normalize;
  args->positives = DataOf(p.positives);
  args->candidate_ids = DataOf(p.ids);
  args->candidate_mask = DataOf(p.candidate_mask);
  args->score_mask = DataOf(p.score_mask);
}

struct Result {
  float loss = 0;
  std::vector<float> grad_query, grad_candidate, grad_weights, grad_scalars;
  std::vector<int32_t> ranks;
};

Result Run(const Problem& p, int num_threads, bool with_scalars) {
  Result result;
  InBatchSoftmaxArgs args = p.options;
  Fill(p, &args);
  args.weights = p.weights.data();
  args.sampling_probability = DataOf(p.probability);
  args.loss = &result.loss;
  result.grad_query.resize(p.query.size());
  result.grad_candidate.resize(p.candidate.size());
  result.grad_weights.resize(p.weights.size());
  result.grad_scalars.resize(3);
  args.grad_queries = result.grad_query.data();
  args.grad_candidates = result.grad_candidate.data();
  args.grad_weights = result.grad_weights.data();
  if (with_scalars) args.grad_scalars = result.grad_scalars.data();
  args.executor = PoolExecutor(num_threads);
  args.workspace_bytes = InBatchSoftmaxWorkspaceBytes(args);
  Buffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  FASTNEG_CHECK(InBatchSoftmax(args) == Status::kOk);

  PositiveRanksArgs ranks;
  Fill(p, &ranks);
  result.ranks.resize(static_cast<size_t>(p.batch_size));
  ranks.ranks = result.ranks.data();
  ranks.executor = PoolExecutor(num_threads);
  ranks.workspace_bytes = PositiveRanksWorkspaceBytes(ranks);
  Buffer rank_workspace(ranks.workspace_bytes);
  ranks.workspace = rank_workspace.data();
  FASTNEG_CHECK(PositiveRanks(ranks) == Status::kOk);
  return result;
}

void CheckNear(const std::vector<float>& actual, const std::vector<double>& expected, double tolerance = 1e-4) {
  double scale = 1e-6;
  for (double value : expected) scale = std::max(scale, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) FASTNEG_CHECK(std::abs(actual[i] - expected[i]) <= tolerance * scale);
}

void TestValues() {
  const int64_t shapes[][3] = {{1, 1, 1}, {5, 9, 3}, {40, 41, 17}, {140, 170, 16}};
  for (const auto& shape : shapes) {
    for (int variant = 0; variant < 128; ++variant) {
      const Problem p = MakeProblem(shape[0], shape[1], shape[2], variant);
      const Solution exact = Solve(p);
      for (bool with_scalars : {false, true}) {
        const Result result = Run(p, 2, with_scalars);
        FASTNEG_CHECK(std::abs(result.loss - exact.loss) <= 1e-4 * (1 + std::abs(exact.loss)));
        CheckNear(result.grad_query, exact.grad_query);
        CheckNear(result.grad_candidate, exact.grad_candidate);
        for (size_t i = 0; i < result.ranks.size(); ++i) FASTNEG_CHECK(result.ranks[i] == exact.ranks[i]);
      }
    }
  }
}

// Large enough for products of pairs, where the instruction set has them. Those round the coefficients to 8 bits.
void TestBFloat16() {
  for (int variant : {0, 8, 24, 66, 72, 90}) {
    for (int64_t dim : {3, 34, 67}) {
      Problem p = MakeProblem(141, 301, dim, variant);
      p.query_halves = ToBFloat16(&p.query);
      p.candidate_halves = ToBFloat16(&p.candidate);
      const Solution exact = Solve(p);
      const Result one = Run(p, 1, false), three = Run(p, 3, false);
      FASTNEG_CHECK(std::abs(one.loss - exact.loss) <= 1e-4 * (1 + std::abs(exact.loss)));
      CheckNear(one.grad_query, exact.grad_query, 1e-2);
      CheckNear(one.grad_candidate, exact.grad_candidate, 1e-2);
      FASTNEG_CHECK(std::memcmp(&one.loss, &three.loss, sizeof(float)) == 0);
      FASTNEG_CHECK(one.grad_query == three.grad_query && one.grad_candidate == three.grad_candidate);
    }
  }
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

void TestThreads() {
  for (int variant : {0, 1, 6, 13, 31, 36, 75, 92, 99}) {
    const Problem p = MakeProblem(200, 333, 20, variant);
    const Result one = Run(p, 1, true);
    for (int num_threads = 2; num_threads <= 4; ++num_threads) {
      const Result many = Run(p, num_threads, true);
      FASTNEG_CHECK(std::memcmp(&one.loss, &many.loss, sizeof(float)) == 0);
      FASTNEG_CHECK(SameBits(one.grad_query, many.grad_query) && SameBits(one.grad_candidate, many.grad_candidate));
      FASTNEG_CHECK(SameBits(one.grad_weights, many.grad_weights) && SameBits(one.grad_scalars, many.grad_scalars));
      FASTNEG_CHECK(SameBits(one.ranks, many.ranks));
    }
  }
}

// Candidates classified too, with scores that are multiplied again for the gradients. In one round and in several, with
// references that suit all rows or none.
void TestScoresAgain() {
  for (int variant = 1; variant < 128; variant += 2) {
    for (float factor : {1.0f, 100.0f}) {
      Problem p = MakeProblem(140, 170, 16, variant);
      for (size_t i = 120 * 16; i < p.candidate.size(); ++i) p.candidate[i] *= factor;
      p.options.kept_scores_bytes = 0;
      const Solution exact = Solve(p);
      const double tolerance = factor == 1 ? 1e-4 : 1e-3;
      const Result one = Run(p, 1, true), three = Run(p, 3, true);
      FASTNEG_CHECK(std::abs(one.loss - exact.loss) <= tolerance * (1 + std::abs(exact.loss)));
      CheckNear(one.grad_query, exact.grad_query, tolerance);
      CheckNear(one.grad_candidate, exact.grad_candidate, tolerance);
      FASTNEG_CHECK(std::memcmp(&one.loss, &three.loss, sizeof(float)) == 0);
      FASTNEG_CHECK(SameBits(one.grad_query, three.grad_query) && SameBits(one.grad_candidate, three.grad_candidate));
    }
  }
}

void TestStatuses() {
  const std::vector<float> rows(12, 1.0f);
  const std::vector<int64_t> positives = {0, 3};
  float loss = 0;
  InBatchSoftmaxArgs good;
  good.batch_size = 2;
  good.num_candidates = 3;
  good.embedding_dim = good.query_row_stride = good.candidate_row_stride = 4;
  good.queries = good.candidates = rows.data();
  good.loss = &loss;
  const auto status = [](InBatchSoftmaxArgs args, size_t missing = 0) {
    args.workspace_bytes = InBatchSoftmaxWorkspaceBytes(args);
    Buffer workspace(args.workspace_bytes);
    args.workspace = workspace.data();
    args.workspace_bytes -= std::min(missing, args.workspace_bytes);
    return InBatchSoftmax(args);
  };
  const auto with = [&](auto member, auto value) {
    InBatchSoftmaxArgs args = good;
    args.*member = value;
    return status(args);
  };
  FASTNEG_CHECK(status(good) == Status::kOk && std::abs(loss - std::log(3.0f)) < 1e-6f);
  FASTNEG_CHECK(status(good, 1) == Status::kWorkspaceTooSmall);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::num_candidates, int64_t{1}) == Status::kInvalidSize);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::batch_size, int64_t{-1}) == Status::kInvalidSize);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::num_candidates, int64_t{1} << 40) == Status::kInvalidSize);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::query_row_stride, int64_t{3}) == Status::kInvalidSize);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::dtype, DType::kInt32) == Status::kUnsupportedDType);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::queries, static_cast<const void*>(nullptr)) == Status::kNullPointer);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::loss, static_cast<void*>(nullptr)) == Status::kNullPointer);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::grad_queries, static_cast<void*>(&loss)) == Status::kNullPointer);
  for (double temperature : {0.0, -1.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    FASTNEG_CHECK(with(&InBatchSoftmaxArgs::temperature, temperature) == Status::kInvalidOption);
  }
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::label_smoothing, 1.0) == Status::kInvalidOption);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::negative_weight, 2.0) == Status::kInvalidOption);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::num_hard_negatives, int64_t{-1}) == Status::kInvalidOption);
  FASTNEG_CHECK(with(&InBatchSoftmaxArgs::refined, true) == Status::kInvalidOption);
  InBatchSoftmaxArgs args = good;
  int64_t index = -1;
  args.positives = positives.data();
  args.error_index = &index;
  FASTNEG_CHECK(status(args) == Status::kIdOutOfRange && index == 1);
  args.bidirectional = true;
  FASTNEG_CHECK(status(args) == Status::kInvalidOption);
  args = good;
  args.batch_size = 0;
  args.num_candidates = 0;
  loss = 1;
  FASTNEG_CHECK(status(args) == Status::kOk && loss == 0);
}

}  // namespace
}  // namespace fastneg

int main() {
  for (const char* const* isa = fastneg::AvailableIsas(); *isa != nullptr; ++isa) {
    FASTNEG_CHECK(fastneg::SetIsa(*isa));
    fastneg::TestValues();
    fastneg::TestThreads();
    fastneg::TestScoresAgain();
    fastneg::TestBFloat16();
    fastneg::TestStatuses();
    std::printf("%s: passed\n", *isa);
  }
  return 0;
}
