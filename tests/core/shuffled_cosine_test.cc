// ShuffledCosine and RandomPermutations on every instruction set that the machine has: values against a naive solution
// in double, the same bits for every number of threads, and a status for every bad argument. Buffers have exactly the
// size that api.h names, so that the sanitizers see the smallest step outside.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "core/api.h"
#include "tests/core/check.h"

namespace fastneg {
namespace {

struct Problem {
  int64_t batch_size, num_negatives, dim;
  double gamma = 12.0;
  std::vector<float> query = {}, doc = {}, probability = {};
  std::vector<int64_t> permutations = {}, ids = {};
};

struct Solution {
  std::vector<double> loss = {0.0}, grad_query, grad_doc, grad_gamma = {0.0};
};

Problem MakeProblem(int64_t batch_size, int64_t num_negatives, int64_t dim) {
  Problem problem{batch_size, num_negatives, dim};
  std::mt19937 random(static_cast<unsigned>(batch_size * 7 + num_negatives));
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < batch_size * dim; ++i) {
    problem.query.push_back(normal(random));
    problem.doc.push_back(normal(random) + 0.5f * problem.query.back());
  }
  for (int64_t i = 0; i < batch_size; ++i) {
    problem.probability.push_back(static_cast<float>(random() % 1000 + 1) / 1000.0f);
    problem.ids.push_back(static_cast<int64_t>(random() % (batch_size / 2 + 1)));
  }
  for (int64_t k = 0; k < num_negatives; ++k) {
    std::vector<int64_t> permutation;
    for (int64_t i = 0; i < batch_size; ++i) permutation.push_back(i);
    std::shuffle(permutation.begin(), permutation.end(), random);
    problem.permutations.insert(problem.permutations.end(), permutation.begin(), permutation.end());
  }
  return problem;
}

std::vector<double> UnitRow(const std::vector<float>& rows, int64_t row, int64_t dim, double* norm) {
  std::vector<double> unit(rows.begin() + row * dim, rows.begin() + (row + 1) * dim);
  double square = 0;
  for (const double x : unit) square += x * x;
  *norm = std::sqrt(std::max(square, 1e-12));
  for (double& x : unit) x /= *norm;
  return unit;
}

// d loss / d row from d loss / d unit row, added up in `grad`.
void ThroughNorm(const std::vector<double>& unit, double norm, double* grad) {
  double along = 0;
  for (size_t d = 0; d < unit.size(); ++d) along += unit[d] * grad[d];
  for (size_t d = 0; d < unit.size(); ++d) grad[d] = (grad[d] - along * unit[d]) / norm;
}

Solution Solve(const Problem& p) {
  Solution s;
  s.grad_query.assign(p.query.size(), 0.0);
  s.grad_doc.assign(p.doc.size(), 0.0);
  std::vector<std::vector<double>> queries, docs;
  std::vector<double> query_norms(p.batch_size), doc_norms(p.batch_size);
  for (int64_t i = 0; i < p.batch_size; ++i) {
    queries.push_back(UnitRow(p.query, i, p.dim, &query_norms[i]));
    docs.push_back(UnitRow(p.doc, i, p.dim, &doc_norms[i]));
  }
  for (int64_t i = 0; i < p.batch_size; ++i) {
    std::vector<int64_t> rows = {i};
    for (int64_t k = 0; k < p.num_negatives; ++k) {
      const int64_t j = p.permutations[k * p.batch_size + i];
      if (p.ids[j] != p.ids[i]) rows.push_back(j);
    }
    std::vector<double> cosines, exponentials;
    double total = 0;
    for (const int64_t j : rows) {
      double dot = 0;
      for (int64_t d = 0; d < p.dim; ++d) dot += queries[i][d] * docs[j][d];
      cosines.push_back(dot);
      exponentials.push_back(std::exp(p.gamma * dot) / p.probability[j]);
      total += exponentials.back();
    }
    s.loss[0] += std::log(total / exponentials[0]) / p.batch_size;
    for (size_t c = 0; c < rows.size(); ++c) {
      const double grad = (exponentials[c] / total - (c == 0)) / p.batch_size;
      s.grad_gamma[0] += grad * cosines[c];
      for (int64_t d = 0; d < p.dim; ++d) {
        s.grad_query[i * p.dim + d] += p.gamma * grad * docs[rows[c]][d];
        s.grad_doc[rows[c] * p.dim + d] += p.gamma * grad * queries[i][d];
      }
    }
  }
  for (int64_t i = 0; i < p.batch_size; ++i) {
    ThroughNorm(queries[i], query_norms[i], &s.grad_query[i * p.dim]);
    ThroughNorm(docs[i], doc_norms[i], &s.grad_doc[i * p.dim]);
  }
  return s;
}

struct Results {
  float loss = 0;
  float grad_scalars[3] = {};
  std::vector<float> grad_query, grad_doc;
};

void CheckClose(const std::vector<float>& actual, const std::vector<double>& expected) {
  double size = 0;
  for (const double x : expected) size = std::max(size, std::fabs(x));
  for (size_t i = 0; i < expected.size(); ++i) FASTNEG_CHECK(std::fabs(actual[i] - expected[i]) <= 3e-5 * size + 1e-12);
}

// Runs the core with a workspace of exactly the size it asks for; the results are only looked at for kOk.
Status Run(const Problem& p, int num_threads, Results* results, int64_t* error_index = nullptr) {
  ShuffledCosineArgs args;
  args.batch_size = p.batch_size;
  args.num_negatives = p.num_negatives;
  args.embedding_dim = p.dim;
  args.user_row_stride = args.item_row_stride = p.dim;
  args.user_emb = p.query.data();
  args.item_emb = p.doc.data();
  args.gamma = p.gamma;
  args.sampling_probability = p.probability.data();
  args.candidate_ids = p.ids.data();
  args.permutation_dtype = DType::kInt64;
  args.permutations = p.permutations.data();
  results->grad_query.assign(p.query.size(), -1.0f);
  results->grad_doc.assign(p.doc.size(), -1.0f);
  args.loss = &results->loss;
  args.grad_user = results->grad_query.data();
  args.grad_item = results->grad_doc.data();
  args.grad_scalars = results->grad_scalars;
  args.executor = PoolExecutor(num_threads);
  args.error_index = error_index;
  args.workspace_bytes = ShuffledCosineWorkspaceBytes(args);
  void* workspace = nullptr;
  FASTNEG_CHECK(posix_memalign(&workspace, 64, args.workspace_bytes) == 0);
  std::memset(workspace, 0xA5, args.workspace_bytes);
  args.workspace = workspace;
  const Status status = ShuffledCosine(args);
  std::free(workspace);
  return status;
}

void TestValues() {
  for (const Problem& p : {MakeProblem(1, 1, 1), MakeProblem(5, 7, 3), MakeProblem(70, 17, 33),
                           MakeProblem(300, 20, 64), MakeProblem(130, 40, 100)}) {
    const Solution expected = Solve(p);
    Results first;
    FASTNEG_CHECK(Run(p, 1, &first) == Status::kOk);
    CheckClose({first.loss}, expected.loss);
    CheckClose({first.grad_scalars[0]}, expected.grad_gamma);
    CheckClose(first.grad_query, expected.grad_query);
    CheckClose(first.grad_doc, expected.grad_doc);
    for (const int num_threads : {2, 8}) {
      Results again;
      FASTNEG_CHECK(Run(p, num_threads, &again) == Status::kOk);
      FASTNEG_CHECK(std::memcmp(&again.loss, &first.loss, sizeof(float)) == 0);
      FASTNEG_CHECK(again.grad_query == first.grad_query);
      FASTNEG_CHECK(again.grad_doc == first.grad_doc);
    }
  }
}

void TestBrokenPermutations() {
  const Problem good = MakeProblem(70, 17, 33);
  const std::pair<int64_t, int64_t> changes[] = {{0, -1},         {69, 70},       {16 * 70 + 3, INT64_MAX},
                                                 {70, INT64_MIN}, {5, 1LL << 32}, {71, good.permutations[70]}};
  for (const auto& [place, value] : changes) {
    Problem bad = good;
    bad.permutations[place] = value;
    Results results;
    int64_t error_index = -1;
    FASTNEG_CHECK(Run(bad, 2, &results, &error_index) == Status::kNotAPermutation);
    FASTNEG_CHECK(error_index == place);
  }
}

void TestBadArguments() {
  Problem problem = MakeProblem(6, 2, 3);
  Results results;
  problem.num_negatives = 0;
  FASTNEG_CHECK(Run(problem, 1, &results) == Status::kInvalidSize);
  ShuffledCosineArgs args;
  float loss = -1;
  args.loss = &loss;
  FASTNEG_CHECK(ShuffledCosine(args) == Status::kOk);  // An empty batch.
  FASTNEG_CHECK(loss == 0);
  args.batch_size = int64_t{1} << 31;
  args.num_negatives = 1;
  FASTNEG_CHECK(ShuffledCosine(args) == Status::kInvalidSize);
  FASTNEG_CHECK(ShuffledCosineWorkspaceBytes(args) == 0);
  args.batch_size = 4;
  args.permutation_dtype = DType::kUInt64;
  FASTNEG_CHECK(ShuffledCosine(args) == Status::kUnsupportedDType);
}

void TestRandomPermutations() {
  constexpr int64_t kCount = 50, kSize = 37;
  std::vector<int64_t> seeds;
  for (int64_t k = 0; k < kCount; ++k) seeds.push_back(k * k - 3);
  std::vector<int32_t> first(kCount * kSize), again(kCount * kSize);
  RandomPermutationsArgs args;
  args.count = kCount;
  args.size = kSize;
  args.seeds = seeds.data();
  args.permutations = first.data();
  FASTNEG_CHECK(RandomPermutations(args) == Status::kOk);
  args.permutations = again.data();
  args.executor = PoolExecutor(3);
  FASTNEG_CHECK(RandomPermutations(args) == Status::kOk);
  FASTNEG_CHECK(first == again);
  for (int64_t k = 0; k < kCount; ++k) {
    std::vector<int32_t> sorted(first.begin() + k * kSize, first.begin() + (k + 1) * kSize);
    FASTNEG_CHECK(k == 0 || !std::equal(sorted.begin(), sorted.end(), first.begin()));
    std::sort(sorted.begin(), sorted.end());
    for (int64_t i = 0; i < kSize; ++i) FASTNEG_CHECK(sorted[i] == i);
  }
  args.size = 0;
  FASTNEG_CHECK(RandomPermutations(args) == Status::kOk);
  args.size = -1;
  FASTNEG_CHECK(RandomPermutations(args) == Status::kInvalidSize);
  args.size = int64_t{1} << 31;
  FASTNEG_CHECK(RandomPermutations(args) == Status::kInvalidSize);
  args.size = 5;
  args.seeds = nullptr;
  FASTNEG_CHECK(RandomPermutations(args) == Status::kNullPointer);
}

}  // namespace
}  // namespace fastneg

int main() {
  for (const char* const* isa = fastneg::AvailableIsas(); *isa != nullptr; ++isa) {
    std::printf("%s\n", *isa);
    FASTNEG_CHECK(fastneg::SetIsa(*isa));
    fastneg::TestValues();
    fastneg::TestBrokenPermutations();
  }
  fastneg::TestBadArguments();
  fastneg::TestRandomPermutations();
  return 0;
}
