// SampledRows and SampledSoftmax on every instruction set that the machine has: values against a naive solution in
// double, the same bits for every number of threads, and a status for every bad argument. Buffers have exactly the size
// that api.h names, so that the sanitizers see the smallest step outside.
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
  int64_t batch_size = 0, num_sampled = 0, dim = 0, num_classes = 0, num_true = 0;
  bool with_biases = false, remove_hits = false;
  std::vector<float> table, biases, inputs, true_count, sampled_count, row_weights;
  std::vector<int64_t> labels, sampled;
};

Problem MakeProblem(int64_t batch_size, int64_t num_sampled, int64_t dim, int64_t num_classes, int64_t num_true,
                    int variant) {
  Problem problem;
  problem.batch_size = batch_size;
  problem.num_sampled = num_sampled;
  problem.dim = dim;
  problem.num_classes = num_classes;
  problem.num_true = num_true;
  problem.with_biases = (variant & 1) != 0;
  problem.remove_hits = (variant & 2) != 0;
  std::mt19937 random(static_cast<unsigned>(batch_size * 7 + num_sampled));
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>* values, int64_t size) {
    for (int64_t i = 0; i < size; ++i) values->push_back(0.5f * normal(random));
  };
  fill(&problem.table, num_classes * dim);
  fill(&problem.biases, num_classes);
  fill(&problem.inputs, batch_size * dim);
  fill(&problem.row_weights, batch_size);
  for (int64_t i = 0; i < batch_size * num_true; ++i) {
    problem.true_count.push_back(static_cast<float>(random() % 100 + 1) / 100.0f);
    problem.labels.push_back(static_cast<int64_t>(random() % static_cast<unsigned>(num_classes)));
  }
  for (int64_t s = 0; s < num_sampled; ++s) {
    problem.sampled_count.push_back(static_cast<float>(random() % 100 + 1) / 100.0f);
    problem.sampled.push_back(static_cast<int64_t>(random() % static_cast<unsigned>(num_classes)));  // Repeats too.
  }
  return problem;
}

struct Solution {
  std::vector<double> loss, grad_inputs, grad_table, grad_biases;
};

Solution Solve(const Problem& p) {
  Solution solution;
  solution.grad_inputs.assign(p.inputs.size(), 0.0);
  solution.grad_table.assign(p.table.size(), 0.0);
  solution.grad_biases.assign(p.biases.size(), 0.0);
  for (int64_t i = 0; i < p.batch_size; ++i) {
    std::vector<int64_t> ids;
    std::vector<double> logits;
    const auto add = [&](int64_t id, float count) {
      double logit = (p.with_biases ? p.biases[id] : 0.0) - std::log(static_cast<double>(count));
      for (int64_t d = 0; d < p.dim; ++d) {
        logit += static_cast<double>(p.inputs[i * p.dim + d]) * p.table[id * p.dim + d];
      }
      ids.push_back(id);
      logits.push_back(logit);
    };
    for (int64_t t = 0; t < p.num_true; ++t) add(p.labels[i * p.num_true + t], p.true_count[i * p.num_true + t]);
    for (int64_t s = 0; s < p.num_sampled; ++s) {
      const auto begin = p.labels.begin() + i * p.num_true, end = begin + p.num_true;
      const bool last = std::find(p.sampled.begin() + s + 1, p.sampled.end(), p.sampled[s]) == p.sampled.end();
      const bool hit = last && std::find(begin, end, p.sampled[s]) != end;
      if (!hit || !p.remove_hits) add(p.sampled[s], p.sampled_count[s]);
    }
    const double highest = *std::max_element(logits.begin(), logits.end());
    double sum = 0.0, mean = 0.0;
    for (double logit : logits) sum += std::exp(logit - highest);
    for (int64_t t = 0; t < p.num_true; ++t) mean += (logits[t] - highest) / static_cast<double>(p.num_true);
    solution.loss.push_back(std::log(sum) - mean);
    for (size_t c = 0; c < ids.size(); ++c) {
      const bool is_true = static_cast<int64_t>(c) < p.num_true;
      const double target = is_true ? 1.0 / static_cast<double>(p.num_true) : 0.0;
      const double grad = p.row_weights[i] * (std::exp(logits[c] - highest) / sum - target);
      solution.grad_biases[ids[c]] += grad;
      for (int64_t d = 0; d < p.dim; ++d) {
        solution.grad_inputs[i * p.dim + d] += grad * p.table[ids[c] * p.dim + d];
        solution.grad_table[ids[c] * p.dim + d] += grad * p.inputs[i * p.dim + d];
      }
    }
  }
  return solution;
}

