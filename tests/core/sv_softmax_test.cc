// SvSoftmax on every instruction set that the machine has: values against a row-by-row solution in float64, the same
// bits for every number of threads and in place, and a status for every bad argument. All buffers have exactly the size
// that api.h names and the least alignment that it allows, so that the sanitizers see the smallest step outside.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "core/api.h"
#include "tests/core/check.h"

namespace fastneg {
namespace {

struct Problem {
  int64_t num_rows, num_negatives;
  bool weighted;
  double margin, t, smooth, threshold;
  std::vector<double> pos, neg, weights;
};

struct Solution {
  double loss = 0;
  std::vector<double> grad_pos, grad_neg, grad_weights;
  double grad_scalars[3] = {};
};

constexpr double kNoNegative = -HUGE_VAL;

double Rounded(double value, bool is_double) {
  return is_double ? value : static_cast<double>(static_cast<float>(value));
}

Problem MakeProblem(int64_t num_rows, int64_t num_negatives, int variant, bool is_double) {
  std::mt19937_64 random(static_cast<uint64_t>(num_rows * 1000 + num_negatives * 10 + variant));
  std::normal_distribution<double> normal;
  Problem problem{
      num_rows, num_negatives, (variant & 1) != 0, 0.25, 1.5, (variant & 2) != 0 ? -40.0 : 3.0, 0.125, {}, {}, {}};
  for (int64_t i = 0; i < num_rows; ++i) {
    problem.pos.push_back(Rounded(normal(random) + 1, is_double));
    problem.weights.push_back(i % 5 == 3 ? 0.0 : Rounded(0.5 + (normal(random) > 0), is_double));
  }
  for (int64_t i = 0; i < num_rows * num_negatives; ++i) problem.neg.push_back(Rounded(normal(random), is_double));
  if (variant == 4 || variant == 5) {  // Some negatives are none; the second row has no other.
    for (int64_t i = 0; i < num_rows * num_negatives; ++i) {
      if (i / num_negatives == 1 || random() % 3 == 0) problem.neg[static_cast<size_t>(i)] = kNoNegative;
    }
  }
  return problem;
}

Solution Solve(const Problem& problem) {
  const int64_t k = problem.num_negatives;
  Solution solution;
  solution.grad_pos.resize(static_cast<size_t>(problem.num_rows));
  solution.grad_weights.resize(static_cast<size_t>(problem.num_rows));
  solution.grad_neg.resize(static_cast<size_t>(problem.num_rows * k));
  int64_t count = 0;
  for (int64_t i = 0; i < problem.num_rows; ++i)
    count += !problem.weighted || problem.weights[static_cast<size_t>(i)] != 0;
  for (int64_t i = 0; i < problem.num_rows; ++i) {
    const double* neg = problem.neg.data() + i * k;
    const double p = problem.pos[static_cast<size_t>(i)] - problem.margin;
    std::vector<double> leads(static_cast<size_t>(k));
    double highest = 0;
    for (int64_t j = 0; j < k; ++j) {
      const double score = p - neg[j] < problem.threshold ? problem.t * neg[j] + problem.t - 1 : neg[j];
      leads[static_cast<size_t>(j)] = score - p;
      highest = std::max(highest, problem.smooth * (score - p));
    }
    double others = 0;
    for (int64_t j = 0; j < k; ++j) {
      if (neg[j] != kNoNegative) others += std::exp(problem.smooth * leads[static_cast<size_t>(j)] - highest);
    }
    const double total = others + std::exp(-highest);
    const double row_loss = highest == 0 ? std::log1p(others) : highest + std::log(total);
    const double weight = problem.weighted ? problem.weights[static_cast<size_t>(i)] : 1.0;
    const double share = weight / static_cast<double>(count);
    solution.grad_weights[static_cast<size_t>(i)] = row_loss / static_cast<double>(count);
    solution.loss += share * row_loss;
    solution.grad_pos[static_cast<size_t>(i)] = -share * problem.smooth * others / total;
    solution.grad_scalars[1] += share * problem.smooth * others / total;
    for (int64_t j = 0; j < k; ++j) {
      if (neg[j] == kNoNegative) continue;
      const bool hard = p - neg[j] < problem.threshold;
      const double lead = leads[static_cast<size_t>(j)];
      const double probability = std::exp(problem.smooth * lead - highest) / total;
      solution.grad_scalars[0] += share * probability * lead;
      if (hard) solution.grad_scalars[2] += share * problem.smooth * probability * (neg[j] + 1);
      solution.grad_neg[static_cast<size_t>(i * k + j)] =
          share * problem.smooth * probability * (hard ? problem.t : 1.0);
    }
  }
  return solution;
}

// Values that end where their allocation ends, and start where nothing but their own alignment holds.
template <typename T>
class Values {
 public:
  explicit Values(size_t size) : size_(size), memory_(new char[(size + 1) * sizeof(T)]) {
    std::memset(memory_.get(), 0xA5, (size + 1) * sizeof(T));
  }
  explicit Values(const std::vector<double>& values) : Values(values.size()) {
    for (size_t i = 0; i < values.size(); ++i) data()[i] = static_cast<T>(values[i]);
  }
  T* data() { return reinterpret_cast<T*>(memory_.get()) + 1; }
  size_t size() const { return size_; }

