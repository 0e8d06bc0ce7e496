// PairwiseLogistic on every instruction set that the machine has: values against all pairs one by one, the same bits
// for every number of threads, and a status for every bad argument. All buffers have exactly the size that api.h names
// and the least alignment that it allows, so that the sanitizers see the smallest step outside.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/api.h"
#include "tests/core/check.h"

namespace fastneg {
namespace {

// How labels, logits and sessions come about.
struct Case {
  int64_t batch_size;
  int num_labels;  // 0: all different.
  int num_sessions;
  bool weighted;
  double scale;
};

template <typename T>
struct Problem {
  std::vector<T> logits, weights;
  std::vector<int32_t> labels;
  std::vector<int64_t> session_ids;
  double margin = 0.25, temperature = 0.75;

  explicit Problem(const Case& test) {
    std::mt19937_64 random(static_cast<uint64_t>(test.batch_size * 31 + test.num_labels));
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < test.batch_size; ++i) {
      logits.push_back(static_cast<T>(test.scale * normal(random)));
      labels.push_back(test.num_labels == 0 ? static_cast<int32_t>(i * 7919 % 100'003 - 50'000)
                                            : static_cast<int32_t>(random() % static_cast<uint64_t>(test.num_labels)));
      if (test.num_sessions > 0) {
        // Negative, large and in no order.
        const uint64_t session = random() % static_cast<uint64_t>(test.num_sessions);
        session_ids.push_back(static_cast<int64_t>(session * 0x9E3779B97F4A7C15u));
      }
      if (test.weighted) weights.push_back(random() % 4 == 0 ? T(0) : static_cast<T>(normal(random) + 1));
    }
  }

  size_t size() const { return logits.size(); }
};

template <typename T>
struct Results {
  T loss = 77, grad_scalars[2] = {77, 77};
  std::vector<T> grad_logits, grad_weights;