// `num_bytes` of memory aligned to 64 bytes that end where the allocation ends.
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

// The distinct rows of a problem, gathered.
struct Rows {
  std::vector<int64_t> ids;
  std::vector<int32_t> label_rows, sampled_rows;
  std::vector<float> rows, biases;
};

Rows Gather(const Problem& p) {
  Rows rows;
  rows.ids.resize(p.labels.size() + p.sampled.size());
  rows.label_rows.resize(p.labels.size());
  rows.sampled_rows.resize(p.sampled.size());
  int64_t num_rows = 0;
  SampledRowsArgs args;
  args.num_labels = static_cast<int64_t>(p.labels.size());
  args.num_sampled = p.num_sampled;
  args.num_classes = p.num_classes;
  args.labels = p.labels.data();
  args.sampled = p.sampled.data();
  args.ids = rows.ids.data();
  args.label_rows = rows.label_rows.data();
  args.sampled_rows = rows.sampled_rows.data();
  args.num_rows = &num_rows;
  args.workspace_bytes = SampledRowsWorkspaceBytes(args);
  Buffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  FASTNEG_CHECK(SampledRows(args) == Status::kOk);
  rows.ids.resize(static_cast<size_t>(num_rows));
  std::vector<int64_t> sorted = rows.ids;
  std::sort(sorted.begin(), sorted.end());
  FASTNEG_CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
  for (size_t i = 0; i < p.labels.size(); ++i) FASTNEG_CHECK(rows.ids[rows.label_rows[i]] == p.labels[i]);
  for (size_t s = 0; s < p.sampled.size(); ++s) FASTNEG_CHECK(rows.ids[rows.sampled_rows[s]] == p.sampled[s]);
  for (int64_t id : rows.ids) {
    rows.rows.insert(rows.rows.end(), p.table.begin() + id * p.dim, p.table.begin() + (id + 1) * p.dim);
    rows.biases.push_back(p.biases[id]);
  }
  return rows;
}

SampledSoftmaxArgs Arguments(const Problem& p, const Rows& rows) {
  SampledSoftmaxArgs args;
  args.batch_size = p.batch_size;
  args.embedding_dim = p.dim;
  args.num_true = p.num_true;
  args.num_sampled = p.num_sampled;
  args.num_rows = static_cast<int64_t>(rows.ids.size());
  args.inputs = p.inputs.data();
  args.rows = rows.rows.data();
  args.input_row_stride = p.dim;
  args.row_stride = p.dim;
  if (p.with_biases) args.biases = rows.biases.data();
  args.label_rows = rows.label_rows.data();
  args.sampled_rows = rows.sampled_rows.data();
  args.true_expected_count = p.true_count.data();
  args.sampled_expected_count = p.sampled_count.data();
  args.remove_accidental_hits = p.remove_hits;
  args.row_weights = p.row_weights.data();
  return args;
}

Status Run(SampledSoftmaxArgs args, int num_threads) {
  args.executor = PoolExecutor(num_threads);
  args.workspace_bytes = SampledSoftmaxWorkspaceBytes(args);
  Buffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  return SampledSoftmax(args);
}