 private:
  size_t size_;
  std::unique_ptr<char[]> memory_;
};

template <typename T>
struct Outcome {
  std::vector<T> grad_pos, grad_neg, grad_weights;
  T loss, grad_scalars[3];

  bool operator==(const Outcome& other) const {
    return grad_pos == other.grad_pos && grad_neg == other.grad_neg && grad_weights == other.grad_weights &&
           loss == other.loss && std::memcmp(grad_scalars, other.grad_scalars, sizeof(grad_scalars)) == 0;
  }
};

template <typename T>
SvSoftmaxArgs ArgsOf(const Problem& problem) {
  SvSoftmaxArgs args;
  args.num_rows = problem.num_rows;
  args.num_negatives = problem.num_negatives;
  args.dtype = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
  args.margin = problem.margin;
  args.t = problem.t;
  args.smooth = problem.smooth;
  args.threshold = problem.threshold;
  return args;
}

template <typename T>
Outcome<T> Run(const Problem& problem, int num_threads, bool in_place) {
  Values<T> pos(problem.pos), neg(problem.neg), weights(problem.weights);
  Values<T> grad_pos(problem.pos.size()), grad_neg(problem.neg.size()), grad_weights(problem.pos.size());
  Outcome<T> outcome;
  SvSoftmaxArgs args = ArgsOf<T>(problem);
  args.pos_score = pos.data();
  args.neg_scores = neg.data();
  args.loss = &outcome.loss;
  args.grad_pos = grad_pos.data();
  args.grad_neg = in_place ? neg.data() : grad_neg.data();
  if (problem.weighted) {
    args.weights = weights.data();
    args.grad_weights = grad_weights.data();
  }
  args.grad_scalars = outcome.grad_scalars;
  args.executor = PoolExecutor(num_threads);
  args.workspace_bytes = SvSoftmaxWorkspaceBytes(args);
  void* workspace = nullptr;
  FASTNEG_CHECK(posix_memalign(&workspace, 64, args.workspace_bytes) == 0);
  args.workspace = workspace;
  FASTNEG_CHECK(SvSoftmax(args) == Status::kOk);

  T loss_alone;
  SvSoftmaxArgs evaluation = args;
  evaluation.loss = &loss_alone;
  evaluation.grad_pos = evaluation.grad_neg = evaluation.grad_weights = evaluation.grad_scalars = nullptr;
  if (!in_place) {
    FASTNEG_CHECK(SvSoftmax(evaluation) == Status::kOk);
    FASTNEG_CHECK(loss_alone == outcome.loss);
  }
  std::free(workspace);
  const T* grads = static_cast<const T*>(args.grad_neg);
  outcome.grad_neg.assign(grads, grads + problem.neg.size());
  outcome.grad_pos.assign(grad_pos.data(), grad_pos.data() + problem.pos.size());
  if (problem.weighted) outcome.grad_weights.assign(grad_weights.data(), grad_weights.data() + problem.pos.size());
  return outcome;
}

bool Near(double actual, double expected, double tolerance) { return std::fabs(actual - expected) <= tolerance; }

template <typename T>
void CheckAgainst(const Outcome<T>& outcome, const Solution& solution, const Problem& problem) {
  const double epsilon = sizeof(T) == 8 ? 1e-13 : 5e-5;
  const double slope = std::fabs(problem.smooth) * 2 / static_cast<double>(problem.num_rows);
  FASTNEG_CHECK(Near(outcome.loss, solution.loss, epsilon * std::max(1.0, solution.loss)));
  for (size_t i = 0; i < outcome.grad_pos.size(); ++i) {
    FASTNEG_CHECK(Near(outcome.grad_pos[i], solution.grad_pos[i], epsilon * slope));
  }
  for (size_t i = 0; i < outcome.grad_neg.size(); ++i) {
    FASTNEG_CHECK(Near(outcome.grad_neg[i], solution.grad_neg[i], epsilon * slope));
  }
  for (size_t i = 0; i < outcome.grad_weights.size(); ++i) {
    FASTNEG_CHECK(Near(outcome.grad_weights[i], solution.grad_weights[i], epsilon * std::max(1.0, solution.loss)));
  }
  for (int s = 0; s < 3; ++s) {
    FASTNEG_CHECK(
        Near(outcome.grad_scalars[s], solution.grad_scalars[s], epsilon * std::max(10.0, std::fabs(problem.smooth))));
  }
}

template <typename T>
void CheckValues() {
  constexpr int64_t kSizes[][2] = {{1, 1},   {17, 1},   {9, 2},    {35, 3},   {16, 4},   {50, 5},  {33, 7},
                                   {64, 8},  {21, 9},   {40, 13},  {31, 16},  {300, 17}, {18, 31}, {17, 64},
                                   {5, 100}, {16, 256}, {19, 300}, {3, 4096}, {2, 5001}, {600, 6}};
  for (const auto& size : kSizes) {
    for (int variant = 0; variant < 6; ++variant) {
      const Problem problem = MakeProblem(size[0], size[1], variant, sizeof(T) == 8);
      const Outcome<T> outcome = Run<T>(problem, 1, false);
      CheckAgainst(outcome, Solve(problem), problem);
      FASTNEG_CHECK(outcome == Run<T>(problem, 3, false));
      FASTNEG_CHECK(outcome == Run<T>(problem, 2, true));
    }
  }
}

void CheckStatuses() {
  const Problem problem = MakeProblem(4, 3, 1, false);
  Values<float> pos(problem.pos), neg(problem.neg), grad(problem.neg.size());
  alignas(64) char workspace[4096];
  float loss;
  SvSoftmaxArgs good = ArgsOf<float>(problem);
  good.pos_score = pos.data();
  good.neg_scores = neg.data();
  good.loss = &loss;
  good.workspace = workspace;
  good.workspace_bytes = sizeof(workspace);
  const auto status = [&](void (*change)(SvSoftmaxArgs*)) {
    SvSoftmaxArgs args = good;
    change(&args);
    return SvSoftmax(args);
  };
  FASTNEG_CHECK(SvSoftmax(good) == Status::kOk);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->num_rows = -1; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->num_negatives = -1; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->num_rows = int64_t{1} << 62; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->num_rows = a->num_negatives = int64_t{1} << 40; }) ==
                Status::kInvalidSize);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->dtype = DType::kInt32; }) == Status::kUnsupportedDType);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->loss = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->pos_score = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->neg_scores = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->grad_pos = a->loss; }) == Status::kNullPointer);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->grad_scalars = a->loss; }) == Status::kNullPointer);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->workspace = nullptr; }) == Status::kWorkspaceTooSmall);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) { a->workspace_bytes = 8; }) == Status::kWorkspaceTooSmall);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) {
                  a->num_rows = 0;
                  a->pos_score = nullptr;
                }) == Status::kOk);
  FASTNEG_CHECK(loss == 0);
  FASTNEG_CHECK(status([](SvSoftmaxArgs* a) {
                  a->num_negatives = 0;
                  a->neg_scores = nullptr;
                }) == Status::kOk);
  FASTNEG_CHECK(loss == 0);
}

}  // namespace
}  // namespace fastneg

int main() {
  using namespace fastneg;
  for (const char* const* isa = AvailableIsas(); *isa != nullptr; ++isa) {
    FASTNEG_CHECK(SetIsa(*isa));
    CheckValues<float>();
    CheckValues<double>();
    CheckStatuses();
    std::printf("%s: as it should be\n", *isa);
  }
  return 0;
}