  bool operator==(const Results& other) const {
    return std::memcmp(&loss, &other.loss, sizeof(T)) == 0 &&
           std::memcmp(grad_scalars, other.grad_scalars, sizeof(grad_scalars)) == 0 &&
           grad_logits == other.grad_logits && grad_weights == other.grad_weights;
  }
};

template <typename T>
Results<T> Solve(const Problem<T>& problem, int num_threads, bool with_grad) {
  Results<T> results;
  PairwiseLogisticArgs args;
  args.batch_size = static_cast<int64_t>(problem.size());
  args.dtype = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
  args.logits = problem.logits.data();
  args.label_dtype = DType::kInt32;
  args.labels = problem.labels.data();
  if (!problem.session_ids.empty()) args.session_ids = problem.session_ids.data();
  if (!problem.weights.empty()) args.weights = problem.weights.data();
  args.margin = problem.margin;
  args.temperature = problem.temperature;
  args.loss = &results.loss;
  if (with_grad) {
    results.grad_logits.assign(problem.size(), T(77));
    args.grad_logits = results.grad_logits.data();
    args.grad_scalars = results.grad_scalars;
    if (!problem.weights.empty()) {
      results.grad_weights.assign(problem.size(), T(77));
      args.grad_weights = results.grad_weights.data();
    }
  }
  args.workspace_bytes = PairwiseLogisticWorkspaceBytes(args);
  FASTNEG_CHECK(args.workspace_bytes > 0);
  FASTNEG_CHECK(posix_memalign(&args.workspace, 64, args.workspace_bytes) == 0);
  std::memset(args.workspace, 0xA5, args.workspace_bytes);
  if (num_threads > 0) args.executor = PoolExecutor(num_threads);
  FASTNEG_CHECK(PairwiseLogistic(args) == Status::kOk);
  std::free(args.workspace);
  return results;
}

struct Truth {
  double loss = 0, grad_scalars[2] = {};
  std::vector<double> grad_logits, grad_weights;
};

template <typename T>
Truth AllPairs(const Problem<T>& problem) {
  const size_t size = problem.size();
  Truth truth;
  truth.grad_logits.assign(size, 0);
  truth.grad_weights.assign(size, 0);
  double count = 0;
  for (size_t i = 0; i < size; ++i) {
    const double weight = problem.weights.empty() ? 1.0 : static_cast<double>(problem.weights[i]);
    for (size_t j = 0; j < size; ++j) {
      if (problem.labels[i] <= problem.labels[j]) continue;
      if (!problem.session_ids.empty() && problem.session_ids[i] != problem.session_ids[j]) continue;
      const double difference = static_cast<double>(problem.logits[i]) - static_cast<double>(problem.logits[j]);
      const double u = problem.margin - difference / problem.temperature;
      const double small = std::exp(-std::fabs(u));
      const double loss = std::fmax(u, 0.0) + std::log1p(small);
      const double slope = weight * (u > 0 ? 1.0 : small) / (1.0 + small);
      count += weight != 0;
      truth.loss += weight * loss;
      truth.grad_weights[i] += loss;
      truth.grad_logits[i] -= slope / problem.temperature;
      truth.grad_logits[j] += slope / problem.temperature;
      truth.grad_scalars[0] += slope;
      truth.grad_scalars[1] += slope * difference / (problem.temperature * problem.temperature);
    }
  }
  const double scale = count == 0 ? 0 : 1 / count;
  truth.loss *= scale;
  for (double& grad : truth.grad_scalars) grad *= scale;
  for (double& grad : truth.grad_logits) grad *= scale;
  for (double& grad : truth.grad_weights) grad *= scale;
  return truth;
}

template <typename T>
void CheckClose(const T* values, const double* truth, size_t size, const char* name) {
  const double tolerance = sizeof(T) == 8 ? 1e-12 : 2e-6;
  double largest = 1e-30;
  for (size_t i = 0; i < size; ++i) largest = std::fmax(largest, std::fabs(truth[i]));
  for (size_t i = 0; i < size; ++i) {
    if (std::fabs(static_cast<double>(values[i]) - truth[i]) <= tolerance * largest) continue;
    std::fprintf(stderr, "%s %zu of %zu: %.9g instead of %.9g\n", name, i, size, static_cast<double>(values[i]),
                 truth[i]);
    FASTNEG_CHECK(false);
  }
}

template <typename T>
void TestValues(const Case& test) {
  const Problem<T> problem(test);
  const Truth truth = AllPairs(problem);
  const Results<T> results = Solve(problem, 0, true);
  CheckClose(&results.loss, &truth.loss, 1, "loss");
  CheckClose(results.grad_scalars, truth.grad_scalars, 2, "grad_scalars");
  CheckClose(results.grad_logits.data(), truth.grad_logits.data(), problem.size(), "grad_logits");
  if (test.weighted) CheckClose(results.grad_weights.data(), truth.grad_weights.data(), problem.size(), "grad_weights");
  FASTNEG_CHECK(Solve(problem, 2, false).loss == results.loss);
  for (int num_threads : {1, 2, 8}) FASTNEG_CHECK(Solve(problem, num_threads, true) == results);
}

void TestManyCases() {
  constexpr int64_t kSizes[] = {1, 2, 3, 15, 16, 17, 100, 255, 256, 257, 513, 900};
  int variant = 0;
  for (int64_t size : kSizes) {
    for (int num_labels : {0, 2, 7}) {
      const double scales[] = {1.0, 30.0, 1e6};
      const int sessions[] = {0, 2, 40};
      const Case test = {size, num_labels, sessions[variant % 3], variant % 2 == 0, scales[variant / 3 % 3]};
      TestValues<float>(test);
      TestValues<double>(test);
      variant += 5;
    }
  }
  TestValues<float>({5000, 2, 0, false, 1.0});
}

void TestNotFinite() {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (double bad : {kInfinity, -kInfinity, std::nan(""), 1e300}) {
    for (int64_t size : {20, 700}) {
      Problem<double> problem({size, 3, 0, true, 1.0});
      problem.logits[5] = bad;
      problem.weights[7] = bad;
      Solve(problem, 2, true);
      problem.logits.assign(problem.size(), bad);
      Solve(problem, 2, true);
    }
  }
}

void TestBadArguments() {
  const auto status_after = [](auto change) {
    const float logits[] = {1, 2, 3}, labels[] = {0, 1, 0};
    float loss;
    PairwiseLogisticArgs args;
    args.batch_size = 3;
    args.logits = logits;
    args.labels = labels;
    args.loss = &loss;
    args.workspace_bytes = PairwiseLogisticWorkspaceBytes(args);
    void* const workspace = std::aligned_alloc(64, (args.workspace_bytes + 63) / 64 * 64);
    args.workspace = workspace;
    change(&args);
    const Status status = PairwiseLogistic(args);
    std::free(workspace);
    return status;
  };
  using Args = PairwiseLogisticArgs;
  FASTNEG_CHECK(status_after([](Args*) {}) == Status::kOk);
  FASTNEG_CHECK(status_after([](Args* a) { a->batch_size = -1; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->batch_size = int64_t{1} << 31; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->dtype = DType::kInt32; }) == Status::kUnsupportedDType);
  FASTNEG_CHECK(status_after([](Args* a) { a->label_dtype = static_cast<DType>(99); }) == Status::kUnsupportedDType);
  FASTNEG_CHECK(status_after([](Args* a) { a->temperature = 0; }) == Status::kZeroTemperature);
  FASTNEG_CHECK(status_after([](Args* a) { a->temperature = -0.0; }) == Status::kZeroTemperature);
  FASTNEG_CHECK(status_after([](Args* a) { a->logits = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->labels = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->loss = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->workspace = nullptr; }) == Status::kWorkspaceTooSmall);
  FASTNEG_CHECK(status_after([](Args* a) { --a->workspace_bytes; }) == Status::kWorkspaceTooSmall);
}

void TestNothingToPair() {
  float loss = 1, grad_scalars[2] = {1, 1};
  PairwiseLogisticArgs args;
  args.loss = &loss;
  args.grad_scalars = grad_scalars;
  FASTNEG_CHECK(PairwiseLogisticWorkspaceBytes(args) == 0);
  FASTNEG_CHECK(PairwiseLogistic(args) == Status::kOk);
  FASTNEG_CHECK(loss == 0 && grad_scalars[0] == 0 && grad_scalars[1] == 0);

  Problem<float> problem({300, 2, 0, true, 1.0});
  problem.weights.assign(300, 0.0f);
  problem.logits.assign(300, std::nanf(""));
  const Results<float> results = Solve(problem, 2, true);
  FASTNEG_CHECK(results.loss == 0 && results.grad_scalars[0] == 0 && results.grad_scalars[1] == 0);
  for (float grad : results.grad_logits) FASTNEG_CHECK(grad == 0);
  for (float grad : results.grad_weights) FASTNEG_CHECK(grad == 0);
}

}  // namespace
}  // namespace fastneg

int main() {
  using namespace fastneg;
  for (const char* const* isa = AvailableIsas(); *isa != nullptr; ++isa) {
    std::printf("%s\n", *isa);
    FASTNEG_CHECK(SetIsa(*isa));
    TestManyCases();
    TestNotFinite();
    TestBadArguments();
    TestNothingToPair();
  }
}