void CheckNear(const std::vector<float>& actual, const std::vector<double>& truth) {
  FASTNEG_CHECK(actual.size() == truth.size());
  double largest = 1e-3;
  for (double value : truth) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < truth.size(); ++i) FASTNEG_CHECK(std::fabs(actual[i] - truth[i]) <= 2e-5 * largest);
}

void TestValues(const Problem& problem) {
  const Rows rows = Gather(problem);
  const Solution truth = Solve(problem);
  std::vector<float> loss(problem.batch_size), grad_inputs(problem.inputs.size()), grad_rows(rows.rows.size());
  std::vector<float> grad_biases(rows.ids.size());
  SampledSoftmaxArgs args = Arguments(problem, rows);
  args.loss = loss.data();
  FASTNEG_CHECK(Run(args, 2) == Status::kOk);
  CheckNear(loss, truth.loss);

  args.grad_inputs = grad_inputs.data();
  args.grad_rows = grad_rows.data();
  if (problem.with_biases) args.grad_biases = grad_biases.data();
  FASTNEG_CHECK(Run(args, 1) == Status::kOk);
  CheckNear(loss, truth.loss);
  CheckNear(grad_inputs, truth.grad_inputs);
  std::vector<double> expected_rows, expected_biases;
  for (int64_t id : rows.ids) {
    for (int64_t d = 0; d < problem.dim; ++d) expected_rows.push_back(truth.grad_table[id * problem.dim + d]);
    expected_biases.push_back(truth.grad_biases[id]);
  }
  CheckNear(grad_rows, expected_rows);
  if (problem.with_biases) CheckNear(grad_biases, expected_biases);

  const std::vector<float> first[] = {loss, grad_inputs, grad_rows, grad_biases};
  for (int num_threads : {2, 8}) {
    FASTNEG_CHECK(Run(args, num_threads) == Status::kOk);
    FASTNEG_CHECK(loss == first[0] && grad_inputs == first[1] && grad_rows == first[2] && grad_biases == first[3]);
  }
  // One kind of gradient without the other, as a second pass over the same rows needs it.
  args.grad_inputs = nullptr;
  args.loss = nullptr;
  FASTNEG_CHECK(Run(args, 2) == Status::kOk);
  FASTNEG_CHECK(grad_rows == first[2]);
}

void TestManyShapes() {
  int variant = 0;
  constexpr int64_t kShapes[][5] = {{1, 1, 1, 1, 1},       {2, 3, 5, 4, 2},        {17, 16, 8, 40, 1},
                                    {33, 70, 50, 90, 3},   {64, 64, 64, 300, 1},   {130, 5, 31, 100, 2},
                                    {600, 65, 130, 50, 1}, {150, 1100, 17, 700, 1}};
  for (const auto& s : kShapes) {
    for (int repeat = 0; repeat < 2; ++repeat) {
      TestValues(MakeProblem(s[0], s[1], s[2], s[3], s[4], variant));
      variant = (variant + 3) % 4;
    }
  }
}

// Rows of weight 0 may hold anything: an input, a count or a label that makes them NaN leaves all gradients as they
// are.
void TestRowsOfWeightZero(int64_t num_true) {
  constexpr int64_t kBatch = 150, kDim = 21, kClasses = 400;
  Problem problem = MakeProblem(kBatch, 130, kDim, kClasses, num_true, 3);
  const int64_t unused = kClasses - 1, hit = problem.sampled.back();
  for (int64_t& id : problem.sampled) id = id == unused ? 0 : id;
  for (int64_t i = 0; i < kBatch; ++i) {
    const bool off = i % 3 == 1;
    if (off) problem.row_weights[i] = 0;
    for (int64_t t = 0; t < num_true; ++t) {
      int64_t& label = problem.labels[i * num_true + t];
      if (label == unused || label == hit) label = 1;
    }
    problem.labels[i * num_true] = off ? problem.labels[i * num_true] : hit;
  }
  problem.labels[4 * num_true] = unused;
  const Solution truth = Solve(problem);

  for (int64_t d = 0; d < kDim; ++d) problem.inputs[1 * kDim + d] = NAN;
  problem.inputs[(kBatch - 2) * kDim] = HUGE_VALF;
  problem.true_count[7 * num_true] = 0;
  problem.table[unused * kDim + 5] = NAN;
  problem.sampled_count.back() = 0;  // A hit of all rows with a weight.
  const Rows rows = Gather(problem);
  std::vector<float> grad_inputs(problem.inputs.size()), grad_rows(rows.rows.size()), grad_biases(rows.ids.size());
  SampledSoftmaxArgs args = Arguments(problem, rows);
  args.grad_inputs = grad_inputs.data();
  args.grad_rows = grad_rows.data();
  args.grad_biases = grad_biases.data();
  FASTNEG_CHECK(Run(args, 2) == Status::kOk);
  CheckNear(grad_inputs, truth.grad_inputs);
  std::vector<double> expected_rows, expected_biases;
  for (int64_t id : rows.ids) {
    for (int64_t d = 0; d < kDim; ++d) expected_rows.push_back(truth.grad_table[id * kDim + d]);
    expected_biases.push_back(truth.grad_biases[id]);
  }
  CheckNear(grad_rows, expected_rows);
  CheckNear(grad_biases, expected_biases);
}

void TestBadArguments() {
  const Problem problem = MakeProblem(10, 6, 4, 20, 2, 3);
  Rows rows = Gather(problem);
  std::vector<float> loss(10), grad_rows(rows.rows.size()), grad_biases(rows.ids.size());
  using Args = SampledSoftmaxArgs;
  const auto status_after = [&](auto change) {
    Args args = Arguments(problem, rows);
    args.loss = loss.data();
    change(&args);
    return Run(args, 1);
  };
  FASTNEG_CHECK(status_after([](Args*) {}) == Status::kOk);
  FASTNEG_CHECK(status_after([](Args* a) { a->batch_size = -1; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->num_sampled = 0; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->num_true = 0; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->num_true = int64_t{1} << 30; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->embedding_dim = -1; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->embedding_dim = INT64_MAX; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->row_stride = 3; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->input_row_stride = 3; }) == Status::kInvalidSize);
  FASTNEG_CHECK(status_after([](Args* a) { a->dtype = DType::kInt32; }) == Status::kUnsupportedDType);
  FASTNEG_CHECK(status_after([](Args* a) { a->inputs = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->rows = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->label_rows = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([](Args* a) { a->sampled_expected_count = nullptr; }) == Status::kNullPointer);
  FASTNEG_CHECK(status_after([&](Args* a) { a->grad_biases = grad_biases.data(); }) == Status::kNullPointer);
  int64_t index = -1;
  const auto few_rows = [&](Args* a) {
    a->num_rows = 1;
    a->error_index = &index;
  };
  FASTNEG_CHECK(status_after(few_rows) == Status::kIdOutOfRange);
  FASTNEG_CHECK(index >= 0);
  rows.sampled_rows[5] = -1;
  FASTNEG_CHECK(status_after([&](Args* a) { a->error_index = &index; }) == Status::kIdOutOfRange);
  FASTNEG_CHECK(index == 25);

  Args args = Arguments(problem, rows);
  args.loss = loss.data();
  rows.sampled_rows[5] = 0;
  args.workspace_bytes = SampledSoftmaxWorkspaceBytes(args) - 1;
  Buffer workspace(args.workspace_bytes);
  args.workspace = workspace.data();
  FASTNEG_CHECK(SampledSoftmax(args) == Status::kWorkspaceTooSmall);
}

void TestBadIds() {
  const int64_t labels[] = {3, 4}, sampled[] = {0, 5};
  int64_t ids[4], num_rows = 0, index = -1;
  int32_t label_rows[2], sampled_rows[2];
  SampledRowsArgs args;
  args.num_labels = args.num_sampled = 2;
  args.num_classes = 5;
  args.labels = labels;
  args.sampled = sampled;
  args.ids = ids;
  args.label_rows = label_rows;
  args.sampled_rows = sampled_rows;
  args.num_rows = &num_rows;
  args.error_index = &index;
  FASTNEG_CHECK(SampledRows(args) == Status::kIdOutOfRange && index == 3);
  args.num_classes = 4;
  FASTNEG_CHECK(SampledRows(args) == Status::kIdOutOfRange && index == 1);
  args.num_classes = 6;
  FASTNEG_CHECK(SampledRows(args) == Status::kWorkspaceTooSmall);
  args.num_labels = int64_t{1} << 31;
  FASTNEG_CHECK(SampledRows(args) == Status::kInvalidSize);
  FASTNEG_CHECK(SampledRowsWorkspaceBytes(args) == 0);
}

// 1500 rows of five bytes, on one thread and on three, in the order of tasks that comes about.
void TestGatherRows() {
  constexpr int64_t kRows = 700, kIds = 1500, kBytes = 5;
  std::vector<char> table(kRows * kBytes), rows(kIds * kBytes);
  std::vector<int64_t> ids(kIds);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<char>(i * 7 % 251);
  for (int64_t i = 0; i < kIds; ++i) ids[i] = i * i % kRows;
  int64_t index = -1;
  GatherRowsArgs args;
  args.num_ids = kIds;
  args.table_rows = kRows;
  args.row_bytes = kBytes;
  args.table = table.data();
  args.ids = ids.data();
  args.rows = rows.data();
  args.error_index = &index;
  for (int threads : {1, 3}) {
    std::fill(rows.begin(), rows.end(), 0);
    args.executor = PoolExecutor(threads);
    FASTNEG_CHECK(GatherRows(args) == Status::kOk);
    for (int64_t i = 0; i < kIds * kBytes; ++i) FASTNEG_CHECK(rows[i] == table[ids[i / kBytes] * kBytes + i % kBytes]);
  }
  ids[1300] = kRows;
  FASTNEG_CHECK(GatherRows(args) == Status::kIdOutOfRange && index == 1300);
  ids[4] = -1;
  FASTNEG_CHECK(GatherRows(args) == Status::kIdOutOfRange && index == 4);
  args.table = nullptr;
  FASTNEG_CHECK(GatherRows(args) == Status::kNullPointer);
  args.num_ids = -1;
  FASTNEG_CHECK(GatherRows(args) == Status::kInvalidSize);
  args = {};
  FASTNEG_CHECK(GatherRows(args) == Status::kOk);
}

void TestEmptyBatch() {
  SampledSoftmaxArgs args;
  float grad_rows[6] = {1, 1, 1, 1, 1, 1}, grad_biases[3] = {1, 1, 1};
  args.num_true = 1;
  args.num_sampled = 3;
  args.num_rows = 3;
  args.embedding_dim = args.row_stride = 2;
  args.grad_rows = grad_rows;
  args.grad_biases = grad_biases;
  FASTNEG_CHECK(SampledSoftmaxWorkspaceBytes(args) == 0);
  FASTNEG_CHECK(SampledSoftmax(args) == Status::kOk);
  for (float grad : grad_rows) FASTNEG_CHECK(grad == 0);
  for (float grad : grad_biases) FASTNEG_CHECK(grad == 0);
}

}  // namespace
}  // namespace fastneg

int main() {
  using namespace fastneg;
  TestBadIds();
  TestGatherRows();
  for (const char* const* isa = AvailableIsas(); *isa != nullptr; ++isa) {
    std::printf("%s\n", *isa);
    FASTNEG_CHECK(SetIsa(*isa));
    TestManyShapes();
    TestRowsOfWeightZero(1);
    TestRowsOfWeightZero(2);
    TestBadArguments();
    TestEmptyBatch();
  }
}
